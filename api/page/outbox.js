/**
 * Messages between the composer and the conversation. Each keeps its key until it is known to be accepted, so trying again, a
 * reload and a second tab make one turn of it. They go out one after another, in the order in which they were written.
 */

import { Problem } from "./api.js";
import { announce, button, el } from "./dom.js";
import { outbox } from "./storage.js";
import { Bell } from "./turnkeeper/bell.js";
import { pauseAfter } from "./turnkeeper/retry.js";
import { explain } from "./words.js";

const MOST = 20; // of one session
/** After the client's own tries of some seconds: about two minutes, for a service that starts again. */
const ROUNDS = 8;
const PAUSES = { firstPauseMs: 2_000, longestPauseMs: 30_000 };
const LONGEST_PAUSE_MS = 120_000; // a service that asks for more is not waited for
const OFFLINE_MS = 300_000; // the browser may be wrong about it

export class Outbox {
  #place;
  #owner;
  #words = new Map(); // key -> why it is tried again
  #faults = new Set(); // keys of what this page cannot send, by a fault of its own
  #sending = null; // {key, cut}: the message whose answer is awaited
  #isWorking = false;
  #back = new Bell(); // rung when there is reason to hope
  #closing = new AbortController();

  /**
   * @param {string} place the session's id
   * @param {{post: (message: {content: string, key: string, replaces: string|null}, signal: AbortSignal) => Promise<void>,
   *   onRefused: (content: string, problem: Problem) => boolean, onEdit: (content: string) => boolean,
   *   onFocusLost: () => void}} owner `onRefused` and `onEdit` say whether they took the text
   */
  constructor(place, owner) {
    this.#place = place;
    this.#owner = owner;
    this.node = el("div", { class: "outbox" });
    const { signal } = this.#closing;
    window.addEventListener("online", () => this.wake(), { signal });
    outbox.watch(place, () => this.#draw(), signal);
    this.#draw();
  }

  /** Send what was on its way when the page was left. */
  resume() {
    this.#work();
  }

  /** Be shown no more. What is on its way is sent all the same. */
  close() {
    this.#closing.abort();
  }

  /** Take a message, which may replace a turn that is under way; false when too many wait already. */
  send(content, replaces = null) {
    if (this.#kept().length >= MOST) return false;
    outbox.add(this.#place, content, replaces);
    this.#draw();
    this.#work();
    return true;
  }

  /** The connection is back: do not wait any longer. */
  wake() {
    this.#back.ring();
  }

  /** Take away the messages that are known to be turns by now, by their keys; says whether there was one. */
  settle(keys) {
    const settled = this.#kept().filter(({ key }) => keys.has(key));
    for (const { key } of settled) this.#remove(key);
    return settled.length > 0;
  }

  #kept() {
    return outbox.load(this.#place);
  }

  /** The message, unless it is gone or failed meanwhile: here, by what was read, or in another tab. */
  #waiting(key) {
    return this.#kept().find((message) => message.key === key && !message.isFailed);
  }

  /** The message whose turn it is; null while the oldest waits for the reader to decide: none goes out before it. */
  #next() {
    const [first] = this.#kept().filter(({ key }) => !this.#faults.has(key));
    return first === undefined || first.isFailed ? null : first;
  }

  async #work() {
    if (this.#isWorking) return;
    this.#isWorking = true;
    for (let message = this.#next(); message !== null; message = this.#next()) {
      try {
        await this.#deliver(message);
      } catch (error) {
        // A fault of this page is the browser's to report; what was written behind it goes out all the same.
        this.#faults.add(message.key);
        reportError(error);
      }
    }
    this.#isWorking = false;
  }

  /** Send a message until it is accepted, refused or tried often enough; or gone, or too old for its key. */
  async #deliver({ key }) {
    let failures = 0;
    for (let message = this.#waiting(key); message !== undefined; message = this.#waiting(key)) {
      const problem = await this.#post(message);
      if (problem === null) {
        this.#remove(key);
        return;
      }
      const isOffline = !navigator.onLine;
      if (!isOffline) failures += 1;
      const pause = isOffline ? OFFLINE_MS : pauseAfter(PAUSES, failures, Math.random, problem.retryAfterMs ?? 0);
      if (!problem.isUncertain || failures >= ROUNDS || (!isOffline && pause > LONGEST_PAUSE_MS)) {
        this.#giveUp(message, problem);
        return;
      }
      this.#say(key, isOffline ? "Offline. It is sent when the connection is back." : `${explain(problem).title} Trying again…`);
      await this.#back.wait(pause);
      this.#say(key, null);
    }
  }

  /** Post a message once; return why it is not known to be accepted, or null. */
  async #post(message) {
    const cut = new AbortController();
    this.#sending = { key: message.key, cut };
    try {
      await this.#owner.post(message, cut.signal);
      return null;
    } catch (problem) {
      if (cut.signal.aborted) return null;
      if (!(problem instanceof Problem)) throw problem;
      return problem;
    } finally {
      this.#sending = null;
    }
  }

  #giveUp({ content, key }, problem) {
    if (this.#waiting(key) === undefined) return;
    // Refused for certain: it goes back to where it can be changed. Else only the same key can tell.
    const mayMove = !problem.isUncertain && problem.status !== 401 && !this.#closing.signal.aborted;
    if (mayMove && this.#owner.onRefused(content, problem)) {
      this.#remove(key);
      return;
    }
    const { title, detail } = explain(problem);
    outbox.fail(this.#place, key, `${title} ${detail}`.trim());
    this.#draw();
    announce(`Not sent. ${title}`);
  }

  #say(key, words) {
    if (words === null) this.#words.delete(key);
    else this.#words.set(key, words);
    this.#draw();
  }

  #retry(key) {
    this.#faults.delete(key);
    outbox.again(this.#place, key);
    this.#draw();
    this.#work();
  }

  #edit({ key, content }) {
    if (this.#owner.onEdit(content)) this.#discard(key);
  }

  #discard(key) {
    this.#remove(key);
    this.#work(); // what waited for it
  }

  #remove(key) {
    outbox.remove(this.#place, key);
    this.#words.delete(key);
    if (this.#sending?.key === key) this.#sending.cut.abort();
    this.wake(); // it may be what is waited with
    this.#draw();
  }

  #draw() {
    const focused = this.node.contains(document.activeElement) ? document.activeElement : null;
    let isHeld = false;
    const rows = this.#kept().map((message) => {
      const state = this.#stateOf(message, isHeld);
      isHeld ||= message.isFailed || state === "waiting";
      return this.#row(message, state);
    });
    this.node.replaceChildren(...rows);
    if (focused === null) return;
    const same = [...this.node.querySelectorAll("button")].find(
      ({ name, value }) => name === focused.name && value === focused.value,
    );
    if (same === undefined) this.#owner.onFocusLost();
    else same.focus();
  }

  #stateOf({ key, isFailed }, isHeld) {
    if (isFailed || this.#faults.has(key)) return "failed";
    if (isHeld) return "held";
    return this.#words.has(key) ? "waiting" : "sending";
  }

  #row(message, state) {
    const { content, key, why } = message;
    const said = {
      failed: why ? `Not sent. ${why}` : "Not sent.",
      held: "Waits for the message before it.",
      waiting: this.#words.get(key),
      sending: "Sending…",
    };
    const choice = (name, action) => button(name, null, action, { class: "link", name, value: key });
    const first = { failed: choice("Retry", () => this.#retry(key)), waiting: choice("Try now", () => this.wake()) }[state];
    const others = [choice("Edit", () => this.#edit(message)), choice("Discard", () => this.#discard(key))];
    return el(
      "article",
      { class: "unsent", "data-state": state },
      el("div", { class: "question", dir: "auto" }, content),
      el(
        "p",
        { class: "outcome", "data-tone": state === "failed" ? "bad" : "plain" },
        el("span", {}, said[state]),
        first,
        state === "failed" || state === "held" ? others : null,
      ),
    );
  }
}
