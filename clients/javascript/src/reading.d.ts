/** A turn up to `seq`. */
export class Reading {
    /**
     * Begin after the event `after`, with the text up to it if that is known.
     * @param {string} turnId
     * @param {number} [after]
     * @param {string|null} [text]
     */
    constructor(turnId: string, after?: number, text?: string | null);
    turnId: string;
    seq: number;
    attempt: number;
    text: string;
    reasoning: string;
    /** Whether the text is complete: not if reading began after a cursor without the text. */
    isWhole: boolean;
    /** @type {string} according to the events */
    status: string;
    /** @type {string|null} */
    messageId: string | null;
    /** @type {import("./events.js").Done|null} */
    done: import("./events.js").Done | null;
    /** @type {number|null} the attempt at a cursor is unknown: it is that of the first event */
    startedAttempt: number | null;
    /** Whether the text is the one that `done` names. */
    get isProved(): boolean;
    /**
     * Judge an event of this turn without taking it.
     * @param {TurnEvent} event
     * @returns {Verdict}
     */
    judge(event: TurnEvent): Verdict;
    /**
     * Fold an event that is `next`.
     * @param {TurnEvent} event
     */
    take(event: TurnEvent): void;
    /**
     * The text so far instead of the events that made it.
     * @returns {import("./events.js").Snapshot}
     */
    snapshot(): import("./events.js").Snapshot;
    #private;
}
export type TurnEvent = import("./events.js").TurnEvent;
/**
 * What an event means to a reader. `hole`: events before it are missing, resume from the cursor. `void`: what was read
 * before it is no longer valid, read the text again.
 */
export type Verdict = "next" | "seen" | "hole" | "void";
