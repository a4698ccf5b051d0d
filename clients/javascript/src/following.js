/**
 * One turn's events from a cursor to `done`, over as many connections as it takes.
 *
 * If what was read turns out to be void, or the text is not the one that `done` names, the text is fetched again
 * separately, and shown only once it has caught up with what the caller has: the caller sees a single `snapshot`.
 */

import { TextMismatchError } from "./errors.js";
import { eventIn } from "./events.js";
import { Broken } from "./line.js";
import { Reading } from "./reading.js";

/** @typedef {import("./events.js").TurnEvent} TurnEvent */
/** @typedef {import("./line.js").Asked} Asked */

/** Takes one turn's events and decides which of them the caller sees. */
export class Follower {
  /** @type {Reading|null} */
  #fresh = null;
  #shownThrough = 0;
  /** @type {import("./events.js").Gap|null} */
  #gap = null;
  #isDoubted = false;
  #beginsBySnapshot;

  /**
   * @param {string} sessionId
   * @param {Reading} reading the turn as the caller has it; continued in place
   * @param {boolean} [beginsBySnapshot] whether to request the text so far in one piece
   */
  constructor(sessionId, reading, beginsBySnapshot = false) {
    this.sessionId = sessionId;
    this.reading = reading;
    /** How often the text had to be fetched again. */
    this.mended = 0;
    this.#beginsBySnapshot = beginsBySnapshot;
  }

  /**
   * Return what to request on the next connection.
   * @returns {Asked}
   */
  asked() {
    this.#gap = null; // its snapshot was lost with the connection; both are sent again
    const at = this.#fresh ?? this.reading;
    const bySnapshot = (this.#fresh !== null || this.#beginsBySnapshot) && at.seq === 0;
    return { sessionId: this.sessionId, turnId: at.turnId, after: at.seq, bySnapshot };
  }

  /**
   * Take an event; return the events that the caller is to see. Throws Broken if it is not the next one, and
   * TextMismatchError if the text is wrong, even after it was fetched again.
   * @param {TurnEvent} event
   * @returns {TurnEvent[]}
   */
  take(event) {
    const at = this.#fresh ?? this.reading;
    switch (at.judge(event)) {
      case "seen":
        return [];
      case "hole":
        throw new Broken("events are missing");
      case "void":
        this.#fetchAgain();
        throw new Broken("what was read is void");
      default:
        return this.#takeNext(at, event);
    }
  }

  /**
   * @param {Reading} at
   * @param {TurnEvent} event
   * @returns {TurnEvent[]}
   */
  #takeNext(at, event) {
    if (event.type === "gap") {
      this.#gap = event;
      return [];
    }
    const before = event.type === "done" && this.#fresh !== null ? at.snapshot() : null;
    at.take(event);
    if (event.type === "done" && at.isWhole && !at.isProved) this.#doubt(at);
    const gap = this.#gap;
    this.#gap = null;
    if (this.#fresh === null) return gap === null ? [event] : [gap, event];
    if (before !== null) {
      this.#show(at);
      return [before, event];
    }
    if (event.type === "snapshot" || at.seq >= this.#shownThrough) {
      this.#show(at);
      return [at.snapshot()];
    }
    return [];
  }

  /** @param {Reading} at */
  #doubt(at) {
    if (this.#isDoubted) throw new TextMismatchError(at.turnId, at.text);
    this.#isDoubted = true;
    if (at === this.reading) at.done = null;
    this.#fetchAgain();
    throw new Broken("the text is not the one that `done` names");
  }

  #fetchAgain() {
    this.mended += 1;
    this.#shownThrough = Math.max(this.#shownThrough, this.reading.seq);
    this.#fresh = new Reading(this.reading.turnId);
  }

  /** @param {Reading} fresh */
  #show(fresh) {
    Object.assign(this.reading, fresh);
    this.#fresh = null;
    this.#shownThrough = 0;
  }
}

/**
 * Yield a turn's events after the follower's cursor, `done` last. Throws ApiError if the stream was refused for good,
 * StreamLostError, TextMismatchError and TimeLimitError.
 * @param {Follower} follower
 * @param {import("./line.js").Line} line
 * @returns {AsyncGenerator<TurnEvent, void, undefined>}
 */
export async function* follow(follower, line) {
  const { reading } = follower;
  while (reading.done === null) {
    try {
      await line.open(follower.asked());
      while (reading.done === null) {
        for (const frame of await line.frames()) {
          const event = frame.turn_id === reading.turnId ? eventIn(frame) : null;
          const shown = event === null ? [] : follower.take(event);
          if (shown.length > 0) line.progress();
          yield* shown;
          if (frame.type === "caught_up") line.live();
        }
      }
    } catch (broken) {
      if (!(broken instanceof Broken)) throw broken;
      await line.comeBack(broken, reading.seq);
    }
  }
}
