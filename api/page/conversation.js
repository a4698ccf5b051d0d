/**
 * One open session: its turns, from the store and from the stream, and what the user does to them. It knows no DOM.
 * The store is read again wherever the two might have come apart.
 */

import { Stream } from "./stream.js";
import { applyEvent, askedToStop, isExact, mergeStored, newTurn, withRecord } from "./turn.js";
import { Problem, keyOf } from "./api.js";

export class Conversation {
  #api;
  #changed;
  #stream;
  #reading = null; // the running read of the store, shared by whoever wants one meanwhile
  #readAgain = false;
  #closed = false;

  /**
   * @param {object} api from `connect`
   * @param {object} session the session's resource
   * @param {(what: "session"|"turns"|"turn"|"state"|"accepted"|"problem", detail?: any) => void} changed
   *   `accepted` has the keys of the messages that are in the store
   */
  constructor(api, session, changed) {
    this.#api = api;
    this.session = session;
    this.turns = new Map();
    this.exact = new Map(); // turn id -> true: proven by its hash; false: not; null: cannot be told here
    this.#changed = (...news) => {
      if (!this.#closed) changed(...news);
    };
    this.#stream = new Stream(api, session.id, {
      onEvent: (event) => this.#take(event),
      onState: (state) => this.#changed("state", state),
      onCaughtUp: () => this.#checkMissed(),
      onFailed: () => this.#askAboutActive(),
    });
  }

  /** Read the store unless the session is new, then follow its stream. */
  async open({ isNew = false } = {}) {
    if (!isNew) await this.read();
    if (!this.#closed) this.#stream.open();
  }

  /** Stop following. What is running goes on running. */
  close() {
    this.#closed = true;
    this.#stream.close();
  }

  /** Try to reconnect now. */
  wake() {
    this.#stream.wake();
  }

  get streamState() {
    return this.#stream.state;
  }

  /** The turn that is not over, or null. */
  get active() {
    for (const turn of this.turns.values()) {
      if (!turn.done) return turn;
    }
    return null;
  }

  /** Where a turn that is not over stands: `ahead` turns are run before it; `isAlone` where no other is under way. */
  place(turnId) {
    const open = [...this.turns.values()].filter(({ done }) => !done).map(({ id }) => id);
    return { ahead: Math.max(0, open.indexOf(turnId)), isAlone: open.length === 1 && open[0] === turnId };
  }

  /** Take what the service says of the session. */
  takeSession(session) {
    this.session = session;
    this.#changed("session");
  }

  /**
   * Post a turn. Throws Problem; the same `key` makes trying again safe.
   * @param {string} content
   * @param {string} key
   * @param {"enqueue"|"rollback"} strategy what becomes of the turns that are not over
   * @param {AbortSignal} signal ends the waiting for an answer
   */
  async send(content, key, strategy, signal) {
    let record;
    try {
      record = await this.#api.postTurn(this.session.id, content, key, strategy, signal);
    } catch (problem) {
      if (problem.code !== "idempotency_conflict") throw problem;
      // An earlier try came through, with the other strategy: the turn is in the store.
      await this.read();
      return;
    }
    if (strategy === "rollback") this.#readLater(); // whose messages are gone
    const known = this.turns.get(record.id) ?? newTurn(record.id);
    // The row of a replayed key may have ended long ago: its text then comes from the store.
    if (!known.done && record.finished_at) this.#readLater();
    else this.#put(Object.freeze({ ...withRecord(known, record), question: content }), known.question === null);
  }

  /** Ask a turn to stop. Raises Problem when the service could not be asked. */
  async stop(turnId) {
    const before = this.turns.get(turnId);
    if (before === undefined || before.done) return;
    this.#put(askedToStop(before));
    try {
      const record = await this.#api.stopTurn(turnId);
      if (record.finished_at && this.#stream.state.name !== "live") this.#readLater();
    } catch (problem) {
      const now = this.turns.get(turnId);
      if (now && !now.done) this.#put(Object.freeze({ ...now, status: before.status }));
      throw problem;
    }
  }

  /** Read what was thought for an answer that is over; empty where the provider does not show it. Raises Problem. */
  async readReasoning(turnId) {
    const reasoning = await this.#api.reasoning(turnId);
    const turn = this.turns.get(turnId);
    if (turn && reasoning !== "") this.#put(Object.freeze({ ...turn, reasoning }));
    return reasoning;
  }

  /** Read the session, its turns and messages again, and take what they say. */
  async read() {
    if (this.#reading !== null) {
      this.#readAgain = true;
      return this.#reading;
    }
    this.#reading = this.#readStore();
    try {
      await this.#reading;
    } finally {
      this.#reading = null;
    }
    if (this.#readAgain) {
      this.#readAgain = false;
      return this.read();
    }
    return undefined;
  }

  async #readStore() {
    const asked = new Set(this.turns.keys());
    const records = await this.#api.turns(this.session.id);
    const messages = await this.#api.messages(this.session.id);
    this.session = await this.#api.session(this.session.id);
    this.turns = mergeStored(this.turns, records, messages, asked);
    this.#changed("session");
    this.#changed("accepted", new Set(records.map(keyOf)));
    this.#changed("turns");
  }

  /** Read the session alone. */
  async check() {
    this.takeSession(await this.#api.session(this.session.id));
  }

  /** Read again without anybody waiting for it; a failure is shown, not thrown. */
  async #readLater() {
    try {
      await this.read();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#changed("problem", problem);
    }
  }

  #take(event) {
    if (event.type === "title_updated") {
      this.session = { ...this.session, title: event.title };
      this.#changed("session");
    }
    if (!event.turn_id || event.type === "gap") return; // the snapshot that follows a gap says it all
    const known = this.turns.get(event.turn_id);
    const { turn, fate } = applyEvent(known ?? newTurn(event.turn_id), event);
    if (fate !== "applied") return; // the stream brings each event once and in order
    this.#put(turn, known === undefined);
    if (known === undefined) this.#readLater(); // asked elsewhere: its question is in the store
    if (turn.done) this.#finish(turn);
  }

  async #finish(turn) {
    let exact = await isExact(turn);
    if (exact === false) {
      await this.#readLater();
      const again = this.turns.get(turn.id);
      exact = again === undefined ? null : await isExact(again);
    }
    this.exact.set(turn.id, exact);
    await this.#refreshTotals(turn.id);
    if (turn.status === "failed") await this.#readLater(); // its messages say whether they are part of the conversation
    this.#changed("turn", turn.id);
  }

  async #refreshTotals(turnId) {
    try {
      const [session, record] = await Promise.all([this.#api.session(this.session.id), this.#api.turn(turnId)]);
      this.session = session;
      const turn = this.turns.get(turnId);
      if (turn) this.#put(withRecord(turn, record));
      this.#changed("session");
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#changed("problem", problem);
    }
  }

  /** After a connection: did something happen that no cursor of ours covers? */
  async #checkMissed() {
    try {
      const session = await this.#api.session(this.session.id);
      const isUnknown = session.active_turn_id !== null && !this.turns.has(session.active_turn_id);
      if (isUnknown || session.last_activity_at !== this.session.last_activity_at) await this.read();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#changed("problem", problem);
    }
  }

  /** The stream cannot be had just now: learn over HTTP whether the answer has ended. */
  async #askAboutActive() {
    const turn = this.active;
    if (turn === null) return;
    try {
      const record = await this.#api.turn(turn.id);
      if (record.finished_at) await this.read();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem; // said already by the state of the connection
    }
  }

  #put(turn, isNew = false) {
    if (this.turns.get(turn.id) === turn) return;
    this.turns.set(turn.id, turn);
    this.#changed(isNew ? "turns" : "turn", turn.id);
  }
}
