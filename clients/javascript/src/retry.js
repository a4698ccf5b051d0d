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
export const DEFAULT_POLICY = Object.freeze({
  tries: 6,
  limitMs: 60_000,
  answerMs: 20_000,
  firstPauseMs: 250,
  longestPauseMs: 8_000,
  reconnectMs: 60_000,
  crowdedPauseMs: 10_000,
});

/** Codes that mean that nothing was done and that waiting helps. */
const REFUSED_FOR_NOW = new Set([
  "rate_limited", "too_many_turns", "queue_full", "idempotency_in_progress", "request_timeout",
]);
/** Codes after which the request may have been carried out. */
const MAYBE_DONE = new Set(["unavailable", "internal"]);
/** Statuses from something between client and service, whose responses have no `code`. */
const PASSING_STATUSES = new Set([408, 500, 502, 503, 504]);

/**
 * Return whether a refused request may be sent again.
 * @param {{code: string, status: number}} refusal one without a `code` comes from something on the way
 * @param {boolean} isRepeatable whether sending it twice has the same effect as once
 */
export function mayRetry({ code, status }, isRepeatable) {
  if (REFUSED_FOR_NOW.has(code) || (code === "" && status === 429)) return true;
  return isRepeatable && (code === "" ? PASSING_STATUSES.has(status) : MAYBE_DONE.has(code));
}

/**
 * Return the time that the service asks to wait, from the more exact figure; null if it does not ask.
 * @param {string|null} header `Retry-After`: seconds or a date (RFC 9110 section 10.2.3)
 * @param {unknown} exact the problem's `retry_after_ms`
 * @param {number} now the current time, for a date
 */
export function retryAfterOf(header, exact, now) {
  if (typeof exact === "number" && Number.isInteger(exact) && exact >= 0) return exact;
  const said = (header ?? "").trim();
  if (/^[0-9]{1,9}$/.test(said)) return Number(said) * 1000;
  const at = /[A-Za-z]/.test(said) ? Date.parse(said) : NaN;
  return Number.isNaN(at) ? null : Math.max(0, at - now);
}

/**
 * Return the pause after this many consecutive failures; never shorter than the service asked for.
 * @param {RetryPolicy} policy
 * @param {number} failures
 * @param {() => number} random from 0 to 1
 * @param {number} [atLeastMs]
 */
export function pauseAfter(policy, failures, random, atLeastMs = 0) {
  const ceiling = Math.min(policy.longestPauseMs, policy.firstPauseMs * 2 ** Math.min(failures - 1, 32));
  return atLeastMs + random() * (atLeastMs > 0 ? policy.firstPauseMs : ceiling);
}

/** The connections of one stream: any progress starts the count again. */
export class Reconnects {
  #policy;
  #random;
  #failures = 0;
  /** @type {number|null} */
  #lostAt = null;

  /**
   * @param {RetryPolicy} policy
   * @param {() => number} random
   */
  constructor(policy, random) {
    this.#policy = policy;
    this.#random = random;
  }

  /** Note that the stream made progress, or that there is reason to hope. */
  progress() {
    this.#failures = 0;
    this.#lostAt = null;
  }

  /**
   * Count a lost connection; return how long to wait before the next, null to give up.
   * @param {number|null} retryAfterMs
   */
  nextPause(retryAfterMs) {
    const now = performance.now();
    this.#lostAt ??= now;
    this.#failures += 1;
    const wait = pauseAfter(this.#policy, this.#failures, this.#random, retryAfterMs ?? 0);
    return now + wait - this.#lostAt <= this.#policy.reconnectMs ? wait : null;
  }
}
