/**
 * One turn as one reader has it: events folded into the text, each once and in order.
 *
 * The service promises a stream without a silent hole. It is checked anyway, because something on the way may break
 * it: an event that is not the next one is not taken, and the text is checked against the hash that `done` names.
 */

import { sha256 } from "./sha256.js";

/** @typedef {import("./events.js").TurnEvent} TurnEvent */

/**
 * What an event means to a reader. `hole`: events before it are missing, resume from the cursor. `void`: what was read
 * before it is no longer valid, read the text again.
 * @typedef {"next"|"seen"|"hole"|"void"} Verdict
 */

/** Events that make sense only after their attempt has begun. */
const OF_AN_ATTEMPT = new Set(["message_start", "content_delta", "reasoning_delta", "message_end"]);

/** A turn up to `seq`. */
export class Reading {
  /**
   * Begin after the event `after`, with the text up to it if that is known.
   * @param {string} turnId
   * @param {number} [after]
   * @param {string|null} [text]
   */
  constructor(turnId, after = 0, text = null) {
    this.turnId = turnId;
    this.seq = after;
    this.attempt = 0;
    this.text = text ?? "";
    this.reasoning = "";
    /** Whether the text is complete: not if reading began after a cursor without the text. */
    this.isWhole = after === 0 || text !== null;
    /** @type {string} according to the events */
    this.status = "queued";
    /** @type {string|null} */
    this.messageId = null;
    /** @type {import("./events.js").Done|null} */
    this.done = null;
    /** @type {number|null} the attempt at a cursor is unknown: it is that of the first event */
    this.startedAttempt = after === 0 ? 0 : null;
  }

  /** Whether the text is the one that `done` names. */
  get isProved() {
    return this.done !== null && sha256(this.text) === this.done.content_sha256;
  }

  /**
   * Judge an event of this turn without taking it.
   * @param {TurnEvent} event
   * @returns {Verdict}
   */
  judge(event) {
    // Even one from before the cursor: the service goes back if it lost what it had sent.
    if (event.type === "gap" || event.type === "snapshot") return this.done === null ? "next" : "seen";
    if (this.done !== null || event.attempt < this.attempt) return "seen";
    if (event.seq <= this.seq) return event.attempt > this.attempt ? "void" : "seen";
    if (event.seq > this.seq + 1) return "hole";
    // Its beginning had a number that belonged to an earlier attempt whose end was lost.
    const started = this.startedAttempt ?? event.attempt;
    return OF_AN_ATTEMPT.has(event.type) && event.attempt > started ? "void" : "next";
  }

  /**
   * Fold an event that is `next`.
   * @param {TurnEvent} event
   */
  take(event) {
    if (event.type === "gap") return;
    this.seq = event.seq;
    this.attempt = event.attempt;
    this.startedAttempt ??= event.attempt;
    switch (event.type) {
      case "content_delta":
        this.text += event.delta;
        break;
      case "reasoning_delta":
        this.reasoning += event.delta;
        break;
      case "turn_started":
        this.status = "running";
        this.startedAttempt = event.attempt;
        break;
      case "message_start":
        this.messageId = event.message_id;
        break;
      case "stop_requested":
        this.status = "stopping";
        break;
      case "message_reset":
        this.#become("", "", null);
        break;
      case "snapshot":
        this.#become(event.content, event.reasoning, event.message_id);
        this.startedAttempt = event.attempt;
        this.status = event.status;
        break;
      case "done":
        this.status = event.status;
        this.done = event;
        break;
      default: // an event that does not concern the text is still read
    }
  }

  /**
   * The text so far instead of the events that made it.
   * @returns {import("./events.js").Snapshot}
   */
  snapshot() {
    const status = /** @type {import("./api.js").TurnStatus} */ (this.status);
    return {
      type: "snapshot",
      turn_id: this.turnId,
      seq: this.seq,
      attempt: this.attempt,
      status,
      message_id: this.messageId,
      content: this.text,
      reasoning: this.reasoning,
    };
  }

  /**
   * @param {string} text
   * @param {string} reasoning
   * @param {string|null} messageId
   */
  #become(text, reasoning, messageId) {
    this.isWhole = true;
    this.text = text;
    this.reasoning = reasoning;
    this.messageId = messageId;
  }
}
