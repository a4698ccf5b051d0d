/** Shows one turn: the question, the answer as it grows, how it ended and what it cost. */

import { button, copyButton, el, setText } from "./dom.js";
import { tokenDetails, tokens, usd } from "./format.js";
import { MarkdownView } from "./growing.js";
import { outcome, remarks, standing } from "./words.js";

const fact = (className) => el("span", { class: className });

export class ExchangeView {
  #turn = null;
  #markdown;
  #parts;

  /**
   * @param {{onAgain: (question: string) => void, onCancel: (turnId: string) => void}} owner `onAgain` puts a question back
   *   into the composer, `onCancel` stops a turn that waits
   */
  constructor(owner) {
    const text = el("div", { class: "text" });
    this.#markdown = new MarkdownView(text);
    this.#parts = {
      question: el("div", { class: "question", dir: "auto" }),
      thoughts: el("div", { class: "thoughts" }),
      text,
      outcome: el("p", { class: "outcome", hidden: true }, el("strong"), " ", el("span")),
      remarks: el("ul", { class: "remarks", hidden: true }),
      status: fact("standing"),
      model: fact("model"),
      tokens: fact("tokens"),
      cost: fact("cost"),
      again: button("Ask again", null, () => owner.onAgain(this.#turn.question), { class: "link", hidden: true }),
      cancel: button("Cancel", null, () => owner.onCancel(this.#turn.id), { class: "link", hidden: true }),
      copy: copyButton("Copy the answer", () => this.#turn.content),
    };
    const { question, thoughts, outcome: end, remarks: notes, status, model, tokens: used, cost, again, cancel, copy } = this.#parts;
    this.#parts.reasoning = el("details", { class: "reasoning", hidden: true }, el("summary", {}, "Reasoning"), thoughts);
    this.#parts.answer = el("div", { class: "answer", dir: "auto" }, this.#parts.reasoning, text, end, notes);
    this.node = el(
      "article",
      { class: "exchange" },
      question,
      this.#parts.answer,
      el("footer", { class: "facts" }, status, model, used, cost, again, cancel, copy),
    );
  }

  /** Draw the turn as it is now. `exact` says whether its text was proven to be the stored one. */
  update(turn, exact) {
    this.#turn = turn;
    const { question, thoughts, reasoning, answer, copy, again, cancel } = this.#parts;
    this.node.dataset.turnId = turn.id;
    this.node.dataset.status = turn.status;
    if (exact === undefined || exact === null) delete this.node.dataset.exact;
    else this.node.dataset.exact = String(exact);
    setText(question, turn.question ?? "");
    question.hidden = turn.question === null;
    reasoning.hidden = turn.reasoning === "";
    setText(thoughts, turn.reasoning);
    this.#markdown.update(turn.content, { grows: !turn.done });
    // The cursor is this class: it goes with `done`, however the turn ended.
    answer.classList.toggle("is-streaming", !turn.done);
    answer.setAttribute("aria-busy", String(!turn.done));
    copy.hidden = turn.content === "";
    again.hidden = !turn.done || !["failed", "expired"].includes(turn.status) || turn.question === null;
    cancel.hidden = turn.status !== "queued";
    this.#showOutcome(outcome(turn));
    this.#showRemarks(remarks(turn, exact));
    this.#showFacts(turn);
  }

  #showOutcome(end) {
    const node = this.#parts.outcome;
    node.hidden = end === null;
    if (end === null) return;
    node.dataset.tone = end.tone;
    setText(node.querySelector("strong"), end.title);
    setText(node.querySelector("span"), end.detail);
  }

  #showRemarks(lines) {
    const node = this.#parts.remarks;
    node.hidden = lines.length === 0;
    if (node.textContent !== lines.join("")) node.replaceChildren(...lines.map((line) => el("li", {}, line)));
  }

  #showFacts(turn) {
    const { status, model, tokens: used, cost } = this.#parts;
    setText(status, standing(turn));
    setText(model, turn.model ?? "");
    setText(used, turn.usage ? tokens(turn.usage) : "");
    used.title = turn.usage ? tokenDetails(turn.usage) : "";
    const about = turn.usageSource === "estimated" ? "about " : "";
    setText(cost, turn.costUsd === null ? "" : about + usd(turn.costUsd));
    cost.title = about ? "The provider did not report usage: estimated" : "";
  }
}
