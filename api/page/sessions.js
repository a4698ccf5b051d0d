/** Lists the sessions, newest activity first, and finds them by their words. */

import { Problem } from "./api.js";
import { places } from "./places.js";
import { button, el, icon, setText } from "./dom.js";
import { ago, moment } from "./format.js";
import { showShortcuts } from "./shortcuts.js";
import { themeButton } from "./theme.js";

const TYPING_MS = 250; // a search begins when typing pauses
const SETTLE_MS = 300; // several changes at once are one reload of the list
const TICK_MS = 30_000; // relative times grow stale

export class SessionsView {
  #app;
  #rows = [];
  #cursor = null;
  #words = "";
  #current = null;
  #timers = { search: null, refresh: null, tick: null };
  #request = 0; // only the newest answer is shown
  #parts;

  /** @param {object} app what the page offers its views */
  constructor(app) {
    this.#app = app;
    const search = el("input", {
      type: "search",
      placeholder: "Search",
      "aria-label": "Search sessions",
      maxlength: "200",
      on: { input: () => this.#typed() },
    });
    const list = el("ul", { class: "sessions" });
    const more = button("Load more", null, () => this.#more(), { class: "link", hidden: true });
    const note = el("p", { class: "note", role: "status", hidden: true });
    this.#parts = { search, list, more, note };
    this.node = el(
      "nav",
      { class: "side", "aria-label": "Sessions" },
      el(
        "div",
        { class: "bar" },
        el("img", { src: "/page/icon.svg", alt: "", width: "24", height: "24" }),
        el("span", { class: "brand" }, "Turnkeeper"),
        button("Close the list", "close", () => app.hideList(), { quiet: true, class: "shut" }),
      ),
      el("a", { class: "new", href: "#/new" }, icon("plus"), el("span", {}, "New session")),
      el("label", { class: "search" }, icon("search"), search),
      places(app.budget),
      el("div", { class: "rows" }, list, note, more),
      el(
        "div",
        { class: "foot" },
        app.budget.node,
        el(
          "div",
          { class: "tools" },
          themeButton(),
          button("Keyboard shortcuts", "keyboard", showShortcuts, { quiet: true }),
          button("Sign out", "leave", () => app.signOut(), { quiet: true, class: "last" }),
        ),
      ),
    );
    this.#timers.tick = setInterval(() => this.#draw(), TICK_MS);
  }

  close() {
    clearInterval(this.#timers.tick);
    clearTimeout(this.#timers.search);
    clearTimeout(this.#timers.refresh);
  }

  /** Put the cursor into the search. */
  focusSearch() {
    this.#parts.search.focus();
    this.#parts.search.select();
  }

  /** Mark the session that is open. */
  select(id) {
    this.#current = id;
    this.#draw();
  }

  /** Read the list again soon. */
  refresh() {
    this.#timers.refresh ??= setTimeout(() => {
      this.#timers.refresh = null;
      this.load();
    }, SETTLE_MS);
  }

  /** Read the list from its start, as far as it was shown. */
  async load() {
    const request = (this.#request += 1);
    await this.#guard(async () => {
      const page = this.#words
        ? await this.#app.api.searchSessions(this.#words)
        : await this.#app.api.sessions(null, Math.min(100, Math.max(20, this.#rows.length)));
      if (request !== this.#request) return;
      this.#rows = page.data;
      this.#cursor = this.#words ? null : page.next_cursor;
      this.#draw();
    });
  }

  async #more() {
    const request = (this.#request += 1);
    await this.#guard(async () => {
      const page = await this.#app.api.sessions(this.#cursor);
      if (request !== this.#request) return;
      const known = new Set(this.#rows.map(({ id }) => id));
      this.#rows.push(...page.data.filter(({ id }) => !known.has(id)));
      this.#cursor = page.next_cursor;
      this.#draw();
    });
  }

  async #guard(action) {
    try {
      await action();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#say(problem.title);
    }
  }

  #typed() {
    clearTimeout(this.#timers.search);
    this.#timers.search = setTimeout(() => {
      this.#words = this.#parts.search.value.trim();
      this.load();
    }, TYPING_MS);
  }

  #draw() {
    const { list, more } = this.#parts;
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.sessionId : null;
    list.replaceChildren(...this.#rows.map((session) => this.#row(session)));
    if (focused) list.querySelector(`[data-session-id="${CSS.escape(focused)}"]`)?.focus();
    more.hidden = !this.#cursor;
    this.#say(this.#rows.length > 0 ? "" : this.#words ? "Nothing found. Names and messages are searched." : "No sessions yet. The first message makes one.");
  }

  #row(session) {
    const isCurrent = session.id === this.#current;
    const state = session.active_turn_id ? "answering" : session.status === "active" ? "" : session.status;
    return el(
      "li",
      {},
      el(
        "a",
        {
          href: `#/sessions/${session.id}`,
          "data-session-id": session.id,
          "aria-current": isCurrent ? "page" : null,
          class: state || null,
        },
        el("span", { class: "title", dir: "auto", title: session.title }, session.title || "Untitled"),
        session.matched ? el("span", { class: "matched", dir: "auto" }, session.matched) : null,
        el(
          "span",
          { class: "when" },
          el("time", { datetime: session.last_activity_at, title: moment(session.last_activity_at) }, ago(session.last_activity_at)),
          state ? ` · ${state}` : null,
          session.flagged ? el("span", { class: "flagged" }, icon("flag"), "flagged") : null,
        ),
      ),
    );
  }

  #say(words) {
    setText(this.#parts.note, words);
    this.#parts.note.hidden = words === "";
  }
}
