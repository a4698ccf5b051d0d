/**
 * Yield the events of all turns of a session that are running or begin from now on, until the caller closes it. Throws
 * ApiError if the stream was refused for good, StreamLostError, TimeLimitError.
 * @param {Watcher} watcher
 * @param {import("./line.js").Line} line
 * @returns {AsyncGenerator<TurnEvent, void, undefined>}
 */
export function watch(watcher: Watcher, line: import("./line.js").Line): AsyncGenerator<TurnEvent, void, undefined>;
export function isOver(turn: Turn): boolean;
/** Which turns of a session have been read, and how far. */
export class Watcher {
    /**
     * @param {string} sessionId
     * @param {import("./exchange.js").Means} means
     * @param {AbortSignal} signal
     * @param {boolean} bySnapshot whether text from before the watching is sent in one piece
     */
    constructor(sessionId: string, means: import("./exchange.js").Means, signal: AbortSignal, bySnapshot: boolean);
    /**
     * Find out which turns are over before the watching begins; all others are read from their start. Throws
     * ApiError if the session cannot be read, Broken if nobody answered.
     */
    begin(): Promise<void>;
    /**
     * Return the turns to continue on a new connection, oldest first.
     * @returns {Asked[]}
     */
    openTurns(): Asked[];
    /**
     * Return the request for a session without an open turn.
     * @returns {Asked}
     */
    anyTurn(): Asked;
    /**
     * Return the turns that are over and were not read to their end, oldest first. Throws StreamLostError if there are
     * too many, Broken if they could not be listed.
     * @returns {Promise<Asked[]>}
     */
    missedTurns(): Promise<Asked[]>;
    /**
     * Take a frame; return the events in it that are for the caller.
     * @param {import("./events.js").Frame} frame
     * @returns {TurnEvent[]}
     */
    take(frame: import("./events.js").Frame): TurnEvent[];
    #private;
}
export type Turn = import("./api.js").Turn;
export type Asked = import("./line.js").Asked;
export type TurnEvent = import("./events.js").TurnEvent;
