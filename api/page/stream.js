/** One session's events for as long as it is open: turnkeeper.js reads them, this knows when the browser wakes and sleeps. */

import { Problem } from "./api.js";

/**
 * @typedef {{name: "connecting"|"live"|"waiting"|"ended", retryAt?: number, problem?: Problem}} State
 */
export class Stream {
  #api;
  #sessionId;
  #owner;
  #events = null;
  #state = { name: "ended" };

  /**
   * @param {object} api from `connect`
   * @param {string} sessionId
   * @param {{onEvent: (event: object) => void, onState: (state: State) => void, onCaughtUp: () => void,
   *   onFailed: () => void}} owner events come in order, each once; `snapshot` stands in place of all before it
   */
  constructor(api, sessionId, owner) {
    this.#api = api;
    this.#sessionId = sessionId;
    this.#owner = owner;
    this.wake = this.wake.bind(this);
  }

  get state() {
    return this.#state;
  }

  /** Connect, and stay connected until `close`. */
  open() {
    for (const [target, type] of WAKING) target.addEventListener(type, this.wake);
    this.#read();
  }

  /** Disconnect for good. */
  close() {
    for (const [target, type] of WAKING) target.removeEventListener(type, this.wake);
    this.#events?.close();
    this.#events = null;
    this.#enter({ name: "ended" });
  }

  /** The network or the reader came back, or the network went: find out at once where the connection stands. */
  wake() {
    if (document.visibilityState !== "hidden") this.#events?.wake();
  }

  async #read() {
    const events = this.#api.stream(this.#sessionId, (state) => this.#enter(state));
    this.#events = events;
    try {
      await this.#api.told(this.#take(events));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#events = null;
      this.#enter({ name: "ended", problem });
      this.#owner.onFailed();
    }
  }

  async #take(events) {
    for await (const event of events) this.#owner.onEvent(event);
  }

  #enter(state) {
    this.#state = state;
    this.#owner.onState(state);
    if (state.name === "live") this.#owner.onCaughtUp();
    if (state.name === "waiting") this.#owner.onFailed();
  }
}

const WAKING = [
  [window, "online"],
  [window, "offline"],
  [window, "pageshow"],
  [document, "visibilitychange"],
];
