/** One turn: when what happened to it, which attempts it took and what they cost. Nothing of what was said. */

import { el, setText } from "./dom.js";
import { figuresOf } from "./figures.js";
import { moment, tokenDetails, tokens, usd } from "./format.js";
import { Notice } from "./notice.js";
import { standing } from "./operations.js";
import { Poll } from "./poll.js";
import { span } from "./spans.js";
import { Table } from "./table.js";

const EVERY_MS = 2_000;
const ENDED = new Set(["completed", "stopped", "failed", "expired"]);
const MOMENTS = {
  accepted: ["Accepted", "Committed; a reader was told so."],
  claimable: ["Could be claimed", "Nothing of its session was before it any more, or a worker gave it back."],
  claimed: ["Claimed", "A worker took it for the first time."],
  first_token: ["First text", "The first text was published."],
  stop_requested: ["Stop asked", "It was asked to end."],
  stop_observed: ["Stop observed", "The provider's connection was closed."],
  done: ["Done", "The answer, the cost and the status were committed."],
};

export class TurnView {
  title;
  #api;
  #id;
  #poll;
  #notice = new Notice();
  #facts = el("dl", { class: "facts-of-turn" });
  #error = el("div", { class: "outcome", "data-tone": "bad", hidden: true });
  #timeline = el("ol", { class: "timeline" });
  #attempts;
  #shown = "";
  #note = el("p", { class: "note" });

  constructor(api, id) {
    this.#api = api;
    this.#id = id;
    this.title = `Turn …${id.slice(-6)}`;
    this.#attempts = new Table(
      "Attempts",
      [
        { name: "Attempt", cell: ({ attempt }) => String(attempt), isHead: true },
        { name: "Billed", cell: ({ created_at: at }) => el("time", { datetime: at }, moment(at)) },
        { name: "Model", cell: ({ model }) => el("bdi", {}, model), isWords: true },
        { name: "Tokens", cell: ({ usage }) => el("span", { title: tokenDetails(usage) }, tokens(usage)), isNumber: true },
        { name: "Figures", cell: figuresOf },
        { name: "Cost", cell: ({ cost_usd: cost }) => usd(cost), isNumber: true },
      ],
      ({ id: row }) => row,
      "No attempt has reached a provider and ended yet.",
    );
    this.node = el(
      "div",
      { class: "stack" },
      el("p", {}, el("a", { href: "/operations" }, "← Operations")),
      this.#notice.node,
      el("section", { class: "card", "aria-label": "Facts" }, this.#error, this.#facts),
      el("section", { class: "card" }, el("h2", {}, "Timeline"), this.#timeline, this.#note),
      el("section", { class: "card" }, el("h2", {}, "Attempts"), this.#attempts.node),
    );
    this.#poll = new Poll(() => this.#read(), EVERY_MS, (state) => this.#told(state));
  }

  open() {
    this.#poll.start();
  }

  close() {
    this.#poll.close();
  }

  /** Read the turn; false once nothing of it changes any more. */
  async #read() {
    const report = await this.#api.turn(this.#id);
    const text = JSON.stringify(report);
    if (text !== this.#shown) this.#draw(report);
    this.#shown = text;
    return !ENDED.has(report.turn.status);
  }

  #draw(report) {
    const { turn } = report;
    const facts = [
      ["Status", standing(turn.status)],
      ["User", el("bdi", {}, report.user)],
      ["Session", el("a", { href: `/#/sessions/${turn.session_id}` }, "Open in the chat")],
      ["Model", el("bdi", {}, turn.model)],
      ["Cost", usd(turn.cost_usd)],
      ["Held", report.held_usd === null ? null : usd(report.held_usd)],
      ["Tokens", el("span", { title: tokenDetails(turn.usage) }, tokens(turn.usage))],
      ["Attempt", turn.attempt === 0 ? null : String(turn.attempt)],
      ["Given back", report.handed_back === 0 ? null : String(report.handed_back)],
      ["Finish reason", turn.finish_reason],
      ["Stop reason", turn.stop_reason],
      ["Deadline", span(report.deadline_seconds)],
      ["Recovery", report.recovery],
      ["Worker", report.worker_id === null ? null : el("span", { class: "id" }, report.worker_id)],
      ["Lease until", report.lease_expires_at === null ? null : moment(report.lease_expires_at)],
      ["Turn", el("span", { class: "id" }, turn.id)],
      ["Request", report.request_id === "" ? null : el("span", { class: "id" }, report.request_id)],
    ];
    this.#facts.replaceChildren(
      ...facts.flatMap(([name, value]) => (value === null ? [] : [el("div", {}, el("dt", {}, name), el("dd", {}, value))])),
    );
    this.#error.hidden = turn.error === null;
    if (turn.error !== null) {
      const { code, title, detail } = turn.error;
      const said = turn.provider_error === undefined ? [] : [el("p", {}, "The provider said: ", el("q", {}, turn.provider_error))];
      this.#error.replaceChildren(el("p", {}, el("strong", {}, title), " ", el("code", {}, code)), el("p", {}, detail), ...said);
    }
    this.#drawTimeline(report.timeline);
    this.#attempts.update(report.attempts);
    const isOver = ENDED.has(turn.status);
    setText(this.#note, isOver ? "Claim and first text are those of the first attempt that had them." : "It goes on; this page follows it.");
  }

  #drawTimeline(timeline) {
    this.#timeline.replaceChildren(
      ...timeline.map(({ moment: name, at, after_seconds: after }, number) => {
        const since = number === 0 ? "" : `+${span(Math.max(0, after - timeline[number - 1].after_seconds))}`;
        const [title, words] = MOMENTS[name] ?? [name, ""];
        return el(
          "li",
          { "data-moment": name },
          el("span", { class: "since" }, since),
          el("strong", {}, title),
          el("span", { class: "note" }, words),
          el("time", { datetime: at, title: moment(at) }, number === 0 ? moment(at) : `${span(Math.max(0, after))} after`),
        );
      }),
    );
  }

  #told({ name, problem }) {
    if (name === "failing") {
      this.#notice.show(problem);
      if (problem.status === 404) this.#poll.close();
    } else {
      this.#notice.clear();
    }
  }
}
