// What the client's methods can be told, beside what the API itself takes.

import type { NewTurn } from "./api.js";
import type { StreamState } from "./line.js";

export interface Abortable {
  /** Ends the call, which throws its reason. */
  signal?: AbortSignal;
}

export interface Listing extends Abortable {
  /** 1 to 100; 20 unless said. */
  limit?: number;
  /** The `next_cursor` of the page before. */
  cursor?: string | null;
}

export interface Days {
  /** The first day in UTC, as `2026-01-31`. */
  from?: string;
  /** The last day, which is included. */
  to?: string;
}

export interface LedgerFilters extends Days {
  user?: string;
  session_id?: string;
  turn_id?: string;
  model?: string;
}

export interface TurnOptions extends Omit<NewTurn, "content"> {
  /**
   * The same request with it makes one turn, for 24 hours. Without one a key is made, which all tries of the call share;
   * name one to post again after a restart of your own.
   */
  idempotencyKey?: string;
}

export interface StreamOptions extends Abortable {
  /** For all of the stream; 15 minutes unless said. */
  limitMs?: number;
  /** Is told where the stream's connection stands. */
  onState?: (state: StreamState) => void;
}

export interface AskOptions extends TurnOptions, StreamOptions {
  /** Where to ask; without one a session is opened, which the answer names. */
  sessionId?: string;
  /** Whose session is opened; for keys that are bound to no user. */
  user?: string;
}
