/** @typedef {import("./api.js").Turn} Turn */
/** @typedef {import("./events.js").TurnEvent} TurnEvent */
/** @typedef {import("./exchange.js").Means} Means */
/** @typedef {import("./stream.js").Progress} Progress */
/** @typedef {ConstructorParameters<typeof Line>[1]} LineOptions */
/**
 * A turn that has ended, with its text, which is the stored one by its SHA-256.
 * @typedef {{text: string, reasoning: string, sessionId: string, turn: Turn}} Answer
 */
/**
 * Text to append to what was shown or, if `replaces` is true, to show instead of all of it.
 * @typedef {{text: string, replaces: boolean}} Piece
 */
/**
 * The question; with `sessionId` null it opens a session for `user`.
 * @typedef {object} Question
 * @property {string|null} sessionId
 * @property {string|undefined} user
 * @property {import("./api.js").NewTurn} body
 * @property {string|undefined} idempotencyKey
 */
/**
 * Post a question and yield its turn's events to the end; `progress.answer` is the answer. Throws TurnEndedError if
 * the turn failed or expired, and whatever `exchange` and `follow` throw.
 * @param {Means} means
 * @param {Question} question
 * @param {Progress} progress
 * @param {LineOptions} options
 * @returns {AsyncGenerator<TurnEvent, Answer, undefined>}
 */
export function asking(means: Means, { sessionId, user, body, idempotencyKey }: Question, progress: Progress, options: LineOptions): AsyncGenerator<TurnEvent, Answer, undefined>;
/**
 * Yield a turn's events after `after`, up to which its text is `text`; `done` comes last; see `follow`.
 * @param {Means} means
 * @param {Turn|string} turn
 * @param {{after: number, text: string|null}} from
 * @param {Progress} progress
 * @param {LineOptions} options
 * @returns {AsyncGenerator<TurnEvent, void, undefined>}
 */
export function following(means: Means, turn: Turn | string, { after, text }: {
    after: number;
    text: string | null;
}, progress: Progress, options: LineOptions): AsyncGenerator<TurnEvent, void, undefined>;
/**
 * Return the turn once it has ended, without a stream. Throws TimeLimitError if it has not ended within `limitMs`.
 * @param {Means} means
 * @param {string} turnId
 * @param {{limitMs: number, signal?: AbortSignal}} bounds
 * @returns {Promise<Turn>}
 */
export function waitForTurn(means: Means, turnId: string, { limitMs, signal }: {
    limitMs: number;
    signal?: AbortSignal;
}): Promise<Turn>;
/**
 * Turn events into pieces of text for a program that shows it.
 * @param {AsyncGenerator<TurnEvent, any, undefined>} events
 * @returns {AsyncGenerator<Piece, any, undefined>}
 */
export function pieces(events: AsyncGenerator<TurnEvent, any, undefined>): AsyncGenerator<Piece, any, undefined>;
export type Turn = import("./api.js").Turn;
export type TurnEvent = import("./events.js").TurnEvent;
export type Means = import("./exchange.js").Means;
export type Progress = import("./stream.js").Progress;
export type LineOptions = ConstructorParameters<typeof Line>[1];
/**
 * A turn that has ended, with its text, which is the stored one by its SHA-256.
 */
export type Answer = {
    text: string;
    reasoning: string;
    sessionId: string;
    turn: Turn;
};
/**
 * Text to append to what was shown or, if `replaces` is true, to show instead of all of it.
 */
export type Piece = {
    text: string;
    replaces: boolean;
};
/**
 * The question; with `sessionId` null it opens a session for `user`.
 */
export type Question = {
    sessionId: string | null;
    user: string | undefined;
    body: import("./api.js").NewTurn;
    idempotencyKey: string | undefined;
};
import { Line } from "./line.js";
