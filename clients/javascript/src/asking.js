/** Operations of several calls: asking a question, following a turn by its id, waiting for its end, showing text. */

import { Bell } from "./bell.js";
import { createTurn, getTurn, making, newKey } from "./calls.js";
import { ApiError, TimeLimitError, TurnEndedError } from "./errors.js";
import { exchange } from "./exchange.js";
import { Follower, follow } from "./following.js";
import { Line } from "./line.js";
import { Reading } from "./reading.js";
import { isOver } from "./watching.js";

const HOLD_SECONDS = 30;

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
export async function* asking(means, { sessionId, user, body, idempotencyKey }, progress, options) {
  const { signal } = options;
  const endsAt = performance.now() + options.limitMs;
  const left = () => leftUntil(endsAt, "the turn goes on");
  const session = sessionId ?? (await exchange(means, making({ user }, "sessions"), { signal, limitMs: left() })).id;
  const posting = createTurn(session, body, idempotencyKey ?? newKey(), undefined);
  const posted = await exchange(means, posting, { signal, limitMs: left() });
  yield* following(means, posted, { after: 0, text: null }, progress, { ...options, limitMs: left() });
  // The text is complete; the few fields that no event contains must not fail because the limit has just passed.
  const turn = await exchange(means, getTurn(posted.id), { signal });
  const { reading } = /** @type {Follower} */ (progress.follower);
  progress.answer = { text: reading.text, reasoning: reading.reasoning, sessionId: session, turn };
  if (turn.status === "failed" || turn.status === "expired") throw new TurnEndedError(progress.answer);
  return progress.answer;
}

/**
 * Yield a turn's events after `after`, up to which its text is `text`; `done` comes last; see `follow`.
 * @param {Means} means
 * @param {Turn|string} turn
 * @param {{after: number, text: string|null}} from
 * @param {Progress} progress
 * @param {LineOptions} options
 * @returns {AsyncGenerator<TurnEvent, void, undefined>}
 */
export async function* following(means, turn, { after, text }, progress, options) {
  progress.line = new Line(means, options);
  const { signal, limitMs } = options;
  const found = typeof turn === "string" ? await exchange(means, getTurn(turn), { signal, limitMs }) : turn;
  progress.follower = new Follower(found.session_id, new Reading(found.id, after, text));
  yield* follow(progress.follower, progress.line);
}

/**
 * Return the turn once it has ended, without a stream. Throws TimeLimitError if it has not ended within `limitMs`.
 * @param {Means} means
 * @param {string} turnId
 * @param {{limitMs: number, signal?: AbortSignal}} bounds
 * @returns {Promise<Turn>}
 */
export async function waitForTurn(means, turnId, { limitMs, signal }) {
  const endsAt = performance.now() + limitMs;
  for (;;) {
    const left = leftUntil(endsAt, `turn ${turnId} goes on`);
    const hold = Math.min(HOLD_SECONDS, Math.floor(left / 1000));
    const bounds = { signal, limitMs: left + means.policy.answerMs };
    const turn = await exchange(means, getTurn(turnId, hold), bounds).catch((error) => {
      // For as long as there is no place to wait, look.
      if (error instanceof ApiError && error.code === "rate_limited" && error.members.scope === "waits") {
        return exchange(means, getTurn(turnId), bounds);
      }
      throw error;
    });
    if (isOver(turn)) return turn;
    // A service that is being restarted answers at once.
    await new Bell().wait(Math.min(means.policy.firstPauseMs, left), signal);
  }
}

/**
 * Turn events into pieces of text for a program that shows it.
 * @param {AsyncGenerator<TurnEvent, any, undefined>} events
 * @returns {AsyncGenerator<Piece, any, undefined>}
 */
export async function* pieces(events) {
  let shown = "";
  for await (const event of events) {
    if (event.type === "content_delta") {
      shown += event.delta;
      yield { text: event.delta, replaces: false };
    } else if (event.type === "message_reset" || event.type === "snapshot") {
      const text = event.type === "snapshot" ? event.content : "";
      const continues = text.startsWith(shown);
      const piece = { text: continues ? text.slice(shown.length) : text, replaces: !continues };
      shown = text;
      if (piece.replaces || piece.text !== "") yield piece;
    }
  }
}

/**
 * @param {number} endsAt
 * @param {string} what
 */
function leftUntil(endsAt, what) {
  const left = endsAt - performance.now();
  if (left <= 0) throw new TimeLimitError(`the time limit is over: ${what}`);
  return left;
}
