/** The client: a method for each operation of the API, and streams that outlive their connections. */

import { asking, following, pieces, waitForTurn } from "./asking.js";
import { changing, createTurn, getTurn, listTurns, making, newKey, reading } from "./calls.js";
import { exchange } from "./exchange.js";
import { Line } from "./line.js";
import { DEFAULT_POLICY } from "./retry.js";
import { Stream } from "./stream.js";
import { Watcher, watch } from "./watching.js";

const TURN_MS = 900_000; // longer than a turn can live with the service's own defaults

/** @typedef {import("./api.js").Turn} Turn */
/** @typedef {import("./api.js").Session} Session */
/** @typedef {import("./events.js").TurnEvent} TurnEvent */
/** @typedef {import("./asking.js").Piece} Piece */
/** @typedef {import("./options.js").Abortable} Abortable */
/** @typedef {import("./options.js").Listing} Listing */
/** @typedef {import("./options.js").TurnOptions} TurnOptions */
/** @typedef {import("./options.js").StreamOptions} StreamOptions */
/** @typedef {import("./options.js").AskOptions} AskOptions */

/**
 * Speaks to a Turnkeeper. Every method throws ApiError if the service refuses, ConnectionFailedError if it does not
 * answer and ProtocolError if the response cannot be read.
 */
export class Client {
  #means;
  #via;
  #openSocket;

  /**
   * Prepare the client; no connection is opened yet.
   * @param {string|URL} url the service's URL, such as `https://turnkeeper.example.com`
   * @param {string} key an API key
   * @param {object} options
   * @param {Partial<import("./retry.js").RetryPolicy>} [options.policy] how hard to try
   * @param {import("./line.js").Via} [options.via] how streams arrive; `auto` by default
   * @param {import("./wires.js").OpenSocket} [options.openSocket] opens websockets if there is no global `WebSocket`
   * @param {typeof fetch} [options.fetch] sends requests instead of the global one
   */
  constructor(url, key, { policy = {}, via = "auto", openSocket, fetch: ownFetch } = {}) {
    const { protocol, origin, pathname, username, password, search, hash } = new URL(url);
    const isPlain = username === "" && password === "" && search === "" && hash === "";
    if (!/^https?:$/.test(protocol) || !isPlain) throw new TypeError("url must be like https://turnkeeper.example.com");
    if (!/^[!-~]+$/.test(key)) throw new TypeError("key must be visible ASCII characters");
    if (via === "key" && openSocket === undefined) throw new TypeError("via: \"key\" needs an openSocket that sends headers");
    const hasSockets = openSocket !== undefined || "WebSocket" in globalThis;
    this.#means = {
      url: origin + pathname.replace(/\/+$/, ""),
      key,
      fetch: ownFetch ?? ((...call) => fetch(...call)),
      policy: { ...DEFAULT_POLICY, ...policy },
      random: Math.random,
    };
    this.#via = via === "auto" && !hasSockets ? /** @type {const} */ ("sse") : via;
    this.#openSocket = openSocket ?? ((/** @type {string} */ at, /** @type {string[]} */ protocols) => new WebSocket(at, protocols));
  }

  /**
   * Send any call of the API, with the same retries as all others; for operations that have no method here.
   * @param {import("./exchange.js").Call} call
   * @param {import("./exchange.js").Bounds} [bounds]
   * @returns {Promise<any>}
   */
  request(call, bounds) {
    return exchange(this.#means, call, bounds);
  }

  /**
   * Open a session; a key that is not bound to a user must name one. Not sent again if its response was lost: there
   * could be two sessions.
   * @param {import("./api.js").NewSession} [fields]
   * @param {Abortable} [options]
   * @returns {Promise<Session>}
   */
  createSession(fields = {}, options) {
    return this.request(making(fields, "sessions"), options);
  }

  /**
   * List sessions, newest activity first.
   * @param {Listing & {status?: Session["status"], user?: string}} options
   * @returns {Promise<import("./api.js").SessionList>}
   */
  listSessions({ signal, ...query } = {}) {
    return this.request(reading(query, "sessions"), { signal });
  }

  /**
   * Search titles and messages; each session is returned once.
   * @param {string} words
   * @param {Listing} options
   * @returns {Promise<import("./api.js").FoundSessionList>}
   */
  searchSessions(words, { signal, ...query } = {}) {
    return this.request(reading({ q: words, ...query }, "sessions", "search"), { signal });
  }

  /**
   * @param {string} sessionId
   * @param {Abortable} [options]
   * @returns {Promise<Session>}
   */
  getSession(sessionId, options) {
    return this.request(reading({}, "sessions", sessionId), options);
  }

  /**
   * Change a session's title or metadata; a title of null is removed.
   * @param {string} sessionId
   * @param {import("./api.js").SessionChanges} changes
   * @param {Abortable} [options]
   * @returns {Promise<Session>}
   */
  updateSession(sessionId, changes, options) {
    return this.request(changing("PATCH", changes, "sessions", sessionId), options);
  }

  /**
   * Close a session; a queued or running turn is stopped.
   * @param {string} sessionId
   * @param {Abortable} [options]
   * @returns {Promise<null>}
   */
  closeSession(sessionId, options) {
    return this.request(changing("DELETE", undefined, "sessions", sessionId), options);
  }

  /**
   * Mark a session for review.
   * @param {string} sessionId
   * @param {Abortable & import("./api.js").NewFlag} options
   * @returns {Promise<Session>}
   */
  flagSession(sessionId, { signal, ...body } = {}) {
    return this.request(changing("POST", body, "sessions", sessionId, "flag"), { signal });
  }

  /**
   * Remove a session's mark; requires an admin's key.
   * @param {string} sessionId
   * @param {Abortable} [options]
   * @returns {Promise<Session>}
   */
  unflagSession(sessionId, options) {
    return this.request(changing("DELETE", undefined, "sessions", sessionId, "flag"), options);
  }

  /**
   * List a session's messages in the order of the conversation.
   * @param {string} sessionId
   * @param {Listing} options
   * @returns {Promise<import("./api.js").MessageList>}
   */
  listMessages(sessionId, { signal, ...query } = {}) {
    return this.request(reading(query, "sessions", sessionId, "messages"), { signal });
  }

  /**
   * Ask for an answer; when this resolves, the message and the turn are committed.
   * @param {string} sessionId
   * @param {string} content 1 to 32,000 characters; stored as written
   * @param {TurnOptions & Abortable & {traceparent?: string}} options
   * @returns {Promise<Turn>}
   */
  createTurn(sessionId, content, { signal, idempotencyKey = newKey(), traceparent, ...body } = {}) {
    return this.request(createTurn(sessionId, { content, ...body }, idempotencyKey, traceparent), { signal });
  }

  /**
   * List a session's turns, newest first.
   * @param {string} sessionId
   * @param {Listing} options
   * @returns {Promise<import("./api.js").TurnList>}
   */
  listTurns(sessionId, { signal, ...query } = {}) {
    return this.request(listTurns(sessionId, query), { signal });
  }

  /**
   * Read a turn; with `waitSeconds` (at most 60), wait until it has ended or that time is over.
   * @param {string} turnId
   * @param {Abortable & {waitSeconds?: number}} options
   * @returns {Promise<Turn>}
   */
  getTurn(turnId, { signal, waitSeconds = 0 } = {}) {
    return this.request(getTurn(turnId, waitSeconds), { signal });
  }

  /**
   * Stop a turn in any phase; with `waitMs` (at most 30,000), wait up to that long for its end. May be called again at
   * any time. The returned turn is over, or `stopping`.
   * @param {string} turnId
   * @param {Abortable & {waitMs?: number}} options
   * @returns {Promise<Turn>}
   */
  stopTurn(turnId, { signal, waitMs = 0 } = {}) {
    const call = changing("POST", { wait_ms: waitMs }, "turns", turnId, "stop");
    return this.request({ ...call, waitsMs: waitMs }, { signal });
  }

  /**
   * Return the turn once it has ended, without a stream; throws TimeLimitError if it has not ended within `limitMs`.
   * @param {string} turnId
   * @param {Abortable & {limitMs?: number}} options
   */
  waitForTurn(turnId, { signal, limitMs = TURN_MS } = {}) {
    return waitForTurn(this.#means, turnId, { signal, limitMs });
  }

  /**
   * Read a turn's events after a known `seq`, as many as there are.
   * @param {string} turnId
   * @param {Abortable & {after?: number, limit?: number}} options
   * @returns {Promise<import("./api.js").EventPage>}
   */
  listEvents(turnId, { signal, ...query } = {}) {
    return this.request(reading(query, "turns", turnId, "events"), { signal });
  }

  /**
   * Ask, and return the finished answer. Throws TurnEndedError if the turn failed or expired (with the text that was
   * stored), TimeLimitError if the limit has passed; the turn goes on.
   * @param {string} content
   * @param {AskOptions} [options] without a `sessionId` it opens a session, which the answer names
   * @returns {Promise<import("./asking.js").Answer>}
   */
  async ask(content, options) {
    const stream = this.askStream(content, options);
    await stream.untilDone();
    // An answer exists once the stream has ended without an error.
    return /** @type {import("./asking.js").Answer} */ (/** @type {unknown} */ (stream.answer));
  }

  /**
   * Ask, and stream the answer's text; see `ask` for the arguments and `streamText` for the items.
   * @param {string} content
   * @param {AskOptions} options
   * @returns {Stream<Piece>}
   */
  askStream(content, { sessionId, user, idempotencyKey, signal, limitMs, onState, ...body } = {}) {
    const question = { sessionId: sessionId ?? null, user, idempotencyKey, body: { content, ...body } };
    const line = (/** @type {AbortSignal} */ own) => this.#line(own, { limitMs, onState });
    return new Stream((progress, own) => pieces(asking(this.#means, question, progress, line(own))), signal);
  }

  /**
   * Stream a turn's events, each once and in order, `done` last, over as many connections as it takes. Throws
   * StreamLostError, TextMismatchError and TimeLimitError.
   * @param {Turn|string} turn
   * @param {StreamOptions & {after?: number, text?: string}} options `after` is the last known `seq`; with the
   *   `text` up to it the whole text is known, and checked at the end
   * @returns {Stream<TurnEvent>}
   */
  streamTurn(turn, { after = 0, text, signal, ...options } = {}) {
    const from = { after, text: text ?? null };
    return new Stream((progress, own) => following(this.#means, turn, from, progress, this.#line(own, options)), signal);
  }

  /**
   * Stream a turn's text: pieces to append, unless `replaces` is true; see `streamTurn`.
   * @param {Turn|string} turn
   * @param {StreamOptions} options
   * @returns {Stream<Piece>}
   */
  streamText(turn, { signal, ...options } = {}) {
    const from = { after: 0, text: null };
    return new Stream((progress, own) => pieces(following(this.#means, turn, from, progress, this.#line(own, options))), signal);
  }

  /**
   * Stream the events of all turns of a session that are running or begin from now on (by websocket), until closed.
   * @param {string} sessionId
   * @param {StreamOptions & {replay?: "events"|"snapshot"}} options `replay: "snapshot"` sends the text of a running
   *   answer in one piece; `limitMs` is unlimited by default
   * @returns {Stream<TurnEvent>}
   */
  streamSession(sessionId, { replay = "events", signal, limitMs = Infinity, onState } = {}) {
    if (this.#via === "sse") {
      throw new TypeError("a session is streamed by websocket; stream its turns one by one over server-sent events");
    }
    return new Stream((progress, own) => {
      progress.line = new Line(this.#means, { ...this.#line(own, { limitMs, onState }), via: this.#via === "key" ? "key" : "ticket" });
      return watch(new Watcher(sessionId, this.#means, own, replay === "snapshot"), progress.line);
    }, signal);
  }

  /**
   * Create a ticket that opens one stream of one session.
   * @param {string} sessionId
   * @param {Abortable & {ttl_seconds?: number}} options
   * @returns {Promise<import("./api.js").Ticket>}
   */
  createTicket(sessionId, { signal, ...body } = {}) {
    return this.request(changing("POST", { session_id: sessionId, ...body }, "tickets"), { signal });
  }

  /**
   * Create a key; requires an admin's. Its secret is only in this response. Not sent again if the response was lost.
   * @param {import("./api.js").NewKeyRequest} fields
   * @param {Abortable} [options]
   * @returns {Promise<import("./api.js").CreatedKey>}
   */
  createKey(fields, options) {
    return this.request(making(fields, "keys"), options);
  }

  /**
   * List keys, newest first, including revoked ones; requires an admin's key.
   * @param {Listing} options
   * @returns {Promise<import("./api.js").KeyList>}
   */
  listKeys({ signal, ...query } = {}) {
    return this.request(reading(query, "keys"), { signal });
  }

  /**
   * Revoke a key; requires an admin's.
   * @param {string} keyId
   * @param {Abortable} [options]
   * @returns {Promise<null>}
   */
  revokeKey(keyId, options) {
    return this.request(changing("DELETE", undefined, "keys", keyId), options);
  }

  /**
   * Read the organization's limits and how much of them is used; requires an admin's key.
   * @param {Abortable} [options]
   * @returns {Promise<import("./api.js").CurrentBudget>}
   */
  getBudget(options) {
    return this.request(reading({}, "budget"), options);
  }

  /**
   * Replace all of the organization's limits; requires an admin's key.
   * @param {import("./api.js").Budget} limits
   * @param {Abortable} [options]
   * @returns {Promise<import("./api.js").CurrentBudget>}
   */
  putBudget(limits, options) {
    return this.request(changing("PUT", limits, "budget"), options);
  }

  /**
   * Stop everything that the organization has queued and running; requires an admin's key.
   * @param {import("./api.js").StopOrganization} [body] why, for the service's log
   * @param {Abortable} [options]
   * @returns {Promise<import("./api.js").StoppedOrganization>}
   */
  stopOrganization(body = {}, options) {
    return this.request(changing("POST", body, "organization", "stop"), options);
  }

  /**
   * Add up tokens and costs by `day`, `user` or `model`; requires an admin's key.
   * @param {Listing & import("./options.js").Days & {group_by?: import("./api.js").UsageGroup}} options
   * @returns {Promise<import("./api.js").UsageReport>}
   */
  getUsage({ signal, ...query } = {}) {
    return this.request(reading(query, "usage"), { signal });
  }

  /**
   * List what attempts cost, newest first; requires an admin's key.
   * @param {Listing & import("./options.js").LedgerFilters} options
   * @returns {Promise<import("./api.js").LedgerList>}
   */
  listLedger({ signal, ...query } = {}) {
    return this.request(reading(query, "ledger"), { signal });
  }

  /**
   * Ask whether the service can do its work, part by part; a degraded service is a result, not an error.
   * @param {Abortable} [options]
   * @returns {Promise<import("./api.js").Readiness>}
   */
  getReadiness(options) {
    return this.request({ method: "GET", path: "/readyz", alsoAccepts: [503] }, options);
  }

  /**
   * Yield the items of a listing from all of its pages: `client.every((page) => client.listMessages(sessionId, page))`.
   * @template T
   * @param {(page: {cursor?: string}) => Promise<{data: T[], next_cursor: string|null}>} listing
   * @returns {AsyncGenerator<T, void, undefined>}
   */
  async *every(listing) {
    for (let cursor; ; ) {
      /** @type {{data: T[], next_cursor: string|null}} */
      const page = await listing(cursor === undefined ? {} : { cursor });
      yield* page.data;
      if (page.next_cursor === null) return;
      cursor = page.next_cursor;
    }
  }

  /**
   * @param {AbortSignal} signal
   * @param {Pick<StreamOptions, "limitMs"|"onState">} options
   */
  #line(signal, { limitMs = TURN_MS, onState = () => undefined }) {
    return { via: this.#via, openSocket: this.#openSocket, signal, limitMs, onState };
  }
}
