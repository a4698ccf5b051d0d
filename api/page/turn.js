/**
 * One turn as this page knows it: a pure function of the events read so far and of what the store says.
 * Events are taken once and in order by `seq`; the store has the last word on how a turn ended.
 */

const TERMINAL = new Set(["completed", "stopped", "failed", "expired"]);
const WAITING = new Set(["queued", "running", "stopping"]);

/** A turn of which nothing is known but its id. */
export function newTurn(id, question = null) {
  return Object.freeze({
    id,
    question,
    status: "queued",
    seq: 0,
    attempt: 0,
    content: "",
    reasoning: "",
    restarted: false,
    model: null,
    provider: null,
    finishReason: null,
    stopReason: null,
    usage: null,
    usageSource: null,
    costUsd: null,
    error: null,
    historyTrimmed: 0,
    inConversation: true, // false: the provider refused it, so later prompts go without it
    contentSha256: null,
    done: false,
    followed: false, // whether its events came here: what was thought stands in them and not among the messages
    whole: true, // false when something was skipped: the text must be read again
  });
}

const ended = (record) => ({
  done: true,
  status: record.status,
  finishReason: record.finish_reason ?? null,
  stopReason: record.stop_reason ?? null,
  usage: record.usage ?? null,
  usageSource: record.usage_source ?? null,
  costUsd: record.cost_usd ?? null,
  error: record.error ?? null,
});

function changes(turn, event) {
  switch (event.type) {
    case "turn_queued":
      return { status: "queued" };
    case "turn_started":
      return {
        status: turn.status === "stopping" ? "stopping" : "running",
        provider: event.provider ?? null,
        model: event.model ?? null,
      };
    case "message_start":
      return { historyTrimmed: event.history_trimmed ?? 0 };
    case "content_delta":
      return { content: turn.content + event.delta };
    case "reasoning_delta":
      return { reasoning: turn.reasoning + event.delta };
    case "message_reset":
      return { content: "", reasoning: "", restarted: true };
    case "message_end":
      return { usage: event.usage ?? turn.usage, finishReason: event.finish_reason ?? null };
    case "stop_requested":
      return { status: "stopping", stopReason: event.stop_reason ?? null };
    case "error":
      return { error: event.error ?? null };
    case "done":
      return { ...ended(event), contentSha256: event.content_sha256 ?? null };
    default:
      return {}; // title_updated, and what a later version adds
  }
}

/**
 * Take one event.
 * @returns {{turn: object, fate: "applied"|"seen"|"hole"}} "seen": it or its effect was there already; "hole":
 *   events before it are missing, so nothing was taken. `done` is taken over a hole too, for an answer must
 *   never seem to go on for ever; the turn is then not `whole`.
 */
export function applyEvent(turn, event) {
  if (turn.done) return { turn, fate: "seen" };
  if (event.type === "snapshot") return applySnapshot(turn, event);
  if (event.seq <= turn.seq) return { turn, fate: "seen" };
  const isNext = event.seq === turn.seq + 1;
  if (!isNext && event.type !== "done") return { turn, fate: "hole" };
  const followed = turn.followed || event.seq === 1;
  const next = { ...turn, ...changes(turn, event), seq: event.seq, attempt: event.attempt ?? turn.attempt, followed };
  return { turn: Object.freeze({ ...next, whole: turn.whole && isNext }), fate: "applied" };
}

function applySnapshot(turn, snapshot) {
  const status = WAITING.has(snapshot.status) && turn.status !== "stopping" ? snapshot.status : turn.status;
  return {
    turn: Object.freeze({
      ...turn,
      status, // a terminal status is believed when `done` says it
      seq: snapshot.seq,
      attempt: snapshot.attempt ?? turn.attempt,
      content: snapshot.content ?? "",
      reasoning: snapshot.reasoning ?? "",
      followed: true,
      whole: true,
    }),
    fate: "applied",
  };
}

/** Note that the user asked for a stop that was not answered yet; `done` has the last word. */
export const askedToStop = (turn) => (turn.done ? turn : Object.freeze({ ...turn, status: "stopping" }));

/** Take what the HTTP API says of a turn. A terminal row ends it; the text then comes from `withAnswer`. */
export function withRecord(turn, record) {
  const facts = {
    provider: record.provider ?? turn.provider,
    model: record.model ?? turn.model,
    historyTrimmed: record.history_trimmed ?? turn.historyTrimmed,
  };
  if (TERMINAL.has(record.status)) return Object.freeze({ ...turn, ...facts, ...ended(record) });
  // A row that was read before it ended may be older than the events that came meanwhile.
  if (turn.done || turn.seq > 0 || turn.status === "stopping") return Object.freeze({ ...turn, ...facts });
  return Object.freeze({ ...turn, ...facts, status: record.status });
}

/** Whether there may be reasoning that nobody has asked for yet: the answer was read from the store. */
export const mayHaveReasoned = (turn) => turn.done && !turn.followed && (turn.usage?.reasoning_tokens ?? 0) > 0;

/** Replace the text by the stored one. */
export function withAnswer(turn, content) {
  return Object.freeze({ ...turn, content, whole: true });
}

/**
 * Merge what is stored into what is known.
 * @param {Map<string, object>} known turns by id
 * @param {object[]} records the session's turns, read BEFORE the messages: a turn that had ended by then has its
 *   answer among them
 * @param {object[]} messages in the order of the conversation
 * @param {Set<string>} asked ids known when reading began; a turn that is in neither answer was dropped
 *   unless it came later
 * @returns {Map<string, object>} in the order of the conversation
 */
export function mergeStored(known, records, messages, asked) {
  const byId = new Map(records.map((record) => [record.id, record]));
  const merged = new Map();
  const answered = new Map();
  for (const message of messages) {
    const id = message.turn_id;
    if (message.role === "user") {
      const turn = known.get(id) ?? newTurn(id);
      const record = byId.get(id);
      const inConversation = message.in_conversation ?? true;
      const withQuestion = Object.freeze({ ...turn, question: message.content, inConversation });
      merged.set(id, record ? withRecord(withQuestion, record) : withQuestion);
    } else if (message.role === "assistant") {
      answered.set(id, message);
    }
  }
  for (const [id, turn] of merged) {
    const answer = answered.get(id);
    const record = byId.get(id);
    if (!record && answer && !turn.done) {
      const status = answer.status === "complete" ? "completed" : "stopped";
      merged.set(id, Object.freeze({ ...turn, done: true, status, usage: answer.usage ?? null, content: answer.content }));
    } else if (turn.done && (answer || TERMINAL.has(record?.status))) {
      // One that ended while this was read may have its answer behind what was read: its own text stands.
      merged.set(id, withAnswer(turn, answer?.content ?? ""));
    }
  }
  for (const [id, turn] of known) {
    if (!merged.has(id) && !asked.has(id)) merged.set(id, turn);
  }
  return merged;
}

/**
 * True when the text is the stored one, false when it is not, null where this browser cannot say (no
 * `crypto.subtle` over plain http).
 */
export async function isExact(turn) {
  if (!turn.whole) return false;
  if (turn.contentSha256 === null || !globalThis.crypto?.subtle) return null;
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(turn.content));
  const hex = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex === turn.contentSha256;
}
