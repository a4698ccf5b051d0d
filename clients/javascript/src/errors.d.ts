/**
 * What can go wrong, sorted by who must act.
 *
 * TurnkeeperError
 * ├── ApiError               the caller: the service refused a request; `code` says why
 * ├── TurnEndedError         the caller: `ask` was given a turn that failed or expired
 * ├── ConnectionFailedError  the network: all tries are used up
 * │   └── StreamLostError    the same while a stream was read; it can be resumed from its cursor
 * ├── TimeLimitError         the caller's own time limit has passed; the turn itself goes on
 * └── ProtocolError          us: the service sent what the protocol does not allow
 *     └── TextMismatchError  the text is not the one that `done` names, even after it was fetched again
 */
/** Any error that this client throws on purpose; a `signal` of your own throws its reason instead. */
export class TurnkeeperError extends Error {
    /** @param {string} message */
    constructor(message: string);
}
/** @typedef {{pointer: string, detail: string}} FieldError */
/** The service refused a request (RFC 9457). */
export class ApiError extends TurnkeeperError {
    /**
     * @param {object} problem
     * @param {string} [problem.detail] what was wrong, and the remedy
     * @param {number} [problem.status] the HTTP status; 0 if a stream was refused
     * @param {string} [problem.code] what a program branches on, such as `session_busy`; "" if something on the way
     *   answered instead of the service; unknown codes are possible
     * @param {string} [problem.title] the code's name for people
     * @param {string|null} [problem.requestId] the id by which an operator finds the request
     * @param {boolean} [problem.retryable] whether the same request may succeed later
     * @param {number|null} [problem.retryAfterMs] when that makes sense; null if the service did not say
     * @param {FieldError[]} [problem.errors] the invalid fields
     * @param {Record<string, unknown>} [problem.members] the problem's other members, such as `active_turn_id`
     */
    constructor({ detail, status, code, title, requestId, retryable, ...more }: {
        detail?: string | undefined;
        status?: number | undefined;
        code?: string | undefined;
        title?: string | undefined;
        requestId?: string | null | undefined;
        retryable?: boolean | undefined;
        retryAfterMs?: number | null | undefined;
        errors?: FieldError[] | undefined;
        members?: Record<string, unknown> | undefined;
    });
    detail: string;
    status: number;
    code: string;
    title: string;
    requestId: string | null;
    retryable: boolean;
    retryAfterMs: number | null;
    errors: FieldError[];
    members: Record<string, unknown>;
}
/** The turn that was asked for failed or expired; `answer` has its `error` and the partial text that was stored. */
export class TurnEndedError extends TurnkeeperError {
    /** @param {import("./asking.js").Answer} answer */
    constructor(answer: import("./asking.js").Answer);
    answer: import("./asking.js").Answer;
}
/** The service could not be reached or did not answer, within all tries and the time for them. */
export class ConnectionFailedError extends TurnkeeperError {
    /**
     * @param {string} message
     * @param {number|null} [retryAfterMs] when the service asked to come back
     */
    constructor(message: string, retryAfterMs?: number | null);
    retryAfterMs: number | null;
}
/** A stream's connection could not be opened again in time; `after` is the last `seq` read, 0 for a session. */
export class StreamLostError extends ConnectionFailedError {
    /**
     * @param {string} message
     * @param {number} after
     * @param {number|null} [retryAfterMs]
     */
    constructor(message: string, after: number, retryAfterMs?: number | null);
    after: number;
}
/** The caller's time limit has passed. The service continues its work. */
export class TimeLimitError extends TurnkeeperError {
}
/** The service sent something that the protocol does not allow. */
export class ProtocolError extends TurnkeeperError {
}
/** By its SHA-256 the text is not the stored one, even after it was fetched again; `text` is what was read. */
export class TextMismatchError extends ProtocolError {
    /**
     * @param {string} turnId
     * @param {string} text
     */
    constructor(turnId: string, text: string);
    text: string;
}
export type FieldError = {
    pointer: string;
    detail: string;
};
