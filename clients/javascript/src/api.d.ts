// Written by `python -m turnkeeper.reference`; change the code, not this file.

/** An organization's limits as a whole: every field must be there, `null` is no limit, 0 allows nothing. */
export interface Budget {
  /**
   * Whether AI is switched on; off, a new turn is refused with `ai_disabled`, and one that waits fails with
   * it. What runs ends as usual.
   */
  enabled: boolean;
  /** Most that a UTC day may cost. */
  daily_usd: string | null;
  /** Most that a UTC month may cost. */
  monthly_usd: string | null;
  /** Most that a new session's `max_turns` may be. */
  max_turns_per_session: number | null;
  /** Of each user in any minute; `null`: what the service is set to. */
  turns_per_minute_per_user: number | null;
  /** Of the organization in any hour; `null`: what the service is set to. */
  turns_per_hour: number | null;
  /** Most turns queued and running at once. */
  max_concurrent_turns: number | null;
}

/** One part's health. */
export interface Check {
  ok: boolean;
  detail?: string;
}

/** A new key; its secret is shown this once. */
export interface CreatedKey {
  id: string;
  role: KeyRole;
  user: string | null;
  name: string;
  /** What to recognise it by. */
  prefix: string;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
  last_used_at: string | null;
  key: string;
}

/** An organization's limits, and what of them is used. */
export interface CurrentBudget {
  enabled: boolean;
  daily_usd: string | null;
  monthly_usd: string | null;
  max_turns_per_session: number | null;
  turns_per_minute_per_user: number | null;
  turns_per_hour: number | null;
  max_concurrent_turns: number | null;
  day: Period;
  month: Period;
}

/** Turns that were first claimed in one stretch of time; null where none says. */
export interface Delay {
  begins_at: string;
  turns: number;
  /** From when a turn could be claimed to its claim; without turns that waited again later. */
  worker_wait: Percentiles | null;
  /** From the claim to the first text: the provider's time, retries and ours together. */
  model_wait: Percentiles | null;
  /** From acceptance to the first text; includes waiting for the session's earlier turns. */
  first_token: Percentiles | null;
}

/** Delays over the last hour, oldest stretch first. */
export interface Delays {
  stretch_seconds: number;
  turns: number;
  /** Whether more turns were claimed than were counted: the newest 20,000. */
  is_cut: boolean;
  completed: number;
  stopped: number;
  failed: number;
  data: Array<Delay>;
}

/** A body without fields; it may be left out. */
export interface Empty {
}

/** Events of a turn as JSON. */
export interface EventPage {
  /** Envelopes as on the streams. */
  data: Array<Record<string, unknown>>;
  last_seq: number;
  /** Whether the turn has ended and `data` reaches its end. */
  done: boolean;
}

/** Why a turn failed: safe to store, count and show. */
export type Fault = "provider_unreachable" | "provider_rejected" | "provider_auth" | "provider_rate_limited" | "provider_overloaded" | "provider_protocol" | "provider_timeout" | "turn_timeout" | "tool_call_unsupported" | "tool_use_in_history" | "context_too_long" | "worker_lost" | "ai_disabled" | "internal";

/** How many turns failed by one fault. */
export interface FaultCount {
  /** The error's code; `expired` for turns that no worker took in time. */
  code: string;
  turns: number;
  last_turn_id: string;
}

/** One wrong field. */
export interface FieldError {
  /** JSON pointer (RFC 6901) into the body, or `/query/…`, `/headers/…`. */
  pointer: string;
  detail: string;
}

/** Why the model stopped. */
export type FinishReason = "stop" | "length" | "content_filter" | "refusal" | "unknown";

/** A session that was marked for review. */
export interface FlaggedSession {
  id: string;
  user: string;
  title: string | null;
  status: SessionStatus;
  flag_reason: string | null;
  flagged_by: string | null;
  flagged_at: string;
  last_activity_at: string;
}

/** A page of flagged sessions, those flagged last first. */
export interface FlaggedSessionList {
  data: Array<FlaggedSession>;
  next_cursor: string | null;
}

/** A session that a search found. */
export interface FoundSession {
  id: string;
  user: string;
  title: string | null;
  status: SessionStatus;
  provider: string;
  model: string;
  system_prompt: string | null;
  max_turns: number;
  turn_count: number;
  usage: UsageCounts;
  /** US dollars, exact. */
  cost_usd: string;
  active_turn_id: string | null;
  flagged: boolean;
  metadata: Record<string, unknown>;
  created_at: string;
  last_activity_at: string;
  /** The text around the hit. */
  matched: string;
}

/** A page of sessions that a search found, newest activity first. */
export interface FoundSessionList {
  data: Array<FoundSession>;
  next_cursor: string | null;
}

/** Whether the process answers. */
export interface Health {
  status?: string;
}

/** An API key, without its secret. */
export interface Key {
  id: string;
  role: KeyRole;
  user: string | null;
  name: string;
  /** What to recognise it by. */
  prefix: string;
  created_at: string;
  expires_at: string | null;
  revoked_at: string | null;
  last_used_at: string | null;
}

/** A page of keys, newest first. */
export interface KeyList {
  data: Array<Key>;
  next_cursor: string | null;
}

/** What a key may do. */
export type KeyRole = "user" | "service" | "admin";

/** A turn that a worker holds. */
export interface LeasedTurn {
  id: string;
  session_id: string;
  user: string;
  status: TurnStatus;
  attempt: number;
  started_at: string;
  lease_expires_at: string | null;
}

/** What a row of the ledger is. */
export type LedgerKind = "usage" | "correction";

/** A page of the ledger, newest first. */
export interface LedgerList {
  data: Array<LedgerRow>;
  next_cursor: string | null;
}

/** What one attempt cost, or what was corrected of it. */
export interface LedgerRow {
  id: string;
  turn_id: string;
  session_id: string;
  user: string;
  attempt: number;
  provider: string;
  model: string;
  usage: UsageCounts;
  usage_source: UsageSource;
  /**
   * US dollars for a million tokens of each class, as decimal strings (`input_per_m_usd` …), and `assumed`:
   * whether the model had no price of its own.
   */
  price: Record<string, unknown>;
  /** US dollars, exact; a correction may be negative. */
  cost_usd: string;
  /** The UTC day whose budget paid. */
  day: string;
  /** When the attempt ended; a correction has that of the row it corrects, and stands beside it. */
  created_at: string;
  /** What the provider said, where it is not billed as it is (`disputed`) or contradicts itself. */
  reported: Record<string, number> | null;
  kind: LedgerKind;
  /** The row that a correction corrects. */
  corrects: string | null;
  /** Why it was corrected. */
  reason: string | null;
  /** Who corrected it, as the operator wrote it. */
  corrected_by: string | null;
  corrected_at: string | null;
}

/** One side of a turn. */
export interface Message {
  id: string;
  session_id: string;
  turn_id: string;
  position: number;
  role: Role;
  content: string;
  status: MessageStatus;
  finish_reason: FinishReason | null;
  usage: UsageCounts | null;
  created_at: string;
  /** False: the provider refused the turn, so that its messages are left out of later prompts. */
  in_conversation: boolean;
}

/** A page of messages, in the order of the conversation. */
export interface MessageList {
  data: Array<Message>;
  next_cursor: string | null;
}

/** Whether a stored message is the whole of what was to be said. */
export type MessageStatus = "complete" | "partial";

/** What happened to a turn, as far as its row says. */
export type Moment = "accepted" | "claimable" | "claimed" | "first_token" | "stop_requested" | "stop_observed" | "done";

/** What a new turn does to those before it. */
export type MultitaskStrategy = "reject" | "enqueue" | "interrupt" | "rollback";

/** Marks a session for review. */
export interface NewFlag {
  reason?: string | null;
}

/** Makes an API key. */
export interface NewKeyRequest {
  role: KeyRole;
  /** Required for the role `user`, else refused. */
  user?: string | null;
  name?: string;
  expires_at?: string | null;
}

/** Opens a session. */
export interface NewSession {
  /** Whose it is; required unless the key is bound to a user. */
  user?: string | null;
  /** Without one the first message gives it. */
  title?: string | null;
  system_prompt?: string | null;
  max_turns?: number | null;
  /** Yours; at most 16 KiB. */
  metadata?: Record<string, unknown> | null;
}

/** Asks for a ticket that opens one stream. */
export interface NewTicket {
  session_id: string;
  ttl_seconds?: number | null;
}

/** Asks for an answer. */
export interface NewTurn {
  /** 1 to 32,000 characters; stored as written. */
  content: string;
  max_output_tokens?: number | null;
  /**
   * What to do when a turn is queued or running: `reject` (409), `enqueue` (first in, first out), `interrupt`
   * (stop it, keep its partial text), `rollback` (stop it and drop its messages).
   */
  multitask_strategy?: MultitaskStrategy;
  /** What happens when an attempt dies after text was shown. */
  recovery?: Recovery;
  deadline_seconds?: number | null;
  metadata?: Record<string, unknown> | null;
}

/** How the organization's turns stand now. */
export interface OperationsSummary {
  at: string;
  queued: number;
  /** Of the queued those that wait for a worker, not for their session. */
  claimable: number;
  running: number;
  stopping: number;
  /** The turn that has waited longest for a worker. */
  oldest_turn_id: string | null;
  /** How long it has waited. */
  oldest_wait_seconds: number | null;
  /** Of the turns accepted in the last 24 hours; at most the newest 10,000 of them are counted. */
  failures: Array<FaultCount>;
}

/** Pauses or resumes a session's tools. */
export interface Pause {
  paused?: boolean;
}

/** Seconds that half and 95 of 100 turns stayed under. */
export interface Percentiles {
  p50_seconds: number;
  p95_seconds: number;
}

/** What the current UTC day or month has cost so far. */
export interface Period {
  /** US dollars, exact. */
  spent_usd: string;
  /** What turns that have not ended may still cost at most. */
  held_usd: string;
  /** When the next one begins. */
  resets_at: string;
}

/** Approves or refuses a plan. */
export interface PlanApproval {
  approved?: boolean;
}

/** What went wrong (RFC 9457); programs branch on `code`. */
export interface ProblemBody {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  request_id: string;
  retryable?: boolean;
  retry_after_ms?: number | null;
  errors?: Array<FieldError> | null;
  [name: string]: unknown;
}

/** Whether the service can do its work, part by part. */
export interface Readiness {
  status: "ok" | "degraded";
  checks: Record<string, Check>;
}

/** What happens to a turn whose attempt dies after text was shown. */
export type Recovery = "restart" | "fail";

/** How often a limit refused a user's turns. */
export interface Refusal {
  /** Empty where the session was not known. */
  user: string;
  /** The limit: `budget_exceeded`, `rate_limited`, `too_many_turns`, `turn_limit_reached` or `queue_full`. */
  code: string;
  /** `user` or `organization` of a rate, `day` or `month` of a budget; else null. */
  scope: string | null;
  /** How many requests. */
  refused: number;
  last_at: string;
}

/** Who was refused by which limit, the most frequent first. */
export interface RefusalReport {
  data: Array<Refusal>;
  /** All requests of these days that limits refused, also those not listed. */
  refused: number;
}

/** Who says a message. */
export type Role = "user" | "assistant";

/** A conversation. */
export interface Session {
  id: string;
  user: string;
  title: string | null;
  status: SessionStatus;
  provider: string;
  model: string;
  system_prompt: string | null;
  max_turns: number;
  turn_count: number;
  usage: UsageCounts;
  /** US dollars, exact. */
  cost_usd: string;
  active_turn_id: string | null;
  flagged: boolean;
  metadata: Record<string, unknown>;
  created_at: string;
  last_activity_at: string;
}

/** Changes what was named; a title of `null` is taken away. */
export interface SessionChanges {
  title?: string | null;
  metadata?: Record<string, unknown> | null;
}

/** A page of sessions, newest activity first. */
export interface SessionList {
  data: Array<Session>;
  next_cursor: string | null;
}

/** Whether a session takes turns. */
export type SessionStatus = "active" | "closed" | "expired";

/** Asks for a turn's end. */
export interface Stop {
  /** How long to wait for the end. */
  wait_ms?: number;
}

/** Asks for the end of everything that the organization has queued and running. */
export interface StopOrganization {
  /** For the service's log; names nobody. */
  reason?: string | null;
}

/** Why a turn was asked to end before its answer did. */
export type StopReason = "user" | "budget" | "session_closed" | "superseded";

/** How many turns were stopped. */
export interface StoppedOrganization {
  /** Turns that waited and have ended. */
  queued: number;
  /** Turns that ran and were asked to end. */
  running: number;
}

/** Opens one stream, once. */
export interface Ticket {
  /** Sent as the websocket subprotocol `ticket.<ticket>`. */
  ticket: string;
  expires_at: string;
}

/** One moment of a turn. */
export interface TimelineEntry {
  moment: Moment;
  at: string;
  /** Since the turn was accepted. */
  after_seconds: number;
}

/** One user message and its answer. */
export interface Turn {
  id: string;
  session_id: string;
  status: TurnStatus;
  /**
   * The attempt that runs, or the next one while the turn waits again; a turn that was ended in place of a
   * dead worker counts one more than were run.
   */
  attempt: number;
  provider: string;
  model: string;
  /** The stored answer; null until there is one. */
  message_id: string | null;
  user_message_id: string;
  finish_reason: FinishReason | null;
  stop_reason: StopReason | null;
  usage: UsageCounts;
  /** US dollars, exact. */
  cost_usd: string;
  usage_source: UsageSource | null;
  error: {
    type: string;
    title: string;
    detail: string;
    code: "provider_unreachable" | "provider_rejected" | "provider_auth" | "provider_rate_limited" | "provider_overloaded" | "provider_protocol" | "provider_timeout" | "turn_timeout" | "tool_call_unsupported" | "tool_use_in_history" | "context_too_long" | "worker_lost" | "ai_disabled" | "internal";
    retryable: boolean;
    retry_after_ms?: number;
  } | null;
  /**
   * Only for admins, and only if there is one: what the provider said in its last error, at most 500
   * characters, without keys and without what it repeats of the question.
   */
  provider_error?: string | null;
  last_seq: number;
  history_trimmed: number;
  queued_at: string;
  started_at: string | null;
  first_token_at: string | null;
  stop_requested_at: string | null;
  stop_observed_at: string | null;
  finished_at: string | null;
  metadata: Record<string, unknown>;
  links: TurnLinks;
}

/** Where a turn's things are. */
export interface TurnLinks {
  self: string;
  events: string;
  stop: string;
  session: string;
  messages: string;
}

/** A page of turns, newest first. */
export interface TurnList {
  data: Array<Turn>;
  next_cursor: string | null;
}

/** All that is known of one turn, without what was said in it. */
export interface TurnReport {
  turn: Turn;
  user: string;
  recovery: Recovery;
  request_id: string;
  deadline_seconds: number;
  /** Attempts that an ending worker gave back: they count for nothing. */
  handed_back: number;
  worker_id: string | null;
  lease_expires_at: string | null;
  /** What it may still cost at most; null without a budget. */
  held_usd: string | null;
  /** In the order of time; `claimed` and `first_token` are those of the first attempt that had them. */
  timeline: Array<TimelineEntry>;
  /** Those that reached a provider, oldest first. */
  attempts: Array<LedgerRow>;
}

/** Where a turn stands. */
export type TurnStatus = "queued" | "running" | "stopping" | "completed" | "stopped" | "failed" | "expired";

/** A turn in a list. */
export interface TurnSummary {
  id: string;
  session_id: string;
  user: string;
  status: TurnStatus;
  attempt: number;
  /** Null before it was first settled. */
  model: string | null;
  finish_reason: FinishReason | null;
  stop_reason: StopReason | null;
  error: {
    type: string;
    title: string;
    detail: string;
    code: "provider_unreachable" | "provider_rejected" | "provider_auth" | "provider_rate_limited" | "provider_overloaded" | "provider_protocol" | "provider_timeout" | "turn_timeout" | "tool_call_unsupported" | "tool_use_in_history" | "context_too_long" | "worker_lost" | "ai_disabled" | "internal";
    retryable: boolean;
    retry_after_ms?: number;
  } | null;
  /** US dollars, exact. */
  cost_usd: string;
  queued_at: string;
  started_at: string | null;
  first_token_at: string | null;
  finished_at: string | null;
}

/** A page of turns, newest first. */
export interface TurnSummaryList {
  data: Array<TurnSummary>;
  next_cursor: string | null;
}

/** Tokens in classes that do not overlap, except that reasoning is part of the output. */
export interface UsageCounts {
  input_tokens: number;
  cache_read_tokens: number;
  cache_write_tokens: number;
  output_tokens: number;
  reasoning_tokens: number;
}

/** What usage is added up by. */
export type UsageGroup = "day" | "user" | "model";

/** A page of usage, and the totals of all pages. */
export interface UsageReport {
  data: Array<UsageRow>;
  totals: UsageTotals;
  next_cursor: string | null;
}

/** What one day, user or model adds up to. */
export interface UsageRow {
  usage: UsageCounts;
  /** US dollars, exact. */
  cost_usd: string;
  /** Rows of the ledger, without corrections. */
  attempts: number;
  /** Turns that they belong to, each counted once. */
  turns: number;
  /** The day (`2026-01-31`), the user or the model. */
  group: string;
}

/** In which order groups come. */
export type UsageSort = "name" | "cost";

/** Who says how much was used. */
export type UsageSource = "provider" | "partial" | "estimated" | "disputed";

/** What a part of the ledger adds up to. */
export interface UsageTotals {
  usage: UsageCounts;
  /** US dollars, exact. */
  cost_usd: string;
  /** Rows of the ledger, without corrections. */
  attempts: number;
  /** Turns that they belong to, each counted once. */
  turns: number;
}

/** A worker process, and what it runs of this organization. */
export interface Worker {
  id: string;
  state: WorkerState;
  /** Null for a lease holder of which nothing else is known. */
  started_at: string | null;
  renewed_at: string | null;
  /** When it last heard a doorbell or a canary. */
  heard_at: string | null;
  /** Turns of this organization; other organizations' are not counted. */
  running: number;
  /** The 20 that began first. */
  turns: Array<LeasedTurn>;
}

/** The workers, those that began first first; at most 200. */
export interface WorkerList {
  data: Array<Worker>;
}

/** Whether a worker lives and hears. */
export type WorkerState = "hearing" | "deaf" | "gone";

/** Why a turn failed: a problem without status and request id. */
export interface TurnProblem {
  code: Fault;
  detail: string;
  retry_after_ms?: number;
  retryable: boolean;
  title: string;
  type: string;
}

/** What every event of a turn has: `(turn_id, seq)` identifies it. */
export interface Envelope {
  session_id: string;
  turn_id: string;
  /** From 1, and one more with each event of the turn, across attempts. */
  seq: number;
  /** The attempt that published it; 0 before the first. */
  attempt: number;
  /** When it was published. */
  ts: string;
}

/** The turn is committed. */
export interface TurnQueued extends Envelope {
  type: "turn_queued";
}

/** A worker claimed the turn; comes again with each attempt. */
export interface TurnStarted extends Envelope {
  type: "turn_started";
  provider: string;
  model: string;
}

/** The provider answered. */
export interface MessageStart extends Envelope {
  type: "message_start";
  /** The stored message's id. */
  message_id: string;
  /** Earlier turns that were left out of the prompt; absent if none was. */
  history_trimmed?: number;
}

/** Text of the answer; consecutive deltas may arrive as one. */
export interface ContentDelta extends Envelope {
  type: "content_delta";
  /** Never empty. */
  delta: string;
}

/** Thinking text, which is kept apart from the answer. */
export interface ReasoningDelta extends Envelope {
  type: "reasoning_delta";
  /** Never empty. */
  delta: string;
}

/** The text of the earlier attempt is void; a new `message_start` follows. */
export interface MessageReset extends Envelope {
  type: "message_reset";
  /** The fault that made it void. */
  reason: Fault;
}

/** The provider ended the message. */
export interface MessageEnd extends Envelope {
  type: "message_end";
  /** What the attempt used. */
  usage: UsageCounts | null;
  /** Why the model stopped. */
  finish_reason: FinishReason | null;
}

/** The session got its title from its first message. */
export interface TitleUpdated extends Envelope {
  type: "title_updated";
  title: string;
}

/** The turn was asked to end. */
export interface StopRequested extends Envelope {
  type: "stop_requested";
  /** Who asked, or what. */
  stop_reason: StopReason | null;
}

/** Why the turn failed; `done` follows. */
export interface TurnError extends Envelope {
  type: "error";
  error: TurnProblem;
}

/** The turn is over: exactly one, and the last, after the message, usage and cost are committed. */
export interface Done extends Envelope {
  type: "done";
  status: TurnStatus;
  /** Why the model stopped; null unless it did. */
  finish_reason: FinishReason | null;
  /** Who asked the turn to end, or what; null unless asked. */
  stop_reason: StopReason | null;
  /** What all attempts used. */
  usage: UsageCounts;
  /** Who says how much was used; null if no provider was called. */
  usage_source: UsageSource | null;
  /** US dollars, exact. */
  cost_usd: string;
  /** Null unless the turn failed. */
  error: TurnProblem | null;
  /** Of the stored answer in UTF-8, in hexadecimal; of the empty text when none is stored. */
  content_sha256: string;
}

/** Events that are no longer held; a `snapshot` follows. */
export interface Gap {
  type: "gap";
  turn_id: string;
  /** The first `seq` that is missing. */
  from: number;
  /** The last `seq` that is missing. */
  to: number;
}

/** The text up to `seq`, instead of the events before: any text read before it is void. */
export interface Snapshot {
  type: "snapshot";
  turn_id: string;
  /** From 1, and one more with each event of the turn, across attempts. */
  seq: number;
  /** The attempt that published it; 0 before the first. */
  attempt: number;
  status: TurnStatus;
  /** Null before the provider answered. */
  message_id: string | null;
  /** The answer so far. */
  content: string;
  /** The thinking so far. */
  reasoning: string;
}

/** Later versions may send other events: a program ignores the types that it does not know. */
export type TurnEvent = TurnQueued | TurnStarted | MessageStart | ContentDelta | ReasoningDelta | MessageReset | MessageEnd | TitleUpdated | StopRequested | TurnError | Done | Gap | Snapshot;
