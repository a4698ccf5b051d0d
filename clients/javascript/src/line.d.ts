/**
 * Exchange a call that a stream needs; a temporary failure breaks the connection, which is opened again.
 * @param {Means} means
 * @param {import("./exchange.js").Call} call
 * @param {AbortSignal} signal
 */
export function beside(means: Means, call: import("./exchange.js").Call, signal: AbortSignal): Promise<any>;
/** @typedef {import("./events.js").Frame} Frame */
/** @typedef {import("./exchange.js").Means} Means */
/**
 * How a stream is carried. `auto`: by websocket with a ticket, and a turn's stream by server-sent events if websockets
 * do not get through; `ticket` and `sse` insist. `key`: websocket with the key in the handshake; needs `openSocket`.
 * @typedef {"auto"|"ticket"|"key"|"sse"} Via
 */
/**
 * What to request on the next connection.
 * @typedef {{sessionId: string, turnId: string|null, after: number, bySnapshot: boolean}} Asked
 */
/**
 * The state of a stream. `waiting` has the time of the next try, in ms as of `Date.now()`.
 * @typedef {{name: "connecting"}|{name: "live"}|{name: "waiting", retryAt: number}} StreamState
 */
/** The connection is no longer usable; another one may be. */
export class Broken extends Error {
    /**
     * @param {string} why
     * @param {number|null} [retryAfterMs]
     */
    constructor(why: string, retryAfterMs?: number | null);
    retryAfterMs: number | null;
}
export class Line {
    /**
     * Prepare; no connection is opened yet.
     * @param {Means} means
     * @param {object} options
     * @param {Via} options.via
     * @param {import("./wires.js").OpenSocket} options.openSocket
     * @param {AbortSignal} options.signal
     * @param {number} options.limitMs for the whole stream
     * @param {(state: StreamState) => void} options.onState
     */
    constructor(means: Means, { via, openSocket, signal, limitMs, onState }: {
        via: Via;
        openSocket: import("./wires.js").OpenSocket;
        signal: AbortSignal;
        limitMs: number;
        onState: (state: StreamState) => void;
    });
    connections: number;
    /** Note that the stream made progress. */
    progress(): void;
    /** Note that the replay is complete, and that what follows is live. */
    live(): void;
    /** Continue now: end a pause, or find out whether the connection still works. */
    wake(): void;
    /**
     * Open a connection and make a request on it. Throws Broken, ApiError, TimeLimitError.
     * @param {Asked} asked
     */
    open(asked: Asked): Promise<void>;
    /**
     * Make a request on the open websocket.
     * @param {Asked} asked
     */
    ask({ sessionId, turnId, after, bySnapshot }: Asked): void;
    /**
     * Wait for frames. Throws Broken if the connection ended, ApiError if it was ended for good or the request on it was
     * refused, ProtocolError if something that is not a frame arrived, TimeLimitError.
     * @returns {Promise<Frame[]>}
     */
    frames(): Promise<Frame[]>;
    /**
     * Wait before the next connection. Throws StreamLostError if it has been tried long enough, TimeLimitError.
     * @param {Broken} broken
     * @param {number} after for StreamLostError
     */
    comeBack(broken: Broken, after: number): Promise<void>;
    /** Close the connection, if one is open. */
    hang(): void;
    #private;
}
export type Frame = import("./events.js").Frame;
export type Means = import("./exchange.js").Means;
/**
 * How a stream is carried. `auto`: by websocket with a ticket, and a turn's stream by server-sent events if websockets
 * do not get through; `ticket` and `sse` insist. `key`: websocket with the key in the handshake; needs `openSocket`.
 */
export type Via = "auto" | "ticket" | "key" | "sse";
/**
 * What to request on the next connection.
 */
export type Asked = {
    sessionId: string;
    turnId: string | null;
    after: number;
    bySnapshot: boolean;
};
/**
 * The state of a stream. `waiting` has the time of the next try, in ms as of `Date.now()`.
 */
export type StreamState = {
    name: "connecting";
} | {
    name: "live";
} | {
    name: "waiting";
    retryAt: number;
};
