/** The operations of the HTTP API, each as a value that says how to send it. */

/** @typedef {import("./exchange.js").Call} Call */

const LONGEST_KEY = 255;

/**
 * A path of the API.
 * @param {...string} parts
 */
function path(...parts) {
  // An invalid id (empty, `..`) must not reach another path: `-` is not found.
  const safe = parts.map((part) => (part.replaceAll(".", "").trim() === "" ? "-" : encodeURIComponent(part)));
  return `/v1/${safe.join("/")}`;
}

/**
 * A call that reads.
 * @param {Record<string, unknown>} [query]
 * @param {...string} parts of the path
 * @returns {Call}
 */
export const reading = (query, ...parts) => ({ method: "GET", path: path(...parts), query });

/**
 * A call that changes something and may be sent twice.
 * @param {string} method
 * @param {unknown} body
 * @param {...string} parts of the path
 * @returns {Call}
 */
export const changing = (method, body, ...parts) => ({ method, path: path(...parts), body });

/**
 * A call that creates something, so sending it twice differs from sending it once.
 * @param {unknown} body
 * @param {string} kind
 * @returns {Call}
 */
export const making = (body, kind) => ({ method: "POST", path: path(kind), body, isRepeatable: false });

/**
 * @param {string} sessionId
 * @param {{limit?: number, cursor?: string|null}} query
 */
export const listTurns = (sessionId, query) => reading(query, "sessions", sessionId, "turns");

/**
 * @param {string} sessionId
 * @param {import("./api.js").NewTurn} body
 * @param {string} key
 * @param {string|undefined} traceparent
 * @returns {Call}
 */
export function createTurn(sessionId, body, key, traceparent) {
  if (!/^[!-~]+$/.test(key) || key.length > LONGEST_KEY) {
    throw new TypeError(`idempotencyKey must be 1 to ${LONGEST_KEY} visible ASCII characters`);
  }
  const headers = { "Idempotency-Key": key, ...(traceparent === undefined ? {} : { traceparent }) };
  return { method: "POST", path: path("sessions", sessionId, "turns"), body, headers };
}

/**
 * @param {string} turnId
 * @param {number} [waitSeconds]
 * @returns {Call}
 */
export function getTurn(turnId, waitSeconds = 0) {
  return { ...reading({ wait: waitSeconds || null }, "turns", turnId), waitsMs: waitSeconds * 1000 };
}

/**
 * A key that no other request has. It protects nothing, so it may come from `Math.random` if a page came over plain
 * http in an old browser, or in a Node without `crypto`.
 */
export function newKey() {
  const bytes = new Uint8Array(16);
  if (globalThis.crypto) crypto.getRandomValues(bytes);
  else bytes.forEach((_, at) => (bytes[at] = Math.floor(Math.random() * 256)));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
