/** Shows an open session: its turns, its stream's state, what it cost, and where the next message is written. */

import { Problem } from "./api.js";
import { Composer } from "./composer.js";
import { ConnectionBadge } from "./connection.js";
import { Conversation } from "./conversation.js";
import { announce, el, setText } from "./dom.js";
import { ExchangeView } from "./exchange.js";
import { Following } from "./following.js";
import { tokenDetails, tokens, usd } from "./format.js";
import { Notice } from "./notice.js";
import { Outbox } from "./outbox.js";
import { sessionMenu } from "./session-menu.js";
import { outcome } from "./words.js";

const FULL = new Problem({ code: "outbox_full", title: "Too many messages wait to be sent", detail: "Discard some of them." }, 0);
const CLOSED = { closed: "This session is closed", expired: "This session has expired: start a new one" };
const ENDED = new Set(["session_closed", "session_expired"]);
const CHECK_MS = 60_000; // between two looks at whether a session that nobody uses has expired
const FRAME_MS = 250; // a tab behind others is given no frame, and is drawn and announced all the same

export class ChatView {
  #app;
  #conversation;
  #composer;
  #outbox;
  #badge;
  #notice = new Notice();
  #exchanges = new Map();
  #dirty = new Set(); // ids of turns to draw in the next frame: deltas come faster than frames
  #frame = null;
  #late = null;
  #following;
  #checkedAt = Date.now();
  #checking = null;
  #check = () => this.#checkSession();
  #parts;

  /**
   * @param {object} app what the page offers its views
   * @param {object} session the session's resource
   */
  constructor(app, session) {
    this.#app = app;
    this.#conversation = new Conversation(app.api, session, (what, detail) => this.#changed(what, detail));
    this.#composer = new Composer(session.id, {
      onSend: (content) => this.#send(content),
      onStop: () => this.#stop(this.#conversation.active),
    });
    this.#outbox = new Outbox(session.id, {
      post: (message, signal) => this.#post(message, signal),
      onRefused: (content, problem) => this.#refused(content, problem),
      onEdit: (content) => this.#composer.offer(content),
      onFocusLost: () => this.#composer.resume(),
    });
    this.#badge = new ConnectionBadge(() => this.#conversation.wake());
    this.pressed = this.pressed.bind(this);
    this.#build();
    this.#drawSession();
  }

  #build() {
    const title = el("h1", { tabindex: "-1" });
    const spent = el("span", { class: "spent" });
    const menu = sessionMenu(this.#app, {
      session: () => this.#conversation.session,
      changed: (session) => this.#sessionChanged(session),
      failed: (problem) => this.#notice.show(problem),
    });
    const log = el("div", { class: "log", role: "log", "aria-live": "off", "aria-label": "What was said" });
    const said = el("div", {}, log, this.#outbox.node);
    const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Conversation" }, said);
    this.#following = new Following(scroll, said);
    this.#parts = { title, spent, log };
    this.node = el(
      "main",
      { class: "chat" },
      el("header", { class: "bar" }, this.#app.menuButton(), el("div", { class: "about" }, title, spent), this.#badge.node, menu),
      scroll,
      el("div", { class: "dock" }, this.#following.button, this.#app.budget.warning, this.#notice.node, this.#composer.node),
    );
  }

  /** Load and follow. A draft whose sending was interrupted goes out again, with its first key. */
  async open({ isNew = false } = {}) {
    document.addEventListener("keydown", this.pressed);
    document.addEventListener("visibilitychange", this.#check);
    this.#composer.node.addEventListener("focusin", this.#check);
    this.#checking = setInterval(this.#check, CHECK_MS);
    this.#following.open();
    this.#badge.open();
    try {
      await this.#conversation.open({ isNew });
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#notice.show(problem, { name: "Try again", run: () => this.#app.reopen() });
    }
    this.#composer.resume();
    this.#outbox.resume();
  }

  close() {
    document.removeEventListener("keydown", this.pressed);
    document.removeEventListener("visibilitychange", this.#check);
    clearInterval(this.#checking);
    this.#badge.close();
    this.#outbox.close();
    this.#following.close();
    this.#drawNoMore();
    this.#conversation.close();
  }

  pressed(event) {
    const isElsewhere = event.target.closest?.(".side") || document.querySelector("dialog[open]") !== null;
    if (event.key === "Escape" && !event.isComposing && !isElsewhere) this.#stop(this.#conversation.active);
  }

  #send(content, replaces = null) {
    this.#notice.clear();
    const isTaken = this.#outbox.send(content, replaces);
    if (!isTaken) this.#notice.show(FULL);
    this.#following.toEnd();
    return isTaken;
  }

  async #post({ content, key, replaces }, signal) {
    // A rollback would take away those that wait as well: only a turn that is alone is replaced.
    const strategy = this.#conversation.place(replaces).isAlone ? "rollback" : "enqueue";
    await this.#conversation.send(content, key, strategy, signal);
    this.#app.budget.refresh();
    this.#app.sessionsChanged();
  }

  /** A message was refused for certain: it goes back to where it can be changed, unless something is written there. */
  #refused(content, problem) {
    if (ENDED.has(problem.code)) this.#reread();
    const isTaken = this.#composer.offer(content);
    if (isTaken) this.#notice.show(problem); // else it is said where the message stays
    return isTaken;
  }

  async #stop(turn) {
    if (turn === null || turn === undefined || turn.status === "stopping") return;
    announce("Stopping");
    try {
      await this.#conversation.stop(turn.id);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#notice.show(problem);
    }
  }

  async #sessionChanged(session) {
    if (session === undefined) await this.#conversation.read();
    else this.#conversation.takeSession(session);
    this.#app.sessionsChanged();
  }

  async #reread() {
    await this.#conversation.read().catch((problem) => {
      if (!(problem instanceof Problem)) throw problem;
      this.#notice.show(problem);
    });
  }

  #changed(what, detail) {
    switch (what) {
      case "session":
        this.#drawSession();
        this.#app.sessionsChanged();
        break;
      case "state":
        this.#connectionChanged(this.#conversation.streamState);
        break;
      case "accepted":
        if (this.#outbox.settle(detail)) this.#app.budget.refresh();
        break;
      case "problem":
        this.#notice.show(detail);
        break;
      case "turns":
        this.#drawTurns();
        break;
      default:
        this.#dirty.add(detail);
        for (const { id, done } of this.#conversation.turns.values()) {
          if (!done) this.#dirty.add(id); // its place in the queue may be another
        }
        this.#drawSoon();
    }
  }

  #connectionChanged(state) {
    this.#badge.update(state);
    if (state.name === "live") this.#outbox.wake();
    // It will not be tried again, so the badge alone would leave the reader waiting.
    if (state.problem !== undefined) this.#notice.show(state.problem, { name: "Try again", run: () => this.#app.reopen() });
  }

  /** A session may have expired while the page stood open: that is said before a message is written. */
  async #checkSession() {
    const { active, session } = this.#conversation;
    if (active !== null || session.status !== "active" || document.visibilityState === "hidden") return;
    if (Date.now() - this.#checkedAt < CHECK_MS) return;
    this.#checkedAt = Date.now();
    try {
      await this.#conversation.check();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem; // sending says what is wrong
    }
  }

  #drawSoon() {
    if (this.#frame !== null) return;
    this.#frame = requestAnimationFrame(() => this.#drawDirty());
    this.#late = setTimeout(() => this.#drawDirty(), FRAME_MS);
  }

  #drawNoMore() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#late);
    this.#frame = null;
  }

  #drawSession() {
    const { session } = this.#conversation;
    const { title, spent } = this.#parts;
    setText(title, session.title || "New session");
    title.title = session.title ?? "";
    title.classList.toggle("is-flagged", session.flagged === true);
    document.title = `${session.title || "New session"} · Turnkeeper`;
    const isUsed = session.turn_count > 0 && session.usage;
    setText(spent, isUsed ? `${usd(session.cost_usd)} · ${tokens(session.usage)}` : "");
    spent.title = isUsed ? `This session: ${tokenDetails(session.usage)}` : "";
    this.#drawComposer();
  }

  #drawTurns() {
    const { turns } = this.#conversation;
    for (const [id, view] of this.#exchanges) {
      if (turns.has(id)) continue;
      view.node.remove();
      this.#exchanges.delete(id);
    }
    let before = null;
    for (const turn of turns.values()) {
      const view = this.#exchangeFor(turn.id);
      const place = before === null ? this.#parts.log.firstChild : before.nextSibling;
      if (view.node !== place) this.#parts.log.insertBefore(view.node, place);
      before = view.node;
      this.#dirty.add(turn.id);
    }
    this.#drawDirty();
  }

  #exchangeFor(id) {
    let view = this.#exchanges.get(id);
    if (view === undefined) {
      view = new ExchangeView({
        onSend: (content, replaces) => this.#send(content, replaces),
        onCancel: (turnId) => this.#stop(this.#conversation.turns.get(turnId)),
        onReasoning: (turnId) => this.#conversation.readReasoning(turnId),
      });
      this.#exchanges.set(id, view);
    }
    return view;
  }

  #drawDirty() {
    this.#drawNoMore();
    for (const id of this.#dirty) {
      const turn = this.#conversation.turns.get(id);
      if (turn === undefined) continue;
      const view = this.#exchangeFor(id);
      const wasOpen = view.node.dataset.status !== undefined && view.node.querySelector(".is-streaming") !== null;
      view.update(turn, this.#conversation.exact.get(id), this.#conversation.place(id));
      if (wasOpen && turn.done) this.#announceEnd(turn);
    }
    this.#dirty.clear();
    this.#drawComposer();
  }

  #announceEnd(turn) {
    const end = outcome(turn);
    announce(end === null ? "The answer is complete." : `${end.title} ${end.detail}`);
    this.#app.budget.refresh();
  }

  #drawComposer() {
    const { active, session } = this.#conversation;
    const standing = active === null ? null : active.status === "stopping" ? "stopping" : "running";
    this.#composer.update({ standing, closed: CLOSED[session.status] ?? null });
  }
}
