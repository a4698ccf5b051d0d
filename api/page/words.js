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
};

/** The service's words as a sentence: it writes its details in lower case, without a full stop. */
function sentence(words) {
  if (words === "") return "";
  const start = words[0].toUpperCase() + words.slice(1);
  return /[.!?…]$/.test(start) ? start : `${start}.`;
}

const joined = (...sentences) => sentences.filter(Boolean).join(" ");

/** One word or two on where a turn stands. */
export function standing(turn) {
  switch (turn.status) {
    case "queued":
      return "queued…";
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
      const kept = turn.content === "" ? "Nothing had been written yet." : "What was written is kept.";
      return { tone: "plain", title: STOPPED[turn.stopReason] ?? "Stopped.", detail: kept };
    }
    case "failed": {
      const { title, detail } = turn.error ?? {};
      const kept = turn.content === "" ? "" : "What was written is kept.";
      return { tone: "bad", title: sentence(title ?? "The turn failed"), detail: joined(sentence(detail ?? ""), kept) };
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
  return { title: sentence(problem.title), detail: joined(sentence(problem.detail), ...fields, remedy || wait, request) };
}
