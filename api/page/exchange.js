/** Shows one turn: the question, the answer as it grows, how it ended and what it cost. */

import { TurnActions } from "./actions.js";
import { Problem } from "./api.js";
import { showControls } from "./controls.js";
import { el, setText } from "./dom.js";
import { tokenDetails, tokens, usd } from "./format.js";
import { MarkdownView } from "./growing.js";
import { mayHaveReasoned } from "./turn.js";
import { explain, outcome, remarks, soFar, standing } from "./words.js";

const READING = "Reading…";
const fact = (className) => el("span", { class: className });

const ABOUT = {
  estimated: ["about ", "The provider did not report usage: estimated"],
  disputed: ["at most ", "The provider reported more than the turn can have used: the bound is billed"],
};

export class ExchangeView {
  #owner;
  #turn = null;
  #question = null;
  #actions;
  #markdown;
  #parts;

  /**
   * @param {object} owner what `TurnActions` asks for, and `onReasoning: (turnId: string) => Promise<string>`, which has what
   *   was thought shown here or raises Problem
   */
  constructor(owner) {
    this.#owner = owner;
    const text = el("div", { class: "text" });
    this.#markdown = new MarkdownView(text);
    this.#parts = {
      question: el("div", { class: "question", dir: "auto", hidden: true }),
      thoughts: el("div", { class: "thoughts" }),
      text,
      outcome: el("p", { class: "outcome", hidden: true }, el("strong"), " ", el("span")),
      remarks: el("ul", { class: "remarks", hidden: true }),
      status: fact("standing"),
      model: fact("model"),
      tokens: fact("tokens"),
      cost: fact("cost"),
    };
    const { question, thoughts, outcome: end, remarks: notes, status, model, tokens: used, cost } = this.#parts;
    this.#actions = new TurnActions(question, owner);
    this.#parts.reasoning = el("details", { class: "reasoning", hidden: true }, el("summary", {}, "Reasoning"), thoughts);
    this.#parts.reasoning.addEventListener("toggle", () => this.#readReasoning());
    this.#parts.answer = el("div", { class: "answer", dir: "auto" }, this.#parts.reasoning, text, end, notes);
    this.node = el(
      "article",
      { class: "exchange" },
      question,
      this.#parts.answer,
      el("footer", { class: "facts" }, status, model, used, cost, this.#actions.node),
    );
  }

  /**
   * Draw the turn as it is now.
   * @param {object} turn
   * @param {boolean|null} [exact] whether its text was proven to be the stored one
   * @param {{ahead: number, isAlone: boolean}} place where it stands among those that are not over
   */
  update(turn, exact, place) {
    const { question, thoughts, reasoning, answer } = this.#parts;
    this.#turn = turn;
    this.node.dataset.turnId = turn.id;
    this.node.dataset.status = turn.status;
    if (exact === undefined || exact === null) delete this.node.dataset.exact;
    else this.node.dataset.exact = String(exact);
    this.#showQuestion(turn.question);
    reasoning.hidden = turn.reasoning === "" && !mayHaveReasoned(turn);
    if (turn.reasoning !== "" || reasoning.hidden) setText(thoughts, turn.reasoning);
    this.#markdown.update(turn.content, { grows: !turn.done });
    // The cursor is this class: it goes with `done`, however the turn ended.
    answer.classList.toggle("is-streaming", !turn.done);
    answer.setAttribute("aria-busy", String(!turn.done));
    this.#actions.update(turn, place);
    this.#showOutcome(outcome(turn));
    this.#showRemarks(remarks(turn, exact));
    this.#showFacts(turn, place);
  }

  /** Fetch what was thought when a reader wants to see it: a page that was reloaded has the answers alone. */
  async #readReasoning() {
    const { thoughts, reasoning } = this.#parts;
    if (!reasoning.open || this.#turn.reasoning !== "" || thoughts.textContent === READING) return;
    thoughts.textContent = READING;
    try {
      const words = await this.#owner.onReasoning(this.#turn.id);
      if (words === "") thoughts.textContent = "The provider does not show it.";
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      thoughts.textContent = explain(problem).title;
    }
  }

  #showQuestion(words) {
    const { question } = this.#parts;
    if (words === this.#question) return; // what is hidden while it is edited stays so
    this.#question = words;
    question.hidden = words === null;
    question.textContent = words ?? "";
    showControls(question);
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

  #showFacts(turn, { ahead }) {
    const { status, model, tokens: used, cost } = this.#parts;
    setText(status, standing(turn, ahead));
    setText(model, turn.model ?? "");
    setText(used, turn.usage ? tokens(turn.usage) : turn.done ? "" : soFar(turn));
    used.title = turn.usage ? tokenDetails(turn.usage) : "";
    const [about, why] = ABOUT[turn.usageSource] ?? ["", ""];
    setText(cost, turn.costUsd === null ? "" : about + usd(turn.costUsd));
    cost.title = why;
  }
}
