/**
 * @param {string} sessionId
 * @param {import("./api.js").NewTurn} body
 * @param {string} key
 * @param {string|undefined} traceparent
 * @returns {Call}
 */
export function createTurn(sessionId: string, body: import("./api.js").NewTurn, key: string, traceparent: string | undefined): Call;
/**
 * @param {string} turnId
 * @param {number} [waitSeconds]
 * @returns {Call}
 */
export function getTurn(turnId: string, waitSeconds?: number): Call;
/**
 * A key that no other request has. It protects nothing, so it may come from `Math.random` if a page came over plain
 * http in an old browser, or in a Node without `crypto`.
 */
export function newKey(): string;
export function reading(query?: Record<string, unknown>, ...parts: string[]): Call;
export function changing(method: string, body: unknown, ...parts: string[]): Call;
export function making(body: unknown, kind: string): Call;
export function listTurns(sessionId: string, query: {
    limit?: number;
    cursor?: string | null;
}): import("./exchange.js").Call;
export type Call = import("./exchange.js").Call;
