/** @typedef {import("./events.js").Frame} Frame */
/** @typedef {import("./exchange.js").Means} Means */
/**
 * The part of a browser's WebSocket that is used; those of the `ws` package and of Node fit as well.
 * @typedef {object} Socket
 * @property {number} readyState
 * @property {(text: string) => void} send
 * @property {(code?: number) => void} close
 * @property {(type: "open"|"message"|"close"|"error", listener: (event: any) => void) => void} addEventListener
 */
/**
 * Opens a websocket. `headers` has the key if that is to open it (`via: "key"`), which browsers cannot send.
 * @typedef {(url: string, protocols: string[], headers: Record<string, string>) => Socket} OpenSocket
 */
/** The stream ended; `code` is a websocket's close code, null if it was lost or is not a websocket. */
export class Ended extends Error {
    /**
     * @param {string} why
     * @param {number|null} [code]
     */
    constructor(why: string, code?: number | null);
    code: number | null;
}
/**
 * A stream's frames, as they arrive.
 * @typedef {object} Wire
 * @property {(limitMs: number, signal: AbortSignal) => Promise<Frame[]>} hear waits; empty after `limitMs`; throws Ended
 * @property {(frame: Frame) => void} say
 * @property {() => void} probe find out soon whether it still works
 * @property {() => void} close
 */
/** @implements {Wire} */
export class SocketWire implements Wire {
    /**
     * Open one. Throws ConnectionFailedError; scripts are not told why a handshake was refused.
     * @param {Socket} socket
     * @param {number} limitMs
     * @param {AbortSignal} signal
     */
    static open(socket: Socket, limitMs: number, signal: AbortSignal): Promise<SocketWire>;
    /** @param {Socket} socket */
    constructor(socket: Socket);
    isOpen: boolean;
    hear(limitMs: number, signal: AbortSignal): Promise<Frame[]>;
    say(frame: Frame): void;
    probe(): void;
    close(): void;
    #private;
}
/** @implements {Wire} */
export class EventsWire implements Wire {
    /**
     * Open a turn's events behind `after`. Throws ApiError and ConnectionFailedError.
     * @param {Means} means
     * @param {{path: string, after: number, limitMs: number, signal: AbortSignal}} what
     */
    static open(means: Means, { path, after, limitMs, signal }: {
        path: string;
        after: number;
        limitMs: number;
        signal: AbortSignal;
    }): Promise<EventsWire>;
    /**
     * @param {ReadableStreamDefaultReader<Uint8Array>} reader
     * @param {AbortController} abort
     */
    constructor(reader: ReadableStreamDefaultReader<Uint8Array>, abort: AbortController);
    hear(limitMs: number, signal: AbortSignal): Promise<Frame[]>;
    say(): void;
    probe(): void;
    close(): void;
    #private;
}
export type Frame = import("./events.js").Frame;
export type Means = import("./exchange.js").Means;
/**
 * The part of a browser's WebSocket that is used; those of the `ws` package and of Node fit as well.
 */
export type Socket = {
    readyState: number;
    send: (text: string) => void;
    close: (code?: number) => void;
    addEventListener: (type: "open" | "message" | "close" | "error", listener: (event: any) => void) => void;
};
/**
 * Opens a websocket. `headers` has the key if that is to open it (`via: "key"`), which browsers cannot send.
 */
export type OpenSocket = (url: string, protocols: string[], headers: Record<string, string>) => Socket;
/**
 * A stream's frames, as they arrive.
 */
export type Wire = {
    /**
     * waits; empty after `limitMs`; throws Ended
     */
    hear: (limitMs: number, signal: AbortSignal) => Promise<Frame[]>;
    say: (frame: Frame) => void;
    /**
     * find out soon whether it still works
     */
    probe: () => void;
    close: () => void;
};
