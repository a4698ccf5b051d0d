/**
 * The progress of a stream; written by the code that reads it.
 * @typedef {object} Progress
 * @property {import("./following.js").Follower|null} follower null for a session, and until a turn is known
 * @property {import("./line.js").Line|null} line
 * @property {import("./asking.js").Answer|null} answer
 */
/**
 * A turn or a session that is being streamed: `for await` it. Leaving the loop closes it; the service continues.
 * @template T
 * @implements {AsyncIterableIterator<T>}
 */
export class Stream<T> implements AsyncIterableIterator<T> {
    /**
     * Nothing is opened before the first item is asked for.
     * @param {(progress: Progress, signal: AbortSignal) => AsyncGenerator<T, any, undefined>} begin
     * @param {AbortSignal} [signal] ends the stream, whose reader is thrown its reason
     */
    constructor(begin: (progress: Progress, signal: AbortSignal) => AsyncGenerator<T, any, undefined>, signal?: AbortSignal);
    /** @returns {Promise<IteratorResult<T, any>>} */
    next(): Promise<IteratorResult<T, any>>;
    /** Called when a loop is left. */
    return(): Promise<{
        done: true;
        value: undefined;
    }>;
    /** Close the connection; a waiting reader sees the end. */
    close(): void;
    /** Continue at once: the network or the reader is back. Ends a pause, or finds out whether the connection works. */
    wake(): void;
    /** Read to the end and return `done`; throws TypeError if the stream was already closed. */
    untilDone(): Promise<import("./api.js").Done>;
    /** The turn's id; null until it is posted, and for a session. */
    get turnId(): string | null;
    get sessionId(): string | null;
    /** The answer's text so far. Once `done` has arrived, it is the stored text, checked by its SHA-256. */
    get text(): string;
    /** The thinking text so far. */
    get reasoning(): string;
    /** The turn's status, according to its events so far. */
    get status(): string;
    /** The cursor: `streamTurn(turn, {after: seq, text})` resumes here, even in another process. */
    get seq(): number;
    /** The attempt of the last event. */
    get attempt(): number;
    /** The answer's message. */
    get messageId(): string | null;
    /** The last event, with usage and cost; null until it arrives. */
    get done(): import("./api.js").Done | null;
    /** What `ask` would have returned; null before the end, or if this stream did not post the turn. */
    get answer(): import("./asking.js").Answer | null;
    /** How many connections have been opened so far. */
    get connections(): number;
    /** How often the text differed from the service's and was fetched again. */
    get mended(): number;
    [Symbol.asyncIterator](): this;
    #private;
}
/**
 * The progress of a stream; written by the code that reads it.
 */
export type Progress = {
    /**
     * null for a session, and until a turn is known
     */
    follower: import("./following.js").Follower | null;
    line: import("./line.js").Line | null;
    answer: import("./asking.js").Answer | null;
};
