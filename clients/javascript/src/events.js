/**
 * A turn's events as they are on the wire, and which frames are events. Those in `TurnEvent` have a `seq` or replace
 * events that have one; what only maintains a connection (`subscribed`, `caught_up`, `ping`) never reaches a caller.
 */

/** @typedef {import("./api.js").TurnEvent} TurnEvent */
/** @typedef {import("./api.js").Done} Done */
/** @typedef {import("./api.js").Gap} Gap */
/** @typedef {import("./api.js").Snapshot} Snapshot */

/** @typedef {Record<string, any>} Frame */

/**
 * Return a frame as an event of a turn, null if it is none.
 * @param {Frame} frame
 * @returns {TurnEvent|null}
 */
export function eventIn(frame) {
  if (typeof frame.turn_id !== "string" || typeof frame.type !== "string") return null;
  if (frame.type === "gap") return /** @type {Gap} */ (frame);
  // `subscribed` and refusals also name a turn.
  if (typeof frame.seq !== "number" || typeof frame.attempt !== "number") return null;
  return /** @type {TurnEvent} */ (frame);
}
