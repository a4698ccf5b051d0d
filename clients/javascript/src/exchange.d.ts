/**
 * What a call needs besides its subject.
 * @typedef {object} Means
 * @property {string} url the service's, without a trailing slash
 * @property {string} key
 * @property {typeof fetch} fetch
 * @property {import("./retry.js").RetryPolicy} policy
 * @property {() => number} random
 */
/**
 * One operation of the API, not yet sent.
 * @typedef {object} Call
 * @property {string} method
 * @property {string} path
 * @property {Record<string, unknown>} [query] null and undefined values are left out
 * @property {Record<string, string>} [headers]
 * @property {unknown} [body]
 * @property {boolean} [isRepeatable] whether sending it twice has the same effect as once; true by default
 * @property {number} [waitsMs] how long the service may wait before it answers, on top of the usual time
 * @property {number[]} [alsoAccepts] statuses from 400 on that are not refusals
 */
/** @typedef {{signal?: AbortSignal, limitMs?: number}} Bounds */
/**
 * Send a call until it is answered, within the policy's bounds; return the parsed response, null if it is empty.
 * Throws ApiError if it was refused, ConnectionFailedError if nobody answered, ProtocolError if the response
 * cannot be read, and the signal's reason.
 * @param {Means} means
 * @param {Call} call
 * @param {Bounds} bounds
 * @returns {Promise<any>}
 */
export function exchange(means: Means, call: Call, { signal, limitMs }?: Bounds): Promise<any>;
/**
 * @param {Means} means
 * @param {Pick<Call, "path"|"query">} call
 */
export function addressOf({ url }: Means, { path, query }: Pick<Call, "path" | "query">): string;
/**
 * @param {Means} means
 * @param {Call} call
 * @param {AbortSignal} signal
 * @returns {RequestInit}
 */
export function requestOf({ key }: Means, { method, headers, body }: Call, signal: AbortSignal): RequestInit;
/**
 * Read a body, up to the most that the service sends.
 * @param {Response} response
 */
export function textOf(response: Response): Promise<string>;
/**
 * Return the error for a response that is not a success.
 * @param {number} status
 * @param {Headers} headers
 * @param {string} text
 */
export function refusalOf(status: number, headers: Headers, text: string): ApiError;
/**
 * What a call needs besides its subject.
 */
export type Means = {
    /**
     * the service's, without a trailing slash
     */
    url: string;
    key: string;
    fetch: typeof fetch;
    policy: import("./retry.js").RetryPolicy;
    random: () => number;
};
/**
 * One operation of the API, not yet sent.
 */
export type Call = {
    method: string;
    path: string;
    /**
     * null and undefined values are left out
     */
    query?: Record<string, unknown> | undefined;
    headers?: Record<string, string> | undefined;
    body?: unknown;
    /**
     * whether sending it twice has the same effect as once; true by default
     */
    isRepeatable?: boolean | undefined;
    /**
     * how long the service may wait before it answers, on top of the usual time
     */
    waitsMs?: number | undefined;
    /**
     * statuses from 400 on that are not refusals
     */
    alsoAccepts?: number[] | undefined;
};
export type Bounds = {
    signal?: AbortSignal;
    limitMs?: number;
};
import { ApiError } from "./errors.js";
