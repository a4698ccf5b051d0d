/** The two carriers of a stream's frames: a websocket, and server-sent events by fetch. */

import { Bell, within } from "./bell.js";
import { ConnectionFailedError, ProtocolError } from "./errors.js";
import { addressOf, refusalOf, requestOf, textOf } from "./exchange.js";
import { EventStream } from "./sse.js";

const SILENCE_MS = 40_000; // the service sends something every 15 s: after missing two, the connection is dead
const PROBE_MS = 4_000; // for the answer to a ping, if there is reason to doubt
const MOST_WAITING = 8 * 1024 * 1024; // characters received but not read; above this, it resumes from the cursor

/** @typedef {import("./events.js").Frame} Frame */
/** @typedef {import("./exchange.js").Means} Means */

/**
 * The part of a browser's WebSocket that is used; those of the `ws` package and of Node fit as well.
 * @typedef {object} Socket
 * @property {number} readyState
 * @property {(text: string) => void} send
 * @property {(code?: number) => void} close
 * @property {(type: "open"|"message"|"close"|"error", listener: (event: any) => void) => void} addEventListener
 */

/**
 * Opens a websocket. `headers` has the key if that is to open it (`via: "key"`), which browsers cannot send.
 * @typedef {(url: string, protocols: string[], headers: Record<string, string>) => Socket} OpenSocket
 */

/** The stream ended; `code` is a websocket's close code, null if it was lost or is not a websocket. */
export class Ended extends Error {
  /**
   * @param {string} why
   * @param {number|null} [code]
   */
  constructor(why, code = null) {
    super(why);
    this.code = code;
  }
}

/**
 * A stream's frames, as they arrive.
 * @typedef {object} Wire
 * @property {(limitMs: number, signal: AbortSignal) => Promise<Frame[]>} hear waits; empty after `limitMs`; throws Ended
 * @property {(frame: Frame) => void} say
 * @property {() => void} probe find out soon whether it still works
 * @property {() => void} close
 */

/** @implements {Wire} */
export class SocketWire {
  #socket;
  #bell = new Bell();
  /** @type {Frame[]} */
  #frames = [];
  #waiting = 0;
  /** @type {Error|null} */
  #end = null;
  #heardAt = performance.now();
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #probe;

  /** @param {Socket} socket */
  constructor(socket) {
    this.#socket = socket;
    this.isOpen = false;
    socket.addEventListener("open", () => {
      this.isOpen = true;
      this.#bell.ring();
    });
    socket.addEventListener("message", ({ data }) => this.#receive(data));
    socket.addEventListener("error", () => this.#fail(new Ended("the websocket failed")));
    socket.addEventListener("close", ({ code }) => this.#fail(new Ended(`the websocket was closed (${code})`, code)));
  }

  /**
   * Open one. Throws ConnectionFailedError; scripts are not told why a handshake was refused.
   * @param {Socket} socket
   * @param {number} limitMs
   * @param {AbortSignal} signal
   */
  static async open(socket, limitMs, signal) {
    const wire = new SocketWire(socket);
    const endsAt = performance.now() + limitMs;
    try {
      while (!wire.isOpen && wire.#end === null && (await wire.#bell.wait(endsAt - performance.now(), signal)));
    } catch (aborted) {
      wire.close();
      throw aborted;
    }
    if (wire.isOpen) return wire; // `hear` reports anything that ended it since
    wire.close();
    throw new ConnectionFailedError("a websocket could not be opened");
  }

  /** @type {Wire["hear"]} */
  async hear(limitMs, signal) {
    if (this.#frames.length === 0 && this.#end === null) await this.#bell.wait(Math.min(limitMs, SILENCE_MS), signal);
    if (this.#frames.length > 0) {
      const frames = this.#frames;
      this.#frames = [];
      this.#waiting = 0;
      return frames;
    }
    if (this.#end !== null) throw this.#end;
    // By the clock, not by the timer: if the timer fires late, it has not seen what arrived meanwhile.
    if (performance.now() - this.#heardAt >= SILENCE_MS) throw new Ended("the service says nothing any more");
    return [];
  }

  /** @type {Wire["say"]} */
  say(frame) {
    try {
      this.#socket.send(JSON.stringify(frame));
    } catch {
      this.#fail(new Ended("the websocket is not open"));
    }
  }

  probe() {
    if (this.#probe !== undefined || this.#end !== null) return;
    const askedAt = performance.now();
    this.say({ op: "ping" });
    this.#probe = setTimeout(() => {
      this.#probe = undefined;
      if (this.#heardAt < askedAt) this.#fail(new Ended("the service did not answer a ping"));
    }, PROBE_MS);
  }

  close() {
    clearTimeout(this.#probe);
    this.#end ??= new Ended("it was closed here");
    try {
      this.#socket.close();
    } catch {
      // It never opened.
    }
  }

  /** @param {unknown} data */
  #receive(data) {
    if (this.#end !== null) return;
    this.#heardAt = performance.now();
    try {
      this.#frames.push(frameIn(data));
    } catch (error) {
      this.#fail(/** @type {Error} */ (error));
      return;
    }
    this.#waiting += /** @type {string} */ (data).length;
    if (this.#waiting > MOST_WAITING) this.#fail(new Ended("frames come faster than they are read"));
    this.#bell.ring();
  }

  /** @param {Error} end */
  #fail(end) {
    if (this.#end !== null) return;
    this.#end = end;
    clearTimeout(this.#probe);
    this.#bell.ring();
    this.close();
  }
}

/** @implements {Wire} */
export class EventsWire {
  #reader;
  #abort;
  #decoder = new EventStream();

  /**
   * @param {ReadableStreamDefaultReader<Uint8Array>} reader
   * @param {AbortController} abort
   */
  constructor(reader, abort) {
    this.#reader = reader;
    this.#abort = abort;
  }

  /**
   * Open a turn's events behind `after`. Throws ApiError and ConnectionFailedError.
   * @param {Means} means
   * @param {{path: string, after: number, limitMs: number, signal: AbortSignal}} what
   */
  static async open(means, { path, after, limitMs, signal }) {
    const call = { method: "GET", path, query: { after }, headers: { Accept: "text/event-stream" } };
    const own = new AbortController();
    try {
      return await within(limitMs, signal, async (bound) => {
        bound.addEventListener("abort", () => own.abort(bound.reason));
        const response = await means.fetch(addressOf(means, call), requestOf(means, call, own.signal));
        if (!response.ok) throw refusalOf(response.status, response.headers, await textOf(response));
        if (response.body === null) throw new ProtocolError("an event stream has no body");
        return new EventsWire(response.body.getReader(), own);
      });
    } catch (error) {
      own.abort();
      if (signal.aborted) throw signal.reason;
      if (error instanceof Error && error.name !== "TypeError" && !(error instanceof DOMException)) throw error;
      throw new ConnectionFailedError("an event stream could not be opened");
    }
  }

  /** @type {Wire["hear"]} */
  async hear(limitMs, signal) {
    let piece;
    try {
      piece = await within(Math.min(limitMs, SILENCE_MS), signal, (own) => {
        own.addEventListener("abort", () => this.close());
        return this.#reader.read();
      });
    } catch {
      if (signal.aborted) throw signal.reason;
      throw new Ended("the event stream was lost");
    }
    if (piece.done) throw new Ended("the event stream ended");
    return this.#decoder.feed(piece.value).map(frameIn);
  }

  say() {}

  probe() {}

  close() {
    this.#abort.abort();
  }
}

/**
 * @param {unknown} data
 * @returns {Frame}
 */
function frameIn(data) {
  let frame;
  try {
    frame = JSON.parse(/** @type {string} */ (data));
  } catch {
    throw new ProtocolError("a frame is no JSON");
  }
  if (typeof frame !== "object" || frame === null) throw new ProtocolError("a frame is no JSON object");
  return frame;
}
