/**
 * A session's events, turn after turn, over as many connections as it takes.
 *
 * A subscription replays one turn and then continues live, so whatever was missed of other turns is requested turn by
 * turn: after each connection the session's turns are listed, and those that ended unread are replayed first.
 */

import { listTurns } from "./calls.js";
import { StreamLostError } from "./errors.js";
import { eventIn } from "./events.js";
import { Follower } from "./following.js";
import { Broken, beside } from "./line.js";
import { Reading } from "./reading.js";

/** How many missed turns are replayed after one loss, and how many turns may be open at once. */
const MOST_MISSED = 1000;
const AT_ONCE = 100;
const OVER = new Set(["completed", "stopped", "failed", "expired"]);

/** @typedef {import("./api.js").Turn} Turn */
/** @typedef {import("./line.js").Asked} Asked */
/** @typedef {import("./events.js").TurnEvent} TurnEvent */

/** @param {Turn} turn */
export const isOver = (turn) => OVER.has(turn.status);

/** Which turns of a session have been read, and how far. */
export class Watcher {
  #sessionId;
  #means;
  #signal;
  #bySnapshot;
  /** @type {Map<string, Follower>} */
  #open = new Map();
  /** Ids rise with time: every turn up to this one has been read, or was over before the watching began. */
  #readThrough = "";
  /** @type {Set<string>} turns after that one that have been read */
  #read = new Set();
  /** Whether no turn can have ended unread: then the last one read moves that mark forward. */
  #isComplete = false;

  /**
   * @param {string} sessionId
   * @param {import("./exchange.js").Means} means
   * @param {AbortSignal} signal
   * @param {boolean} bySnapshot whether text from before the watching is sent in one piece
   */
  constructor(sessionId, means, signal, bySnapshot) {
    this.#sessionId = sessionId;
    this.#means = means;
    this.#signal = signal;
    this.#bySnapshot = bySnapshot;
  }

  /**
   * Find out which turns are over before the watching begins; all others are read from their start. Throws
   * ApiError if the session cannot be read, Broken if nobody answered.
   */
  async begin() {
    const page = await beside(this.#means, listTurns(this.#sessionId, { limit: AT_ONCE }), this.#signal);
    const turns = /** @type {Turn[]} */ (page.data);
    const running = turns.filter((turn) => !isOver(turn));
    const oldest = least(running.map(({ id }) => id));
    const over = turns.filter(isOver).map(({ id }) => id);
    this.#readThrough = greatest(over.filter((id) => oldest === null || id < oldest)) ?? "";
    this.#read = new Set(over.filter((id) => id > this.#readThrough));
    for (const { id, status } of running) {
      const isUnderWay = this.#bySnapshot && status !== "queued";
      this.#open.set(id, new Follower(this.#sessionId, new Reading(id), isUnderWay));
    }
  }

  /**
   * Return the turns to continue on a new connection, oldest first.
   * @returns {Asked[]}
   */
  openTurns() {
    this.#isComplete = false;
    return [...this.#open.keys()].sort().map((id) => this.#follower(id).asked());
  }

  /**
   * Return the request for a session without an open turn.
   * @returns {Asked}
   */
  anyTurn() {
    return { sessionId: this.#sessionId, turnId: null, after: 0, bySnapshot: false };
  }

  /**
   * Return the turns that are over and were not read to their end, oldest first. Throws StreamLostError if there are
   * too many, Broken if they could not be listed.
   * @returns {Promise<Asked[]>}
   */
  async missedTurns() {
    /** @type {string[]} */
    const missed = [];
    /** @type {string|null} */
    let cursor = null;
    do {
      /** @type {import("./api.js").TurnList} */
      const page = await beside(this.#means, listTurns(this.#sessionId, { limit: AT_ONCE, cursor }), this.#signal);
      const newer = page.data.filter(({ id }) => id > this.#readThrough);
      missed.push(...newer.filter((turn) => isOver(turn) && !this.#read.has(turn.id)).map(({ id }) => id));
      if (missed.length > MOST_MISSED) throw new StreamLostError(`more than ${MOST_MISSED} turns were missed`, 0);
      cursor = newer.length < page.data.length ? null : page.next_cursor;
    } while (cursor !== null);
    this.#isComplete = missed.length === 0;
    this.#moveOn();
    return missed.sort().map((id) => this.#follower(id).asked());
  }

  /**
   * Take a frame; return the events in it that are for the caller.
   * @param {import("./events.js").Frame} frame
   * @returns {TurnEvent[]}
   */
  take(frame) {
    const event = eventIn(frame);
    if (event === null || event.turn_id <= this.#readThrough || this.#read.has(event.turn_id)) return [];
    const follower = this.#follower(event.turn_id);
    const shown = follower.take(event);
    if (follower.reading.done !== null) {
      this.#open.delete(event.turn_id);
      this.#read.add(event.turn_id);
      this.#moveOn();
    }
    return shown;
  }

  /** @param {string} turnId */
  #follower(turnId) {
    let follower = this.#open.get(turnId);
    if (follower === undefined) {
      if (this.#open.size >= MOST_MISSED) throw new StreamLostError(`more than ${MOST_MISSED} turns are open at once`, 0);
      follower = new Follower(this.#sessionId, new Reading(turnId));
      this.#open.set(turnId, follower);
    }
    return follower;
  }

  #moveOn() {
    if (!this.#isComplete) return;
    const oldest = least([...this.#open.keys()]);
    const through = [...this.#read].filter((id) => oldest === null || id < oldest);
    this.#readThrough = greatest([this.#readThrough, ...through]) ?? "";
    for (const id of through) this.#read.delete(id);
  }
}

/** @param {string[]} ids */
const least = (ids) => ids.reduce((a, b) => (a !== null && a < b ? a : b), /** @type {string|null} */ (null));
/** @param {string[]} ids */
const greatest = (ids) => ids.reduce((a, b) => (a !== null && a > b ? a : b), /** @type {string|null} */ (null));

/**
 * Yield the events of all turns of a session that are running or begin from now on, until the caller closes it. Throws
 * ApiError if the stream was refused for good, StreamLostError, TimeLimitError.
 * @param {Watcher} watcher
 * @param {import("./line.js").Line} line
 * @returns {AsyncGenerator<TurnEvent, void, undefined>}
 */
export async function* watch(watcher, line) {
  for (let hasBegun = false; ; ) {
    try {
      if (!hasBegun) await watcher.begin();
      hasBegun = true;
      yield* watchOnce(watcher, line);
    } catch (broken) {
      if (!(broken instanceof Broken)) throw broken;
      await line.comeBack(broken, 0);
    }
  }
}

/**
 * @param {Watcher} watcher
 * @param {import("./line.js").Line} line
 * @returns {AsyncGenerator<TurnEvent, void, undefined>}
 */
async function* watchOnce(watcher, line) {
  const waiting = watcher.openTurns();
  await line.open(waiting.shift() ?? watcher.anyTurn());
  /** @type {Asked[]} */
  let missed = [];
  for (let isLive = false; ; ) {
    for (const frame of await line.frames()) {
      const shown = watcher.take(frame);
      if (shown.length > 0) line.progress();
      yield* shown;
      if (frame.type !== "caught_up" || isLive) continue;
      if (waiting.length === 0) {
        // Again after each round: a turn may end between two subscriptions.
        const before = missed;
        missed = await watcher.missedTurns();
        if (missed.length > 0 && isSame(missed, before)) throw new Broken("a turn that is over was replayed without its end");
        waiting.push(...missed);
        isLive = waiting.length === 0;
      }
      const next = waiting.shift();
      if (next !== undefined) line.ask(next);
      else line.live();
    }
  }
}

/**
 * @param {Asked[]} some
 * @param {Asked[]} others
 */
function isSame(some, others) {
  return JSON.stringify(some) === JSON.stringify(others);
}
