/** A stream as its reader has it: an async iterable that can be left, woken and asked how far it is. */

import { Reading } from "./reading.js";

const NOTHING_READ = new Reading("");

/**
 * How far a stream is; written by what reads it.
 * @typedef {object} Progress
 * @property {import("./following.js").Follower|null} follower null of a session, and before a turn is known
 * @property {import("./line.js").Line|null} line
 * @property {import("./asking.js").Answer|null} answer
 */

/**
 * A turn or a session while it is streamed: `for await` it. Leaving the loop closes it; what the service does goes on.
 * @template T
 * @implements {AsyncIterableIterator<T>}
 */
export class Stream {
  #items;
  #controller;
  /** @type {AbortSignal|undefined} */
  #callers;
  /** @type {Progress} */
  #progress;
  #isClosed = false;
  #abort = () => this.#controller.abort(this.#callers?.reason);

  /**
   * Nothing is opened before the first item is asked for.
   * @param {(progress: Progress, signal: AbortSignal) => AsyncGenerator<T, any, undefined>} begin
   * @param {AbortSignal} [signal] ends the stream, whose reader is thrown its reason
   */
  constructor(begin, signal) {
    this.#controller = new AbortController();
    this.#callers = signal;
    this.#progress = { follower: null, line: null, answer: null };
    this.#items = begin(this.#progress, this.#controller.signal);
    if (signal?.aborted) this.#abort();
    signal?.addEventListener("abort", this.#abort);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<T, any>>} */
  async next() {
    if (this.#isClosed) return { done: true, value: undefined };
    try {
      const result = await this.#items.next();
      if (result.done) this.close();
      return this.#isClosed ? { done: true, value: undefined } : result;
    } catch (error) {
      if (this.#isClosed) return { done: true, value: undefined }; // its wait was ended by `close`
      this.close();
      throw error;
    }
  }

  /** Called where a loop is left. */
  async return() {
    this.close();
    return { done: /** @type {const} */ (true), value: undefined };
  }

  /** Close the connection; a reader that waits sees the end. */
  close() {
    this.#isClosed = true;
    this.#callers?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
    this.#progress.line?.hang();
  }

  /** Go on at once: the network or the reader came back. Ends a pause, or finds out whether the connection works. */
  wake() {
    this.#progress.line?.wake();
  }

  /** Read to the end and return `done`; throws TypeError where the stream was closed before. */
  async untilDone() {
    for await (const _ of this);
    if (this.done === null) throw new TypeError("the stream was closed before its end");
    return this.done;
  }

  get #reading() {
    return this.#progress.follower?.reading ?? NOTHING_READ;
  }

  /** Which turn; null before it was posted, and of a session. */
  get turnId() {
    return this.#progress.follower?.reading.turnId ?? null;
  }

  get sessionId() {
    return this.#progress.follower?.sessionId ?? null;
  }

  /** The answer's text so far. Once `done` is there, it is the stored text by its SHA-256. */
  get text() {
    return this.#reading.text;
  }

  /** The thinking text so far. */
  get reasoning() {
    return this.#reading.reasoning;
  }

  /** The turn's status as far as its events say it. */
  get status() {
    return this.#reading.status;
  }

  /** The cursor: `streamTurn(turn, {after: seq, text})` goes on here, also in another process. */
  get seq() {
    return this.#reading.seq;
  }

  /** The attempt of the last event. */
  get attempt() {
    return this.#reading.attempt;
  }

  /** The answer's message. */
  get messageId() {
    return this.#reading.messageId;
  }

  /** The end, with usage and cost; null before it. */
  get done() {
    return this.#reading.done;
  }

  /** What `ask` would have returned; null before the end, and where the turn was not posted by this stream. */
  get answer() {
    return this.#progress.answer;
  }

  /** How many connections were opened so far. */
  get connections() {
    return this.#progress.line?.connections ?? 0;
  }

  /** How often text that was not the service's was fetched again. */
  get mended() {
    return this.#progress.follower?.mended ?? 0;
  }
}
