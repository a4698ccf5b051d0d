/**
 * One session's events over a websocket that comes back by itself. It carries bytes, not meaning: cursors are asked
 * of the owner at each subscription, so that a reconnect goes on where reading stopped.
 */

import { Problem } from "./api.js";

const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 15_000;
const CROWDED_DELAY_MS = 10_000; // 4429: too many sockets; coming back at once would make it worse
const OPEN_TIMEOUT_MS = 10_000;
const CATCH_UP_TIMEOUT_MS = 15_000; // a replay that does not end is a connection that does not work
const PING_EVERY_MS = 20_000;
const SILENCE_LIMIT_MS = 45_000; // two pings of ours unanswered: the connection is dead although nobody said so
const NO_RETURN = new Set([401, 403, 404]); // for the ticket: nothing that waiting would cure
const FINAL_REFUSALS = new Set(["not_found", "forbidden", "unauthorized"]);

/** Delay before the n-th try in a row: doubling, capped, with jitter so that tabs do not return together. */
export function delayBefore(attempt, random = Math.random) {
  const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(attempt, 10));
  return Math.round(ceiling / 2 + (random() * ceiling) / 2);
}

/**
 * @typedef {{turnId: string, after: number, replay?: "events"|"snapshot"}} Cursor
 * @typedef {{name: "connecting"|"live"|"waiting"|"ended", retryAt?: number, problem?: Problem}} State
 */
export class Stream {
  #owner;
  #sessionId;
  #socket = null;
  #state = { name: "ended" };
  #attempt = 0;
  #generation = 0; // what an abandoned connection still says is ignored
  #retryTimer = null;
  #pingTimer = null;
  #catchUpTimer = null;
  #heardAt = 0;

  /**
   * @param {string} sessionId
   * @param {{ticket: () => Promise<string>, cursor: () => Cursor|null, onEvent: (event: object) => void,
   *   onState: (state: State) => void, onCaughtUp: () => void, onFailed: () => void}} owner
   */
  constructor(sessionId, owner) {
    this.#sessionId = sessionId;
    this.#owner = owner;
    this.wake = this.wake.bind(this);
  }

  get state() {
    return this.#state;
  }

  /** Connect, and stay connected until `close`. */
  open() {
    window.addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.wake);
    this.#connect();
  }

  /** Disconnect for good. */
  close() {
    window.removeEventListener("online", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
    this.#abandon();
    this.#enter({ name: "ended" });
  }

  /** Try now instead of when the delay is over: the network or the reader came back. */
  wake() {
    if (this.#state.name === "waiting" && document.visibilityState !== "hidden") {
      this.#attempt = 0;
      this.#connect();
    }
  }

  /** Ask for a turn's events again, after a hole. */
  subscribe(cursor) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const op = { op: "subscribe", session_id: this.#sessionId };
    if (cursor !== null) {
      Object.assign(op, { turn_id: cursor.turnId, after: cursor.after, replay: cursor.replay ?? "events" });
    }
    this.#socket.send(JSON.stringify(op));
    clearTimeout(this.#catchUpTimer);
    this.#catchUpTimer = setTimeout(() => this.#lose(), CATCH_UP_TIMEOUT_MS);
  }

  async #connect() {
    this.#abandon();
    const generation = this.#generation;
    const isCurrent = () => generation === this.#generation;
    this.#enter({ name: "connecting" });
    let ticket;
    try {
      ticket = await this.#owner.ticket();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (!isCurrent()) return;
      if (NO_RETURN.has(problem.status)) {
        this.#abandon();
        this.#enter({ name: "ended", problem });
      } else {
        this.#retry(problem.retryAfterMs ?? 0);
      }
      return;
    }
    if (isCurrent()) this.#openSocket(ticket, isCurrent);
  }

  #openSocket(ticket, isCurrent) {
    const url = new URL("/v1/stream", window.location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, ["turnkeeper.v1", `ticket.${ticket}`]);
    this.#socket = socket;
    const openTimer = setTimeout(() => socket.close(), OPEN_TIMEOUT_MS);
    socket.addEventListener("open", () => {
      clearTimeout(openTimer);
      if (!isCurrent()) return;
      this.#heardAt = Date.now();
      this.#pingTimer = setInterval(() => this.#checkAlive(socket), PING_EVERY_MS);
      this.subscribe(this.#owner.cursor());
    });
    socket.addEventListener("message", ({ data }) => {
      if (!isCurrent()) return;
      this.#heardAt = Date.now();
      this.#receive(JSON.parse(data));
    });
    socket.addEventListener("close", ({ code }) => {
      clearTimeout(openTimer);
      if (isCurrent()) this.#lose(code === 4429 ? CROWDED_DELAY_MS : 0);
    });
  }

  #receive(frame) {
    switch (frame.type) {
      case "subscribed":
      case "pong":
      case "ping":
        return;
      case "caught_up":
        clearTimeout(this.#catchUpTimer);
        this.#attempt = 0;
        this.#enter({ name: "live" });
        this.#owner.onCaughtUp();
        return;
      case "refused":
        this.#refuse(frame.code);
        return;
      default:
        this.#owner.onEvent(frame);
    }
  }

  #refuse(code) {
    if (!FINAL_REFUSALS.has(code)) {
      this.#retry(0);
      return;
    }
    this.#abandon();
    this.#enter({ name: "ended", problem: new Problem({ code, title: "This session's stream was refused" }, 404) });
  }

  #checkAlive(socket) {
    if (Date.now() - this.#heardAt > SILENCE_LIMIT_MS) {
      this.#lose();
    } else if (socket.readyState === WebSocket.OPEN) {
      socket.send('{"op":"ping"}');
    }
  }

  /** The connection is of no use any more: say so, and come back. */
  #lose(leastMs = 0) {
    this.#owner.onFailed();
    this.#retry(leastMs);
  }

  #retry(leastMs) {
    this.#abandon();
    const delay = Math.max(leastMs, delayBefore(this.#attempt));
    this.#attempt += 1;
    this.#enter({ name: "waiting", retryAt: Date.now() + delay });
    this.#retryTimer = setTimeout(() => this.#connect(), delay);
  }

  #abandon() {
    this.#generation += 1;
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#catchUpTimer);
    clearInterval(this.#pingTimer);
    this.#socket?.close();
    this.#socket = null;
  }

  #enter(state) {
    this.#state = state;
    this.#owner.onState(state);
  }
}
