/** A stream as its reader has it: an async iterable that can be left, woken and asked for its progress. */

import { Reading } from "./reading.js";

const NOTHING_READ = new Reading("");

/**
 * The progress of a stream; written by the code that reads it.
 * @typedef {object} Progress
 * @property {import("./following.js").Follower|null} follower null for a session, and until a turn is known
 * @property {import("./line.js").Line|null} line
 * @property {import("./asking.js").Answer|null} answer
 */

/**
 * A turn or a session that is being streamed: `for await` it. Leaving the loop closes it; the service continues.
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

  /** Called when a loop is left. */
  async return() {
    this.close();
    return { done: /** @type {const} */ (true), value: undefined };
  }

  /** Close the connection; a waiting reader sees the end. */
  close() {
    this.#isClosed = true;
    this.#callers?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
    this.#progress.line?.hang();
  }

  /** Continue at once: the network or the reader is back. Ends a pause, or finds out whether the connection works. */
  wake() {
    this.#progress.line?.wake();
  }

  /** Read to the end and return `done`; throws TypeError if the stream was already closed. */
  async untilDone() {
    for await (const _ of this);
    if (this.done === null) throw new TypeError("the stream was closed before its end");
    return this.done;
  }

  get #reading() {
    return this.#progress.follower?.reading ?? NOTHING_READ;
  }

  /** The turn's id; null until it is posted, and for a session. */
  get turnId() {
    return this.#progress.follower?.reading.turnId ?? null;
  }

  get sessionId() {
    return this.#progress.follower?.sessionId ?? null;
  }

  /** The answer's text so far. Once `done` has arrived, it is the stored text, checked by its SHA-256. */
  get text() {
    return this.#reading.text;
  }

  /** The thinking text so far. */
  get reasoning() {
    return this.#reading.reasoning;
  }

  /** The turn's status, according to its events so far. */
  get status() {
    return this.#reading.status;
  }

  /** The cursor: `streamTurn(turn, {after: seq, text})` resumes here, even in another process. */
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

  /** The last event, with usage and cost; null until it arrives. */
  get done() {
    return this.#reading.done;
  }

  /** What `ask` would have returned; null before the end, or if this stream did not post the turn. */
  get answer() {
    return this.#progress.answer;
  }

  /** How many connections have been opened so far. */
  get connections() {
    return this.#progress.line?.connections ?? 0;
  }

  /** How often the text differed from the service's and was fetched again. */
  get mended() {
    return this.#progress.follower?.mended ?? 0;
  }
}
