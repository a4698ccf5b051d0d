/** The administrators' pages: who is signed in, whether the key may see them, and which of them is shown. */

import { Problem, administration } from "./admin-api.js";
import { button, el } from "./dom.js";
import { Notice } from "./notice.js";
import { OperationsView } from "./operations.js";
import { signInView } from "./signin.js";
import { credentials, forgetWritten } from "./storage.js";
import { themeButton } from "./theme.js";
import { TurnView } from "./turn-report.js";
import { UsageView } from "./usage.js";

const TURN_PATH = /^\/operations\/turns\/([0-9A-Za-z-]{1,64})$/;
const CHAT = ["/", "Chat"];
const PLACES = [CHAT, ["/usage", "Usage"], ["/operations", "Operations"]];

class AdministrationPage {
  #root;
  #view = null;
  #key = null;

  constructor(root) {
    this.#root = root;
  }

  start() {
    const key = credentials.load();
    if (key === null) this.#askForKey();
    else this.#enter(key);
  }

  #askForKey(reason = "") {
    this.#leave();
    this.#key = null;
    const view = signInView({ onSignedIn: (key) => this.#enter(key), reason });
    this.#root.className = "";
    this.#root.replaceChildren(view.node);
    view.open();
  }

  #signOut(reason = "") {
    credentials.forget();
    if (reason === "") forgetWritten();
    this.#askForKey(reason);
  }

  async #enter(key) {
    this.#leave();
    this.#key = key;
    const api = administration(key, () => {
      if (this.#key === key) this.#signOut("The key is no longer valid. Sign in again.");
    });
    try {
      // The cheapest call that only administrators may make.
      const budget = await api.budget();
      if (this.#key === key) this.#show(this.#viewOf(api, budget), PLACES);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (this.#key !== key) return; // signed out meanwhile
      this.#show(problem.status === 403 ? this.#forbidden() : this.#failed(problem, key));
    }
  }

  #viewOf(api, budget) {
    const turnId = TURN_PATH.exec(window.location.pathname)?.[1] ?? null;
    if (turnId !== null) return new TurnView(api, turnId);
    return window.location.pathname === "/usage" ? new UsageView(api, budget) : new OperationsView(api);
  }

  #show(view, places = [CHAT]) {
    document.title = `${view.title} · Turnkeeper`;
    this.#view = view;
    this.#root.className = "administration";
    this.#root.replaceChildren(
      el("a", { class: "skip", href: "#content" }, "Skip to the content"),
      this.#head(places),
      el("main", { id: "content", tabindex: "-1" }, el("h1", {}, view.title), view.node),
    );
    view.open();
  }

  #head(places) {
    const here = (path) => (path === "/" ? false : window.location.pathname.startsWith(path));
    const links = places.map(([path, name]) =>
      el("li", {}, el("a", { href: path, "aria-current": here(path) ? "page" : null }, name)),
    );
    return el(
      "header",
      { class: "top" },
      el("img", { src: "/page/icon.svg", alt: "", width: "24", height: "24" }),
      el("span", { class: "brand" }, "Turnkeeper"),
      el("nav", { "aria-label": "Pages" }, el("ul", {}, links)),
      themeButton(),
      button("Sign out", "leave", () => this.#signOut(), { quiet: true }),
    );
  }

  #forbidden() {
    const node = el(
      "div",
      { class: "card lone" },
      el("p", {}, "This page needs a key of the role ", el("code", {}, "admin"), ". Yours is good for the chat."),
      el(
        "p",
        { class: "choices" },
        button("Use another key", null, () => this.#signOut()),
        el("a", { class: "as-button", href: "/" }, "Go to the chat"),
      ),
    );
    return { title: "For administrators", node, open: () => undefined, close: () => undefined };
  }

  #failed(problem, key) {
    const notice = new Notice();
    notice.show(problem, { name: "Try again", run: () => this.#enter(key) });
    return { title: "Not now", node: notice.node, open: () => undefined, close: () => undefined };
  }

  #leave() {
    this.#view?.close();
    this.#view = null;
  }
}

new AdministrationPage(document.getElementById("app")).start();
