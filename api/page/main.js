/** The page: who is signed in and which view is shown. Everything is put together here and nowhere else. */

import { Problem, connect } from "./api.js";
import { ChatView } from "./chat.js";
import { BudgetView } from "./budget.js";
import * as dialog from "./dialog.js";
import { button, el } from "./dom.js";
import { SessionsView } from "./sessions.js";
import { signInView } from "./signin.js";
import { listenForShortcuts } from "./shortcuts.js";
import { StartView } from "./start.js";
import { credentials, forgetWritten } from "./storage.js";
import { explain } from "./words.js";

const SESSION_PATH = /^#\/sessions\/([0-9A-Za-z-]{1,64})$/;

const narrow = window.matchMedia("(max-width: 46rem)"); // as in the style: the list lies over the rest

class Page {
  #root;
  #view = null;
  #sessions = null;
  #visit = 0; // a session that loads slowly must not replace the one opened after it
  #created = null; // a session made a moment ago: nothing of it needs loading

  constructor(root) {
    this.#root = root;
    this.api = null;
    this.budget = null;
    this.confirm = dialog.confirm;
    this.ask = dialog.ask;
    window.addEventListener("hashchange", () => {
      if (this.api !== null) this.#route();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.hideList();
    });
    listenForShortcuts({ search: () => this.#search(), create: () => this.#create() });
  }

  start() {
    const key = credentials.load();
    if (key === null) this.#askForKey();
    else this.#signIn(key);
  }

  /** Forget the key and, unless there is a `reason` to sign in again, all that was written here. */
  signOut(reason = "") {
    credentials.forget();
    if (reason === "") forgetWritten();
    this.api = null;
    this.budget?.close();
    this.#sessions?.close();
    this.#sessions = null;
    this.#askForKey(reason);
  }

  /** Read the list of sessions again soon. */
  sessionsChanged() {
    this.#sessions?.refresh();
  }

  /** Go to a session that was just made. */
  openNew(session) {
    this.#created = session;
    this.sessionsChanged();
    window.location.hash = `#/sessions/${session.id}`;
  }

  /** Load the open session again. */
  reopen() {
    this.#route();
  }

  menuButton() {
    return button("Sessions", "menu", () => this.#showList(true), { class: "menu", quiet: true });
  }

  /** Put the list of sessions away, where it covers the rest. */
  hideList() {
    const wasShown = this.#root.classList.contains("shows-list");
    this.#showList(false);
    if (wasShown) this.#root.querySelector(".menu")?.focus();
  }

  #search() {
    if (this.api === null) return;
    if (narrow.matches) this.#showList(true);
    this.#sessions.focusSearch();
  }

  #create() {
    if (this.api !== null) window.location.hash = "#/new";
  }

  #askForKey(reason = "") {
    this.#leave();
    this.#view = signInView({ onSignedIn: (key) => this.#signIn(key), reason });
    this.#root.className = "";
    this.#root.replaceChildren(this.#view.node);
    this.#view.open();
  }

  #signIn(key) {
    const api = connect(key, () => {
      // What an earlier key had under way may be refused late.
      if (this.api === api) this.signOut("The key is no longer valid. Sign in again; what you typed is kept.");
    });
    this.api = api;
    this.budget = new BudgetView(this.api);
    this.#sessions = new SessionsView(this);
    const veil = el("div", { class: "veil", on: { click: () => this.hideList() } });
    this.#leave();
    this.#root.className = "app";
    this.#root.replaceChildren(this.#sessions.node, veil, el("main", { class: "chat" }));
    this.#sessions.load();
    this.#route();
  }

  async #route() {
    const visit = (this.#visit += 1);
    this.#showList(false);
    const id = SESSION_PATH.exec(window.location.hash)?.[1] ?? null;
    this.#sessions.select(id);
    if (id === null) {
      this.#show(new StartView(this));
      return;
    }
    const created = this.#created?.id === id ? this.#created : null;
    this.#created = null;
    try {
      const session = created ?? (await this.api.session(id));
      if (visit === this.#visit) this.#show(new ChatView(this, session), { isNew: created !== null });
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (visit === this.#visit && this.api !== null) this.#show(this.#missing(problem));
    }
  }

  #missing(problem) {
    const { title, detail } = explain(problem);
    const again = button("Try again", null, () => this.#route(), { class: "primary" });
    const node = el(
      "main",
      { class: "chat" },
      el("header", { class: "bar" }, this.menuButton(), el("div", { class: "about" }, el("h1", {}, "Turnkeeper"))),
      el("div", { class: "scroll welcome" }, el("h2", {}, title), el("p", {}, detail), problem.status === 404 ? null : again),
    );
    return { node, open: () => undefined, close: () => undefined };
  }

  #show(view, options) {
    this.#leave();
    this.#view = view;
    this.#root.lastElementChild.replaceWith(view.node);
    view.open(options);
  }

  #leave() {
    this.#view?.close();
    this.#view = null;
  }

  #showList(isShown) {
    this.#root.classList.toggle("shows-list", isShown);
    if (isShown) this.#sessions.node.querySelector("a").focus();
  }
}

new Page(document.getElementById("app")).start();
