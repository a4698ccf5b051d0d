/** Shows an empty chat. The first message makes the session; the user is asked for where the key can name any. */

import { Problem } from "./api.js";
import { Composer } from "./composer.js";
import { el } from "./dom.js";
import { Notice } from "./notice.js";
import { credentials, outbox } from "./storage.js";

const wantsUser = (problem) =>
  problem.code === "validation_failed" && problem.errors.some(({ pointer }) => pointer === "/user");

export class StartView {
  #app;
  #notice = new Notice();
  #composer;

  /** @param {object} app what the page offers its views */
  constructor(app) {
    this.#app = app;
    this.#composer = new Composer("new", {
      onSend: (content) => this.#send(content),
      onStop: () => undefined,
    });
    document.title = "New session · Turnkeeper";
    this.node = el(
      "main",
      { class: "chat is-new" },
      el("header", { class: "bar" }, app.menuButton(), el("div", { class: "about" }, el("h1", { tabindex: "-1" }, "New session"))),
      el(
        "div",
        { class: "scroll welcome" },
        el("img", { src: "/page/icon.svg", alt: "", width: "48", height: "48" }),
        el("h2", {}, "What would you like to know?"),
        el("p", {}, "Close this tab while an answer is being written: it goes on, and is here when you come back."),
      ),
      el("div", { class: "dock" }, app.budget.warning, this.#notice.node, this.#composer.node),
    );
  }

  open() {
    this.#composer.resume();
  }

  close() {}

  async #send(content) {
    this.#notice.clear();
    try {
      const session = await this.#create();
      if (session === null) return false;
      outbox.add(session.id, content); // the session's own view sends it, also after a reload
      this.#app.openNew(session);
      return true;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#notice.show(problem);
      return false;
    }
  }

  /** Make a session; null when the user did not say for whom. */
  async #create() {
    const known = credentials.user();
    try {
      return await this.#app.api.createSession(known === null ? {} : { user: known });
    } catch (problem) {
      if (!(problem instanceof Problem) || !wantsUser(problem) || known !== null) throw problem;
    }
    const user = await this.#app.ask("Whose session is this?", "This key may act for any user of your organization.", "User", "demo");
    if (user === null) return null;
    const session = await this.#app.api.createSession({ user });
    credentials.saveUser(user);
    return session;
  }
}
