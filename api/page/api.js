/** The HTTP API as functions that the page needs, by turnkeeper.js. Every failure is a Problem: words, and what to do. */

import { ApiError, Client, ConnectionFailedError, TurnkeeperError } from "./turnkeeper/turnkeeper.js";

const PAGE = 100; // the API's largest page
const MAX_ROWS = 5_000; // of one session: beyond it a page in a browser is the wrong tool
/** About 4 s of retrying before the user is asked; a stream is never given up, since the reader may come back. */
const POLICY = { tries: 4, limitMs: 30_000, firstPauseMs: 600, longestPauseMs: 3_000, reconnectMs: Infinity };
const READ_MS = 20_000; // for an answer that is there: longer is a fault
const UNREACHABLE = { code: "network", title: "Turnkeeper cannot be reached", detail: "Check the connection and try again." };

/** A refusal or failure in words (RFC 9457), with what a program needs to act on it. */
export class Problem extends Error {
  constructor(body, status) {
    super(body.title ?? `The service answered ${status}`);
    this.name = "Problem";
    this.status = status;
    this.code = body.code || "unknown";
    this.title = body.title || this.message;
    this.detail = body.detail ?? "";
    this.errors = body.errors ?? [];
    this.requestId = body.request_id ?? null;
    this.retryAfterMs = body.retry_after_ms ?? null;
    this.body = body;
  }

  /** True where the message may have arrived although no answer did: only the same key makes another try safe. */
  get isUncertain() {
    // An answer that cannot be read may be that of something in between, or the rest of an acceptance.
    return ["network", "protocol", "idempotency_in_progress"].includes(this.code) || this.status === 408 || this.status >= 500;
  }
}

/** The key that a turn was posted with, if a page like this one has posted it: it says which message became which turn. */
export const keyOf = (record) => record.metadata?.page_key ?? null;

/** What the client has thrown, as a Problem; anything else is a fault of this page and stays what it is. */
export function problemOf(error) {
  if (error instanceof ApiError) {
    const { status, code, title, detail, errors, requestId, retryAfterMs, members } = error;
    const body = { ...members, code, title: title || `The service answered ${status}`, detail, errors };
    return new Problem({ ...body, request_id: requestId, retry_after_ms: retryAfterMs }, status);
  }
  if (error instanceof ConnectionFailedError) return new Problem(UNREACHABLE, 0);
  if (error instanceof TurnkeeperError) return new Problem({ code: "protocol", title: "The answer could not be read" }, 0);
  return error;
}

/**
 * Bind the API to a key.
 * @param {string} key sent in the Authorization header and nowhere else
 * @param {() => void} onUnauthorized called when the service no longer knows the key
 */
export function connect(key, onUnauthorized = () => undefined) {
  let client;
  try {
    client = new Client(window.location.origin, key, { policy: POLICY });
  } catch {
    throw new Problem({ code: "unauthorized", title: "This is no key" }, 401);
  }

  /** Wait for the client; what it throws is a Problem. */
  async function told(call) {
    try {
      return await call;
    } catch (error) {
      const problem = problemOf(error);
      if (problem.status === 401) onUnauthorized();
      throw problem;
    }
  }

  async function all(listing) {
    const rows = [];
    for await (const row of client.every(listing)) if (rows.push(row) >= MAX_ROWS) break;
    return rows;
  }

  return {
    /** Any other call: `{method, path, query, body}`. */
    request: (call) => told(client.request(call)),
    sessions: (cursor = null, limit = 20) => told(client.listSessions({ cursor, limit })),
    searchSessions: (words) => told(client.searchSessions(words)),
    session: (id) => told(client.getSession(id)),
    changeSession: (id, changes) => told(client.updateSession(id, changes)),
    flagSession: (id, reason) => told(client.flagSession(id, reason === "" ? {} : { reason })),
    unflagSession: (id) => told(client.unflagSession(id)),
    budget: () => told(client.getBudget()),
    createSession: (fields) => told(client.createSession(fields)),
    closeSession: (id) => told(client.closeSession(id)),
    messages: (id) => told(all((page) => client.listMessages(id, { limit: PAGE, ...page }))),
    turns: (id) => told(all((page) => client.listTurns(id, { limit: PAGE, ...page }))),
    turn: (id) => told(client.getTurn(id)),
    /** What was thought for an answer that is over: its events say it, or the snapshot in their place. */
    async reasoning(id) {
      const events = client.streamTurn(id, { limitMs: READ_MS });
      await told(events.untilDone());
      return events.reasoning;
    },
    /** Post a turn; tried again with the same key, which cannot make a second one. */
    postTurn: (id, content, idempotencyKey, strategy, signal) =>
      told(
        client.createTurn(id, content, {
          idempotencyKey,
          multitask_strategy: strategy,
          metadata: { page_key: idempotencyKey },
          signal,
        }),
      ),
    /** Ask a turn to stop: idempotent, so it is tried again. */
    stopTurn: (id) => told(client.stopTurn(id)),
    /** All turns of a session as they happen; an answer that is under way begins with its text so far. */
    stream: (id, onState) => client.streamSession(id, { replay: "snapshot", onState }),
    /** Throw what a stream has thrown, as a Problem. */
    told,
  };
}
