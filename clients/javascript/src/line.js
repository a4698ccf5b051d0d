/**
 * One stream's connections, one after another: opened, read, and judged when they end.
 *
 * Whatever ends a connection is either for the caller, and thrown as what it is, or a reason to reconnect, which is
 * `Broken`. Nothing here knows what the frames mean.
 */

import { Bell } from "./bell.js";
import { ApiError, ConnectionFailedError, ProtocolError, StreamLostError, TimeLimitError } from "./errors.js";
import { exchange } from "./exchange.js";
import { Reconnects, mayRetry } from "./retry.js";
import { Ended, EventsWire, SocketWire } from "./wires.js";

const OPEN_MS = 15_000;
const CATCH_UP_MS = 15_000; // a replay that stands still for this long is on a connection that does not work
const STEADY_MS = 10_000; // a connection that lived this long counts as progress, even if nothing happened to the turn
const MOST_BLOCKED = 2; // websockets that could not be opened before server-sent events are used instead
const TICKET_SECONDS = 60;

/** @typedef {import("./events.js").Frame} Frame */
/** @typedef {import("./exchange.js").Means} Means */

/**
 * How a stream is carried. `auto`: by websocket with a ticket, and a turn's stream by server-sent events if websockets
 * do not get through; `ticket` and `sse` insist. `key`: websocket with the key in the handshake; needs `openSocket`.
 * @typedef {"auto"|"ticket"|"key"|"sse"} Via
 */

/**
 * What to request on the next connection.
 * @typedef {{sessionId: string, turnId: string|null, after: number, bySnapshot: boolean}} Asked
 */

/**
 * The state of a stream. `waiting` has the time of the next try, in ms as of `Date.now()`.
 * @typedef {{name: "connecting"}|{name: "live"}|{name: "waiting", retryAt: number}} StreamState
 */

/** The connection is no longer usable; another one may be. */
export class Broken extends Error {
  /**
   * @param {string} why
   * @param {number|null} [retryAfterMs]
   */
  constructor(why, retryAfterMs = null) {
    super(why);
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * Exchange a call that a stream needs; a temporary failure breaks the connection, which is opened again.
 * @param {Means} means
 * @param {import("./exchange.js").Call} call
 * @param {AbortSignal} signal
 */
export async function beside(means, call, signal) {
  try {
    return await exchange({ ...means, policy: { ...means.policy, tries: 1 } }, call, { signal, limitMs: OPEN_MS });
  } catch (error) {
    throw passing(error) ?? error;
  }
}

/**
 * Return an error as Broken if reconnecting may help.
 * @param {unknown} error
 */
function passing(error) {
  if (error instanceof ConnectionFailedError) return new Broken(error.message);
  if (error instanceof ApiError && mayRetry(error, true)) return new Broken(error.message, error.retryAfterMs);
  return null;
}

export class Line {
  #means;
  #via;
  #openSocket;
  #signal;
  #onState;
  #endsAt;
  #reconnects;
  #pause = new Bell();
  #bySocket;
  #blocked = 0;
  #wasOpen = false;
  /** @type {number|null} */
  #openedAt = null;
  #caughtUpBy = Infinity; // the time by which a replay must have moved on
  /** @type {import("./wires.js").Wire|null} */
  #wire = null;

  /**
   * Prepare; no connection is opened yet.
   * @param {Means} means
   * @param {object} options
   * @param {Via} options.via
   * @param {import("./wires.js").OpenSocket} options.openSocket
   * @param {AbortSignal} options.signal
   * @param {number} options.limitMs for the whole stream
   * @param {(state: StreamState) => void} options.onState
   */
  constructor(means, { via, openSocket, signal, limitMs, onState }) {
    this.#means = means;
    this.#via = via;
    this.#openSocket = openSocket;
    this.#signal = signal;
    this.#onState = onState;
    this.#endsAt = performance.now() + limitMs;
    this.#reconnects = new Reconnects(means.policy, means.random);
    this.#bySocket = via !== "sse";
    this.connections = 0;
  }

  /** Note that the stream made progress. */
  progress() {
    this.#reconnects.progress();
  }

  /** Note that the replay is complete, and that what follows is live. */
  live() {
    this.#caughtUpBy = Infinity;
    this.#onState({ name: "live" });
  }

  /** Continue now: end a pause, or find out whether the connection still works. */
  wake() {
    this.#reconnects.progress();
    this.#pause.ring();
    this.#wire?.probe();
  }

  /**
   * Open a connection and make a request on it. Throws Broken, ApiError, TimeLimitError.
   * @param {Asked} asked
   */
  async open(asked) {
    this.#onState({ name: "connecting" });
    this.#openedAt = null;
    try {
      this.#wire = await (this.#bySocket ? this.#openWebsocket(asked) : this.#openEvents(asked));
    } catch (error) {
      throw this.#judged(error);
    }
    this.connections += 1;
    this.#openedAt = performance.now();
    this.#wasOpen = true;
    if (this.#bySocket) this.ask(asked);
    else this.live();
  }

  /**
   * Make a request on the open websocket.
   * @param {Asked} asked
   */
  ask({ sessionId, turnId, after, bySnapshot }) {
    const cursor = turnId === null ? {} : { turn_id: turnId, after, replay: bySnapshot ? "snapshot" : "events" };
    this.#caughtUpBy = performance.now() + CATCH_UP_MS;
    this.#wire?.say({ op: "subscribe", session_id: sessionId, ...cursor });
  }

  /**
   * Wait for frames. Throws Broken if the connection ended, ApiError if it was ended for good or the request on it was
   * refused, ProtocolError if something that is not a frame arrived, TimeLimitError.
   * @returns {Promise<Frame[]>}
   */
  async frames() {
    const limit = Math.min(this.#remainingMs(), this.#caughtUpBy - performance.now());
    /** @type {Frame[]} */
    let frames;
    try {
      frames = await /** @type {import("./wires.js").Wire} */ (this.#wire).hear(limit, this.#signal);
    } catch (error) {
      throw error instanceof Ended ? this.#judgedEnd(error) : error;
    }
    for (const frame of frames) {
      if (frame.type === "refused" && frame.op === "subscribe") throw judgedRefusal(String(frame.code));
      // Pings arrive even if a replay is stuck.
      if (frame.type !== "ping" && this.#caughtUpBy < Infinity) this.#caughtUpBy = performance.now() + CATCH_UP_MS;
    }
    if (performance.now() >= this.#caughtUpBy) throw new Broken("the replay does not go on");
    return frames;
  }

  /**
   * Wait before the next connection. Throws StreamLostError if it has been tried long enough, TimeLimitError.
   * @param {Broken} broken
   * @param {number} after for StreamLostError
   */
  async comeBack(broken, after) {
    this.hang();
    const remaining = this.#remainingMs();
    if (this.#openedAt !== null && performance.now() - this.#openedAt >= STEADY_MS) this.#reconnects.progress();
    const pause = this.#reconnects.nextPause(broken.retryAfterMs);
    if (pause === null) {
      const words = `the stream was lost and could not be opened again: ${broken.message}`;
      throw new StreamLostError(words, after, broken.retryAfterMs);
    }
    this.#onState({ name: "waiting", retryAt: Date.now() + pause });
    await this.#pause.wait(Math.min(pause, remaining), this.#signal);
  }

  /** Close the connection, if one is open. */
  hang() {
    this.#wire?.close();
    this.#wire = null;
  }

  #remainingMs() {
    const remaining = this.#endsAt - performance.now();
    if (remaining <= 0) throw new TimeLimitError("the stream did not end within its time limit");
    return remaining;
  }

  /** @param {Asked} asked */
  async #openWebsocket({ sessionId }) {
    const protocols = ["turnkeeper.v1"];
    /** @type {Record<string, string>} */
    const headers = {};
    if (this.#via === "key") {
      headers.Authorization = `Bearer ${this.#means.key}`;
    } else {
      const body = { session_id: sessionId, ttl_seconds: TICKET_SECONDS };
      const { ticket } = await beside(this.#means, { method: "POST", path: "/v1/tickets", body }, this.#signal);
      protocols.push(`ticket.${ticket}`);
    }
    const limit = Math.min(OPEN_MS, this.#remainingMs());
    const url = `${this.#means.url.replace(/^http/, "ws")}/v1/stream`;
    try {
      return await SocketWire.open(this.#openSocket(url, protocols, headers), limit, this.#signal);
    } catch (error) {
      if (error instanceof ConnectionFailedError) await this.#noteBlocked();
      throw error;
    }
  }

  /** @param {Asked} asked */
  #openEvents({ turnId, after }) {
    this.#caughtUpBy = Infinity;
    const path = `/v1/turns/${encodeURIComponent(turnId ?? "-")}/events`;
    return EventsWire.open(this.#means, { path, after, limitMs: Math.min(OPEN_MS, this.#remainingMs()), signal: this.#signal });
  }

  /** A websocket could not be opened. Throws ApiError if that is because of where this page comes from. */
  async #noteBlocked() {
    this.#blocked += 1;
    if (this.#blocked === 1 && !this.#wasOpen) await this.#askWhy();
    if (this.#via === "auto" && this.#blocked >= MOST_BLOCKED && !this.#wasOpen) this.#bySocket = false;
  }

  /** A browser does not tell a page why a handshake was refused; the same address says it to a POST. */
  async #askWhy() {
    try {
      await beside(this.#means, { method: "POST", path: "/v1/stream" }, this.#signal);
    } catch (error) {
      if (error instanceof ApiError && error.code === "forbidden") throw error;
    }
  }

  /** @param {unknown} error */
  #judged(error) {
    return error instanceof Broken ? error : (passing(error) ?? error);
  }

  /** @param {Ended} ended */
  #judgedEnd({ code, message }) {
    switch (code) {
      case 4400:
        return new ProtocolError("the service could not read a frame of this client");
      case 4401:
        // Only the ticket is known to be bad: if the key is bad too, the next ticket is refused.
        if (this.#via !== "key") return new Broken("the ticket is no longer good");
        return new ApiError({ code: "unauthorized", detail: "the key is no longer good" });
      case 4403:
        return new ApiError({ code: "forbidden", detail: "streams may not be opened from here" });
      case 4429:
        return new Broken("too many streams are open", this.#means.policy.crowdedPauseMs);
      default: // 1012 restart, 4409 too slow, or simply the end: the cursor says where to resume
        return new Broken(message);
    }
  }
}

/** @param {string} code */
function judgedRefusal(code) {
  if (mayRetry({ code, status: 0 }, true)) return new Broken(code);
  return new ApiError({ code, detail: "the service refused the stream" });
}
