/**
 * A turn's events as the wire has them, and what of a frame is one. Those in `TurnEvent` have a `seq`, or stand in place
 * of events that have one; what only keeps a connection going (`subscribed`, `caught_up`, `ping`) never reaches a caller.
 */

/** @typedef {import("./api.js").TurnEvent} TurnEvent */
/** @typedef {import("./api.js").Done} Done */
/** @typedef {import("./api.js").Gap} Gap */
/** @typedef {import("./api.js").Snapshot} Snapshot */

/** @typedef {Record<string, any>} Frame */

/**
 * Return a frame as an event of a turn, null when it is none.
 * @param {Frame} frame
 * @returns {TurnEvent|null}
 */
export function eventIn(frame) {
  if (typeof frame.turn_id !== "string" || typeof frame.type !== "string") return null;
  if (frame.type === "gap") return /** @type {Gap} */ (frame);
  // `subscribed` and refusals name a turn, too.
  if (typeof frame.seq !== "number" || typeof frame.attempt !== "number") return null;
  return /** @type {TurnEvent} */ (frame);
}
