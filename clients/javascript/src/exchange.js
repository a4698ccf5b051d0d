/** One call of the API, repeated until it is answered. All tries are the same request: a turn keeps one key. */

import { Bell, within } from "./bell.js";
import { ApiError, ConnectionFailedError, ProtocolError, TurnkeeperError } from "./errors.js";
import { mayRetry, pauseAfter, retryAfterOf } from "./retry.js";

const MOST_ANSWER_CHARACTERS = 64 * 1024 * 1024; // a page of a hundred long messages

/**
 * What a call needs besides its subject.
 * @typedef {object} Means
 * @property {string} url the service's, without a trailing slash
 * @property {string} key
 * @property {typeof fetch} fetch
 * @property {import("./retry.js").RetryPolicy} policy
 * @property {() => number} random
 */

/**
 * One operation of the API, not yet sent.
 * @typedef {object} Call
 * @property {string} method
 * @property {string} path
 * @property {Record<string, unknown>} [query] null and undefined values are left out
 * @property {Record<string, string>} [headers]
 * @property {unknown} [body]
 * @property {boolean} [isRepeatable] whether sending it twice has the same effect as once; true by default
 * @property {number} [waitsMs] how long the service may wait before it answers, on top of the usual time
 * @property {number[]} [alsoAccepts] statuses from 400 on that are not refusals
 */

/** @typedef {{signal?: AbortSignal, limitMs?: number}} Bounds */

/**
 * Send a call until it is answered, within the policy's bounds; return the parsed response, null if it is empty.
 * Throws ApiError if it was refused, ConnectionFailedError if nobody answered, ProtocolError if the response
 * cannot be read, and the signal's reason.
 * @param {Means} means
 * @param {Call} call
 * @param {Bounds} bounds
 * @returns {Promise<any>}
 */
export async function exchange(means, call, { signal, limitMs = Infinity } = {}) {
  const { policy } = means;
  const waitsMs = call.waitsMs ?? 0;
  const endsAt = performance.now() + Math.min(policy.limitMs + waitsMs, limitMs);
  for (let failures = 1; ; failures += 1) {
    const most = Math.min(endsAt - performance.now(), policy.answerMs + waitsMs);
    const failure = await attempt(means, call, most, signal);
    if (!(failure instanceof TurnkeeperError)) return failure.answer;
    const isWorthIt =
      failure instanceof ApiError
        ? mayRetry(failure, call.isRepeatable ?? true)
        : failure instanceof ConnectionFailedError && (call.isRepeatable ?? true);
    const retryAfterMs = failure instanceof ApiError ? failure.retryAfterMs : null;
    const wait = pauseAfter(policy, failures, means.random, retryAfterMs ?? 0);
    // A try that could only begin at the very end does not count.
    if (!isWorthIt || failures >= policy.tries || wait >= endsAt - performance.now()) throw failure;
    await new Bell().wait(wait, signal);
  }
}

/**
 * @param {Means} means
 * @param {Call} call
 * @param {number} limitMs
 * @param {AbortSignal} [signal]
 * @returns {Promise<{answer: any}|TurnkeeperError>}
 */
async function attempt(means, call, limitMs, signal) {
  try {
    return await within(limitMs, signal, async (own) => {
      const response = await means.fetch(addressOf(means, call), requestOf(means, call, own));
      const text = await textOf(response);
      if (response.ok || call.alsoAccepts?.includes(response.status)) return { answer: parsed(text, response.status) };
      return refusalOf(response.status, response.headers, text);
    });
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (error instanceof TurnkeeperError) return error;
    const why = error instanceof Error ? error.name : "unknown";
    return new ConnectionFailedError(`${call.method} ${call.path} was not answered (${why})`);
  }
}

/**
 * @param {Means} means
 * @param {Pick<Call, "path"|"query">} call
 */
export function addressOf({ url }, { path, query = {} }) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `${url}${path}${search === "" ? "" : `?${search}`}`;
}

/**
 * @param {Means} means
 * @param {Call} call
 * @param {AbortSignal} signal
 * @returns {RequestInit}
 */
export function requestOf({ key }, { method, headers = {}, body }, signal) {
  const own = new Headers({ Accept: "application/json", Authorization: `Bearer ${key}`, ...headers });
  if (body !== undefined) own.set("Content-Type", "application/json");
  return {
    method,
    headers: own,
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: "no-store",
    credentials: "omit",
    redirect: "error", // the key goes to the named service and to no other
    signal,
  };
}

/**
 * Read a body, up to the most that the service sends.
 * @param {Response} response
 */
export async function textOf(response) {
  if (response.body === null) return "";
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    text += decoder.decode(value, { stream: true });
    if (text.length > MOST_ANSWER_CHARACTERS) {
      await reader.cancel();
      throw new ProtocolError(`an answer has more than ${MOST_ANSWER_CHARACTERS} characters`);
    }
  }
}

/**
 * Return the error for a response that is not a success.
 * @param {number} status
 * @param {Headers} headers
 * @param {string} text
 */
export function refusalOf(status, headers, text) {
  const { type, title, status: _, detail, code, request_id, retryable, retry_after_ms, errors, ...members } = problemIn(
    headers,
    text,
  );
  return new ApiError({
    detail: detail ?? `the answer has status ${status} and no problem in it`,
    status,
    code,
    title,
    requestId: request_id ?? headers.get("X-Request-Id"),
    retryable: retryable === true,
    retryAfterMs: retryAfterOf(headers.get("Retry-After"), retry_after_ms, Date.now()),
    errors: Array.isArray(errors) ? errors : [],
    members,
  });
}

/**
 * @param {Headers} headers
 * @param {string} text
 * @returns {Record<string, any>} empty if something on the way answered
 */
function problemIn(headers, text) {
  if (!headers.get("Content-Type")?.startsWith("application/problem+json")) return {};
  try {
    const found = JSON.parse(text);
    return typeof found === "object" && found !== null ? found : {};
  } catch {
    return {}; // cut or replaced on the way
  }
}

/**
 * @param {string} text
 * @param {number} status
 */
function parsed(text, status) {
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    throw new ProtocolError(`an answer with status ${status} is no JSON`);
  }
}
