/**
 * Return whether a refused request may be sent again.
 * @param {{code: string, status: number}} refusal one without a `code` comes from something on the way
 * @param {boolean} isRepeatable whether sending it twice has the same effect as once
 */
export function mayRetry({ code, status }: {
    code: string;
    status: number;
}, isRepeatable: boolean): boolean;
/**
 * Return the time that the service asks to wait, from the more exact figure; null if it does not ask.
 * @param {string|null} header `Retry-After`: seconds or a date (RFC 9110 section 10.2.3)
 * @param {unknown} exact the problem's `retry_after_ms`
 * @param {number} now the current time, for a date
 */
export function retryAfterOf(header: string | null, exact: unknown, now: number): number | null;
/**
 * Return the pause after this many consecutive failures; never shorter than the service asked for.
 * @param {RetryPolicy} policy
 * @param {number} failures
 * @param {() => number} random from 0 to 1
 * @param {number} [atLeastMs]
 */
export function pauseAfter(policy: RetryPolicy, failures: number, random: () => number, atLeastMs?: number): number;
/**
 * Whether and when something is tried again.
 *
 * A refusal that certainly changed nothing is tried again for every call. What may have been done is tried again
 * only if doing it twice has the same effect as doing it once.
 */
/**
 * How hard the client tries.
 * @typedef {object} RetryPolicy
 * @property {number} tries how often one call is sent at most
 * @property {number} limitMs the limit for all tries of one call and the pauses between them
 * @property {number} answerMs the limit for one try
 * @property {number} firstPauseMs the pause is drawn from 0 to this, then to twice this, and so on (full jitter)
 * @property {number} longestPauseMs the end of that doubling
 * @property {number} reconnectMs how long a stream may go without progress while its connection fails
 * @property {number} crowdedPauseMs the pause before reopening a stream that was closed because there were too many
 */
/** @type {Readonly<RetryPolicy>} */
export const DEFAULT_POLICY: Readonly<RetryPolicy>;
/** The connections of one stream: any progress starts the count again. */
export class Reconnects {
    /**
     * @param {RetryPolicy} policy
     * @param {() => number} random
     */
    constructor(policy: RetryPolicy, random: () => number);
    /** Note that the stream made progress, or that there is reason to hope. */
    progress(): void;
    /**
     * Count a lost connection; return how long to wait before the next, null to give up.
     * @param {number|null} retryAfterMs
     */
    nextPause(retryAfterMs: number | null): number | null;
    #private;
}
/**
 * How hard the client tries.
 */
export type RetryPolicy = {
    /**
     * how often one call is sent at most
     */
    tries: number;
    /**
     * the limit for all tries of one call and the pauses between them
     */
    limitMs: number;
    /**
     * the limit for one try
     */
    answerMs: number;
    /**
     * the pause is drawn from 0 to this, then to twice this, and so on (full jitter)
     */
    firstPauseMs: number;
    /**
     * the end of that doubling
     */
    longestPauseMs: number;
    /**
     * how long a stream may go without progress while its connection fails
     */
    reconnectMs: number;
    /**
     * the pause before reopening a stream that was closed because there were too many
     */
    crowdedPauseMs: number;
};
