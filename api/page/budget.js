/**
 * What of the organization's budget is used, where the key may know it: the service tells administrators only, and
 * says to everyone else that a budget is used up when a turn is refused.
 */

import { Problem } from "./api.js";
import { shareOf } from "./budget-share.js";
import { el, setText } from "./dom.js";
import { moment, usd } from "./format.js";

const EVERY_MS = 60_000; // others spend as well
const SOON_MS = 500; // several ends at once are one look

/** The fuller of day and month, or null where neither has a limit. */
export function tightest(budget) {
  const periods = [
    { name: "today", limit: budget.daily_usd, ...budget.day },
    { name: "this month", limit: budget.monthly_usd, ...budget.month },
  ];
  const shares = periods
    .filter(({ limit }) => limit !== null)
    .map((period) => ({ ...period, ...shareOf(period.limit, period) }));
  return shares.sort((one, other) => other.used - one.used)[0] ?? null;
}

export class BudgetView {
  #api;
  #timer = null;
  #mayKnow = true;
  #isClosed = false;
  #tellKnown;
  #parts;

  constructor(api) {
    this.#api = api;
    /** Settled once the service has told the budget; never, where it tells this key nothing. */
    this.known = new Promise((resolve) => {
      this.#tellKnown = resolve;
    });
    const fill = el("span", { class: "spent-part" });
    const held = el("span", { class: "held-part" });
    const bar = el("div", { class: "bar-of-budget", role: "meter", "aria-valuemin": "0", "aria-valuemax": "100" }, fill, held);
    const words = el("p", { class: "words", id: "budget-words" });
    bar.setAttribute("aria-labelledby", "budget-words");
    const warning = el("p", { class: "budget-warning", role: "status", hidden: true });
    this.#parts = { fill, held, bar, words };
    this.warning = warning;
    this.node = el("div", { class: "budget", hidden: true }, words, bar);
    this.refresh();
  }

  /** Look again soon: a turn has begun or ended. */
  refresh() {
    if (!this.#mayKnow || this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#read(), SOON_MS);
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.#timer);
  }

  async #read() {
    try {
      this.#draw(tightest(await this.#api.budget()));
      this.#tellKnown();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#mayKnow = problem.status !== 403; // of another failure the connection's own state tells
    }
    if (!this.#mayKnow || this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#read(), EVERY_MS);
  }

  #draw(period) {
    const { fill, held, bar, words } = this.#parts;
    this.node.hidden = period === null;
    this.warning.hidden = period === null || period.level === "plain";
    if (period === null) return;
    const percent = Math.floor(period.used);
    const { level } = period;
    this.node.dataset.level = level;
    this.warning.dataset.level = level;
    fill.style.width = `${period.spent}%`;
    held.style.width = `${period.used - period.spent}%`;
    bar.setAttribute("aria-valuenow", String(percent));
    setText(words, `${usd(period.spent_usd)} of ${usd(period.limit)} ${period.name}`);
    const holds = Number(period.held_usd) > 0 ? `, ${usd(period.held_usd)} held for running turns` : "";
    this.node.title = `${percent} % used${holds}. It starts anew ${moment(period.resets_at)}.`;
    const state = period.used >= 100 ? "is used up" : `is ${percent} % used`;
    setText(this.warning, `The organization's budget for ${period.name} ${state}. It starts anew ${moment(period.resets_at)}.`);
  }
}
