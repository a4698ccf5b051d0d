/**
 * Yield a turn's events after the follower's cursor, `done` last. Throws ApiError if the stream was refused for good,
 * StreamLostError, TextMismatchError and TimeLimitError.
 * @param {Follower} follower
 * @param {import("./line.js").Line} line
 * @returns {AsyncGenerator<TurnEvent, void, undefined>}
 */
export function follow(follower: Follower, line: import("./line.js").Line): AsyncGenerator<TurnEvent, void, undefined>;
/** @typedef {import("./events.js").TurnEvent} TurnEvent */
/** @typedef {import("./line.js").Asked} Asked */
/** Takes one turn's events and decides which of them the caller sees. */
export class Follower {
    /**
     * @param {string} sessionId
     * @param {Reading} reading the turn as the caller has it; continued in place
     * @param {boolean} [beginsBySnapshot] whether to request the text so far in one piece
     */
    constructor(sessionId: string, reading: Reading, beginsBySnapshot?: boolean);
    sessionId: string;
    reading: Reading;
    /** How often the text had to be fetched again. */
    mended: number;
    /**
     * Return what to request on the next connection.
     * @returns {Asked}
     */
    asked(): Asked;
    /**
     * Take an event; return the events that the caller is to see. Throws Broken if it is not the next one, and
     * TextMismatchError if the text is wrong, even after it was fetched again.
     * @param {TurnEvent} event
     * @returns {TurnEvent[]}
     */
    take(event: TurnEvent): TurnEvent[];
    #private;
}
export type TurnEvent = import("./events.js").TurnEvent;
export type Asked = import("./line.js").Asked;
import { Reading } from "./reading.js";
