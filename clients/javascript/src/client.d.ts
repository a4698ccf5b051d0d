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
    constructor(url: string | URL, key: string, { policy, via, openSocket, fetch: ownFetch }?: {
        policy?: Partial<import("./retry.js").RetryPolicy> | undefined;
        via?: import("./line.js").Via | undefined;
        openSocket?: import("./wires.js").OpenSocket | undefined;
        fetch?: typeof fetch | undefined;
    });
    /**
     * Send any call of the API, with the same retries as all others; for operations that have no method here.
     * @param {import("./exchange.js").Call} call
     * @param {import("./exchange.js").Bounds} [bounds]
     * @returns {Promise<any>}
     */
    request(call: import("./exchange.js").Call, bounds?: import("./exchange.js").Bounds): Promise<any>;
    /**
     * Open a session; a key that is not bound to a user must name one. Not sent again if its response was lost: there
     * could be two sessions.
     * @param {import("./api.js").NewSession} [fields]
     * @param {Abortable} [options]
     * @returns {Promise<Session>}
     */
    createSession(fields?: import("./api.js").NewSession, options?: Abortable): Promise<Session>;
    /**
     * List sessions, newest activity first.
     * @param {Listing & {status?: Session["status"], user?: string}} options
     * @returns {Promise<import("./api.js").SessionList>}
     */
    listSessions({ signal, ...query }?: Listing & {
        status?: Session["status"];
        user?: string;
    }): Promise<import("./api.js").SessionList>;
    /**
     * Search titles and messages; each session is returned once.
     * @param {string} words
     * @param {Listing} options
     * @returns {Promise<import("./api.js").FoundSessionList>}
     */
    searchSessions(words: string, { signal, ...query }?: Listing): Promise<import("./api.js").FoundSessionList>;
    /**
     * @param {string} sessionId
     * @param {Abortable} [options]
     * @returns {Promise<Session>}
     */
    getSession(sessionId: string, options?: Abortable): Promise<Session>;
    /**
     * Change a session's title or metadata; a title of null is removed.
     * @param {string} sessionId
     * @param {import("./api.js").SessionChanges} changes
     * @param {Abortable} [options]
     * @returns {Promise<Session>}
     */
    updateSession(sessionId: string, changes: import("./api.js").SessionChanges, options?: Abortable): Promise<Session>;
    /**
     * Close a session; a queued or running turn is stopped.
     * @param {string} sessionId
     * @param {Abortable} [options]
     * @returns {Promise<null>}
     */
    closeSession(sessionId: string, options?: Abortable): Promise<null>;
    /**
     * Mark a session for review.
     * @param {string} sessionId
     * @param {Abortable & import("./api.js").NewFlag} options
     * @returns {Promise<Session>}
     */
    flagSession(sessionId: string, { signal, ...body }?: Abortable & import("./api.js").NewFlag): Promise<Session>;
    /**
     * Remove a session's mark; requires an admin's key.
     * @param {string} sessionId
     * @param {Abortable} [options]
     * @returns {Promise<Session>}
     */
    unflagSession(sessionId: string, options?: Abortable): Promise<Session>;
    /**
     * List a session's messages in the order of the conversation.
     * @param {string} sessionId
     * @param {Listing} options
     * @returns {Promise<import("./api.js").MessageList>}
     */
    listMessages(sessionId: string, { signal, ...query }?: Listing): Promise<import("./api.js").MessageList>;
    /**
     * Ask for an answer; when this resolves, the message and the turn are committed.
     * @param {string} sessionId
     * @param {string} content 1 to 32,000 characters; stored as written
     * @param {TurnOptions & Abortable & {traceparent?: string}} options
     * @returns {Promise<Turn>}
     */
    createTurn(sessionId: string, content: string, { signal, idempotencyKey, traceparent, ...body }?: TurnOptions & Abortable & {
        traceparent?: string;
    }): Promise<Turn>;
    /**
     * List a session's turns, newest first.
     * @param {string} sessionId
     * @param {Listing} options
     * @returns {Promise<import("./api.js").TurnList>}
     */
    listTurns(sessionId: string, { signal, ...query }?: Listing): Promise<import("./api.js").TurnList>;
    /**
     * Read a turn; with `waitSeconds` (at most 60), wait until it has ended or that time is over.
     * @param {string} turnId
     * @param {Abortable & {waitSeconds?: number}} options
     * @returns {Promise<Turn>}
     */
    getTurn(turnId: string, { signal, waitSeconds }?: Abortable & {
        waitSeconds?: number;
    }): Promise<Turn>;
    /**
     * Stop a turn in any phase; with `waitMs` (at most 30,000), wait up to that long for its end. May be called again at
     * any time. The returned turn is over, or `stopping`.
     * @param {string} turnId
     * @param {Abortable & {waitMs?: number}} options
     * @returns {Promise<Turn>}
     */
    stopTurn(turnId: string, { signal, waitMs }?: Abortable & {
        waitMs?: number;
    }): Promise<Turn>;
    /**
     * Return the turn once it has ended, without a stream; throws TimeLimitError if it has not ended within `limitMs`.
     * @param {string} turnId
     * @param {Abortable & {limitMs?: number}} options
     */
    waitForTurn(turnId: string, { signal, limitMs }?: Abortable & {
        limitMs?: number;
    }): Promise<import("./api.js").Turn>;
    /**
     * Read a turn's events after a known `seq`, as many as there are.
     * @param {string} turnId
     * @param {Abortable & {after?: number, limit?: number}} options
     * @returns {Promise<import("./api.js").EventPage>}
     */
    listEvents(turnId: string, { signal, ...query }?: Abortable & {
        after?: number;
        limit?: number;
    }): Promise<import("./api.js").EventPage>;
    /**
     * Ask, and return the finished answer. Throws TurnEndedError if the turn failed or expired (with the text that was
     * stored), TimeLimitError if the limit has passed; the turn goes on.
     * @param {string} content
     * @param {AskOptions} [options] without a `sessionId` it opens a session, which the answer names
     * @returns {Promise<import("./asking.js").Answer>}
     */
    ask(content: string, options?: AskOptions): Promise<import("./asking.js").Answer>;
    /**
     * Ask, and stream the answer's text; see `ask` for the arguments and `streamText` for the items.
     * @param {string} content
     * @param {AskOptions} options
     * @returns {Stream<Piece>}
     */
    askStream(content: string, { sessionId, user, idempotencyKey, signal, limitMs, onState, ...body }?: AskOptions): Stream<Piece>;
    /**
     * Stream a turn's events, each once and in order, `done` last, over as many connections as it takes. Throws
     * StreamLostError, TextMismatchError and TimeLimitError.
     * @param {Turn|string} turn
     * @param {StreamOptions & {after?: number, text?: string}} options `after` is the last known `seq`; with the
     *   `text` up to it the whole text is known, and checked at the end
     * @returns {Stream<TurnEvent>}
     */
    streamTurn(turn: Turn | string, { after, text, signal, ...options }?: StreamOptions & {
        after?: number;
        text?: string;
    }): Stream<TurnEvent>;
    /**
     * Stream a turn's text: pieces to append, unless `replaces` is true; see `streamTurn`.
     * @param {Turn|string} turn
     * @param {StreamOptions} options
     * @returns {Stream<Piece>}
     */
    streamText(turn: Turn | string, { signal, ...options }?: StreamOptions): Stream<Piece>;
    /**
     * Stream the events of all turns of a session that are running or begin from now on (by websocket), until closed.
     * @param {string} sessionId
     * @param {StreamOptions & {replay?: "events"|"snapshot"}} options `replay: "snapshot"` sends the text of a running
     *   answer in one piece; `limitMs` is unlimited by default
     * @returns {Stream<TurnEvent>}
     */
    streamSession(sessionId: string, { replay, signal, limitMs, onState }?: StreamOptions & {
        replay?: "events" | "snapshot";
    }): Stream<TurnEvent>;
    /**
     * Create a ticket that opens one stream of one session.
     * @param {string} sessionId
     * @param {Abortable & {ttl_seconds?: number}} options
     * @returns {Promise<import("./api.js").Ticket>}
     */
    createTicket(sessionId: string, { signal, ...body }?: Abortable & {
        ttl_seconds?: number;
    }): Promise<import("./api.js").Ticket>;
    /**
     * Create a key; requires an admin's. Its secret is only in this response. Not sent again if the response was lost.
     * @param {import("./api.js").NewKeyRequest} fields
     * @param {Abortable} [options]
     * @returns {Promise<import("./api.js").CreatedKey>}
     */
    createKey(fields: import("./api.js").NewKeyRequest, options?: Abortable): Promise<import("./api.js").CreatedKey>;
    /**
     * List keys, newest first, including revoked ones; requires an admin's key.
     * @param {Listing} options
     * @returns {Promise<import("./api.js").KeyList>}
     */
    listKeys({ signal, ...query }?: Listing): Promise<import("./api.js").KeyList>;
    /**
     * Revoke a key; requires an admin's.
     * @param {string} keyId
     * @param {Abortable} [options]
     * @returns {Promise<null>}
     */
    revokeKey(keyId: string, options?: Abortable): Promise<null>;
    /**
     * Read the organization's limits and how much of them is used; requires an admin's key.
     * @param {Abortable} [options]
     * @returns {Promise<import("./api.js").CurrentBudget>}
     */
    getBudget(options?: Abortable): Promise<import("./api.js").CurrentBudget>;
    /**
     * Replace all of the organization's limits; requires an admin's key.
     * @param {import("./api.js").Budget} limits
     * @param {Abortable} [options]
     * @returns {Promise<import("./api.js").CurrentBudget>}
     */
    putBudget(limits: import("./api.js").Budget, options?: Abortable): Promise<import("./api.js").CurrentBudget>;
    /**
     * Stop everything that the organization has queued and running; requires an admin's key.
     * @param {import("./api.js").StopOrganization} [body] why, for the service's log
     * @param {Abortable} [options]
     * @returns {Promise<import("./api.js").StoppedOrganization>}
     */
    stopOrganization(body?: import("./api.js").StopOrganization, options?: Abortable): Promise<import("./api.js").StoppedOrganization>;
    /**
     * Add up tokens and costs by `day`, `user` or `model`; requires an admin's key.
     * @param {Listing & import("./options.js").Days & {group_by?: import("./api.js").UsageGroup}} options
     * @returns {Promise<import("./api.js").UsageReport>}
     */
    getUsage({ signal, ...query }?: Listing & import("./options.js").Days & {
        group_by?: import("./api.js").UsageGroup;
    }): Promise<import("./api.js").UsageReport>;
    /**
     * List what attempts cost, newest first; requires an admin's key.
     * @param {Listing & import("./options.js").LedgerFilters} options
     * @returns {Promise<import("./api.js").LedgerList>}
     */
    listLedger({ signal, ...query }?: Listing & import("./options.js").LedgerFilters): Promise<import("./api.js").LedgerList>;
    /**
     * Ask whether the service can do its work, part by part; a degraded service is a result, not an error.
     * @param {Abortable} [options]
     * @returns {Promise<import("./api.js").Readiness>}
     */
    getReadiness(options?: Abortable): Promise<import("./api.js").Readiness>;
    /**
     * Yield the items of a listing from all of its pages: `client.every((page) => client.listMessages(sessionId, page))`.
     * @template T
     * @param {(page: {cursor?: string}) => Promise<{data: T[], next_cursor: string|null}>} listing
     * @returns {AsyncGenerator<T, void, undefined>}
     */
    every<T>(listing: (page: {
        cursor?: string;
    }) => Promise<{
        data: T[];
        next_cursor: string | null;
    }>): AsyncGenerator<T, void, undefined>;
    #private;
}
export type Turn = import("./api.js").Turn;
export type Session = import("./api.js").Session;
export type TurnEvent = import("./events.js").TurnEvent;
export type Piece = import("./asking.js").Piece;
export type Abortable = import("./options.js").Abortable;
export type Listing = import("./options.js").Listing;
export type TurnOptions = import("./options.js").TurnOptions;
export type StreamOptions = import("./options.js").StreamOptions;
export type AskOptions = import("./options.js").AskOptions;
import { Stream } from "./stream.js";
