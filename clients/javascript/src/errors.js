/**
 * What can go wrong, drawn by who must act.
 *
 * TurnkeeperError
 * ├── ApiError               the caller: the service refused a request; `code` says why
 * ├── TurnEndedError         the caller: `ask` was given a turn that failed or expired
 * ├── ConnectionFailedError  the network: all tries are used up
 * │   └── StreamLostError    the same while a stream was read; it can be read on from its cursor
 * ├── TimeLimitError         the caller's own time limit is over; the turn itself goes on
 * └── ProtocolError          us: what came is not what the protocol says
 *     └── TextMismatchError  the text is not the one that `done` names, also when it was fetched again
 */

/** Anything that this client throws on purpose; a `signal` of your own throws its reason instead. */
export class TurnkeeperError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** @typedef {{pointer: string, detail: string}} FieldError */

/** The service refused a request (RFC 9457). */
export class ApiError extends TurnkeeperError {
  /**
   * @param {object} problem
   * @param {string} [problem.detail] what was wrong, and the remedy
   * @param {number} [problem.status] of HTTP; 0 where a stream was refused
   * @param {string} [problem.code] what a program branches on, such as `session_busy`; "" where something in between
   *   has answered; unknown codes are possible
   * @param {string} [problem.title] the code's name for people
   * @param {string|null} [problem.requestId] what an operator finds the request by
   * @param {boolean} [problem.retryable] whether the same request may succeed later
   * @param {number|null} [problem.retryAfterMs] when that makes sense; null where nothing was said
   * @param {FieldError[]} [problem.errors] wrong fields
   * @param {Record<string, unknown>} [problem.members] what else the problem says, such as `active_turn_id`
   */
  constructor({ detail = "", status = 0, code = "", title = "", requestId = null, retryable = false, ...more }) {
    super(code === "" ? detail : `${code}: ${detail}`);
    this.detail = detail;
    this.status = status;
    this.code = code;
    this.title = title;
    this.requestId = requestId;
    this.retryable = retryable;
    this.retryAfterMs = more.retryAfterMs ?? null;
    this.errors = more.errors ?? [];
    this.members = more.members ?? {};
  }
}

/** The turn that was asked for failed or expired; `answer` has its `error` and the partial text that was kept. */
export class TurnEndedError extends TurnkeeperError {
  /** @param {import("./asking.js").Answer} answer */
  constructor(answer) {
    const { id, status, error } = answer.turn;
    super(`turn ${id} ${status}${error ? `: ${error.code}: ${error.detail}` : ""}`);
    this.answer = answer;
  }
}

/** The service could not be reached, or did not answer, as often and as long as was tried. */
export class ConnectionFailedError extends TurnkeeperError {
  /**
   * @param {string} message
   * @param {number|null} [retryAfterMs] when the service asked to come back
   */
  constructor(message, retryAfterMs = null) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

/** A stream's connection could not be made again in time; `after` is the last `seq` that was read, 0 of a session. */
export class StreamLostError extends ConnectionFailedError {
  /**
   * @param {string} message
   * @param {number} after
   * @param {number|null} [retryAfterMs]
   */
  constructor(message, after, retryAfterMs = null) {
    super(message, retryAfterMs);
    this.after = after;
  }
}

/** The time limit that the caller set is over. What the service does goes on. */
export class TimeLimitError extends TurnkeeperError {}

/** What came is not what the protocol says. */
export class ProtocolError extends TurnkeeperError {}

/** The text is not the stored one by its SHA-256, also after it was fetched again; `text` is what was read. */
export class TextMismatchError extends ProtocolError {
  /**
   * @param {string} turnId
   * @param {string} text
   */
  constructor(turnId, text) {
    super(`the text of turn ${turnId} is not the one that its \`done\` names`);
    this.text = text;
  }
}
