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
export function eventIn(frame: Frame): TurnEvent | null;
export type TurnEvent = import("./api.js").TurnEvent;
export type Done = import("./api.js").Done;
export type Gap = import("./api.js").Gap;
export type Snapshot = import("./api.js").Snapshot;
export type Frame = Record<string, any>;
