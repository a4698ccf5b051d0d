/**
 * A turn's events as they are on the wire, and which frames are events. Those in `TurnEvent` have a `seq` or replace
 * events that have one; what only maintains a connection (`subscribed`, `caught_up`, `ping`) never reaches a caller.
 */

/** @typedef {import("./api.js").UsageCounts} UsageCounts */
/** @typedef {import("./api.js").Turn} Turn */

/** @typedef {{session_id: string, turn_id: string, seq: number, attempt: number, ts: string}} Numbered */
/** @typedef {Numbered & {type: "turn_queued"}} TurnQueued committed */
/** @typedef {Numbered & {type: "turn_started", provider: string, model: string}} TurnStarted again for each attempt */
/** @typedef {Numbered & {type: "message_start", message_id: string}} MessageStart the provider answered */
/** @typedef {Numbered & {type: "content_delta", delta: string}} ContentDelta text, never empty */
/** @typedef {Numbered & {type: "reasoning_delta", delta: string}} ReasoningDelta thinking, not the answer */
/** @typedef {Numbered & {type: "message_reset", reason: string}} MessageReset the text so far is void */
/** @typedef {Numbered & {type: "message_end", usage: UsageCounts|null, finish_reason: string|null}} MessageEnd */
/** @typedef {Numbered & {type: "title_updated", title: string}} TitleUpdated */
/** @typedef {Numbered & {type: "stop_requested", stop_reason: string|null}} StopRequested */
/** @typedef {Numbered & {type: "error", error: NonNullable<Turn["error"]>}} TurnError why it failed; `done` follows */
/**
 * The turn is over: exactly one, and the last.
 * @typedef {Numbered & {type: "done", status: Turn["status"], finish_reason: Turn["finish_reason"],
 *   stop_reason: Turn["stop_reason"], usage: UsageCounts, usage_source: Turn["usage_source"], cost_usd: string,
 *   error: Turn["error"], content_sha256: string}} Done
 */
/** @typedef {{type: "gap", turn_id: string, from: number, to: number}} Gap no longer held; a `snapshot` follows */
/**
 * The text up to `seq`, instead of the events before: any text read before it is void.
 * @typedef {{type: "snapshot", turn_id: string, seq: number, attempt: number, status: Turn["status"],
 *   message_id: string|null, content: string, reasoning: string}} Snapshot
 */
/**
 * Later versions may send other events: a program ignores the types that it does not know.
 * @typedef {TurnQueued|TurnStarted|MessageStart|ContentDelta|ReasoningDelta|MessageReset|MessageEnd|TitleUpdated|
 *   StopRequested|TurnError|Done|Gap|Snapshot} TurnEvent
 */

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
