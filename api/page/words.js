/** What the page says: how a turn stands, why it ended, what went wrong and what to do about it. */

import { moment, plural } from "./format.js";

const STOPPED = {
  user: "Stopped.",
  budget: "Stopped: this turn's budget is used up.",
  session_closed: "Stopped: the session was closed.",
  superseded: "Stopped: a newer message took its place.",
};

const CUT_SHORT = {
  length: "The answer ends here because it reached its length limit.",
  content_filter: "The provider's content filter ended the answer.",
  refusal: "The model declined to answer.",
  unknown: "The provider ended the answer here without a reason that is known. It may be incomplete.",
};

/** The service's words as a sentence: it writes its details in lower case, without a full stop. */
function sentence(words) {
  if (words === "") return "";
  const start = words[0].toUpperCase() + words.slice(1);
  return /[.!?…]$/.test(start) ? start : `${start}.`;
}

/** A title and a detail as two sentences; one where the detail begins with the title's words, as the service's often do. */
function sentences(title, detail) {
  const isRepeated = detail.toLowerCase().startsWith(title.toLowerCase().replace(/[.!?…]$/, ""));
  return isRepeated ? [sentence(detail), ""] : [sentence(title), sentence(detail)];
}

const countWords = (text) => text.split(/\s+/).filter(Boolean).length;

const whatIsKept = (turn) => `What was written is kept: ${plural(countWords(turn.content), "word")}.`;

const joined = (...sentences) => sentences.filter(Boolean).join(" ");

const TOKEN_CHARACTERS = 4; // of English, about; what is billed is counted by the provider

/** How much of an answer there is while nobody has counted it yet; nothing before its first word. */
export function soFar(turn) {
  const written = turn.content.length + turn.reasoning.length;
  return written === 0 ? "" : `about ${plural(Math.ceil(written / TOKEN_CHARACTERS), "token")} so far`;
}

/** A few words on where a turn stands; `ahead` turns of its session come before it. */
export function standing(turn, ahead = 0) {
  switch (turn.status) {
    case "queued":
      return ahead > 0 ? `queued, ${plural(ahead, "message")} before it` : "waiting for a worker…";
    case "running":
      return turn.content === "" ? (turn.reasoning === "" ? "asking the model…" : "reasoning…") : "answering…";
    case "stopping":
      return "stopping…";
    default:
      return turn.status;
  }
}

/**
 * How a turn ended, where that needs saying.
 * @returns {{tone: "plain"|"bad", title: string, detail: string}|null}
 */
export function outcome(turn) {
  if (!turn.done) return null;
  switch (turn.status) {
    case "stopped": {
      const kept = turn.content === "" ? "Nothing had been written yet." : whatIsKept(turn);
      return { tone: "plain", title: STOPPED[turn.stopReason] ?? "Stopped.", detail: kept };
    }
    case "failed": {
      const { title: what, detail: why } = turn.error ?? {};
      const [title, detail] = sentences(what ?? "The turn failed", why ?? "");
      const kept = turn.content === "" ? "" : whatIsKept(turn);
      return { tone: "bad", title, detail: joined(detail, kept) };
    }
    case "expired":
      return { tone: "bad", title: "No worker took this turn in time.", detail: "Nothing was billed. Send it again." };
    default:
      return CUT_SHORT[turn.finishReason] ? { tone: "plain", title: CUT_SHORT[turn.finishReason], detail: "" } : null;
  }
}

/** What else a reader should know about a turn, in sentences. */
export function remarks(turn, exact) {
  const lines = [];
  if (turn.restarted && !turn.done) lines.push("A worker was lost; the answer was started again.");
  if (turn.historyTrimmed > 0) {
    lines.push(`${plural(turn.historyTrimmed, "earlier turn")} did not fit into the prompt.`);
  }
  if (!turn.inConversation) lines.push("Not part of the conversation: the model is not sent it again.");
  if (exact === false) lines.push("This text could not be matched with the stored answer: reload the page.");
  return lines;
}

const seconds = (ms) => plural(Math.max(1, Math.ceil(ms / 1000)), "second");

const REMEDIES = {
  budget_exceeded: ({ body }) => (body.resets_at ? `It starts anew ${moment(body.resets_at)}.` : ""),
  session_expired: () => "Start a new session; this one stays readable.",
  session_closed: () => "Start a new session; this one stays readable.",
  session_busy: () => "Stop the answer that is being written, or wait for its end.",
  turn_limit_reached: () => "Start a new session.",
  ai_disabled: () => "Ask whoever administers your organization.",
};

/**
 * A Problem in words.
 * @returns {{title: string, detail: string}}
 */
export function explain(problem) {
  const fields = problem.errors.map(({ pointer, detail }) => sentence(`${(pointer ?? "").replace(/^\//, "")}: ${detail}`));
  const remedy = REMEDIES[problem.code]?.(problem) ?? "";
  const wait = problem.retryAfterMs ? `Try again in ${seconds(problem.retryAfterMs)}.` : "";
  const request = problem.status >= 500 && problem.requestId ? `(request ${problem.requestId})` : "";
  const [title, detail] = sentences(problem.title, problem.detail);
  return { title, detail: joined(detail, ...fields, remedy || wait, request) };
}
