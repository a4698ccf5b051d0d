/** Usage: what was spent, by day, user and model, within which budget, row by row, and whom limits refused. */

import { Problem } from "./admin-api.js";
import { BudgetCard } from "./budget-card.js";
import { ColumnChart, shareBar } from "./chart.js";
import { el } from "./dom.js";
import { ago, moment, tokens, usd } from "./format.js";
import { LedgerCard } from "./ledger-card.js";
import { Notice } from "./notice.js";
import { RangeForm } from "./range.js";
import { Table } from "./table.js";

const MOST_GROUPS = 20;
const count = new Intl.NumberFormat("en");
const LIMITS = {
  budget_exceeded: "budget",
  rate_limited: "rate",
  too_many_turns: "turns at once",
  turn_limit_reached: "turns of a session",
  queue_full: "full queue",
};

const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** "633.7K in · 108.9K out", with all digits for whoever points at it. */
function shortTokens(usage) {
  const input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens;
  return el("span", { title: tokens(usage) }, `${short.format(input)} in · ${short.format(usage.output_tokens)} out`);
}

/** An amount for an axis: as many decimals as it needs and no more. */
function axisUsd(value) {
  return `$${Number(value.toPrecision(2)).toLocaleString("en", { maximumFractionDigits: 12 })}`;
}

/** All days of a range: those on which nothing was spent are told as well. */
export function everyDay({ from, to }, rows) {
  const known = new Map(rows.map((row) => [row.group, row]));
  const days = [];
  for (let day = Date.parse(`${from}T00:00:00Z`); day <= Date.parse(`${to}T00:00:00Z`); day += 86_400_000) {
    const name = new Date(day).toISOString().slice(0, 10);
    days.push({ day: name, row: known.get(name) ?? null });
  }
  return days;
}

const dayName = (day) => new Date(`${day}T00:00:00Z`).toLocaleDateString("en", { month: "short", day: "numeric", timeZone: "UTC" });

export class UsageView {
  title = "Usage";
  #api;
  #range;
  #notice = new Notice();
  #parts;
  #request = 0; // only the newest answer is shown

  /** @param {object} api the administrators' calls; @param {object} budget as it was read a moment ago */
  constructor(api, budget) {
    this.#api = api;
    this.#range = new RangeForm(() => this.#load());
    const figures = el("dl", { class: "tiles" });
    const days = new ColumnChart({
      title: "Spend by day",
      note: "UTC days; the day whose budget paid.",
      axis: axisUsd,
      columns: [
        { name: "Day", cell: ({ key }) => key, isHead: true },
        { name: "Cost", cell: ({ row }) => usd(row?.cost_usd ?? "0"), isNumber: true },
        { name: "Turns", cell: ({ row }) => count.format(row?.turns ?? 0), isNumber: true },
        { name: "Tokens", cell: ({ row }) => (row === null ? "–" : tokens(row.usage)), isNumber: true },
      ],
    });
    const users = this.#groups("Spend by user", "User");
    const models = this.#groups("Spend by model", "Model");
    const refusals = new Table(
      "Limits hit",
      [
        { name: "User", cell: ({ user }) => el("bdi", {}, user || "unknown"), isHead: true, isWords: true },
        { name: "Limit", cell: ({ code, scope }) => `${LIMITS[code] ?? code}${scope === null ? "" : ` (${scope})`}` },
        { name: "Refused", cell: ({ refused }) => count.format(refused), isNumber: true },
        { name: "Last", cell: ({ last_at: at }) => el("time", { datetime: at, title: moment(at) }, ago(at)) },
      ],
      ({ user, code, scope }) => JSON.stringify([user, code, scope]),
      "No limit refused anyone.",
    );
    const ledger = new LedgerCard(api, () => this.#range.value);
    const card = new BudgetCard(api, budget);
    this.#parts = { figures, days, users, models, refusals, ledger, card };
    const section = (title, ...children) => el("section", { class: "card" }, el("h2", {}, title), ...children);
    this.node = el(
      "div",
      { class: "stack" },
      this.#notice.node,
      card.node,
      this.#range.node,
      figures,
      el("div", { class: "card" }, days.node),
      el(
        "div",
        { class: "columns" },
        section("Spend by user", users.note, users.table.node),
        section("Spend by model", models.note, models.table.node),
      ),
      section(
        "Limits hit",
        el("p", { class: "note" }, "Requests for a turn that a limit refused: of whom, and which. Kept for 92 days."),
        refusals.node,
      ),
      ledger.node,
    );
  }

  open() {
    this.#load();
  }

  close() {
    this.#request += 1;
    this.#parts.days.close();
  }

  #groups(title, name) {
    let most = 0;
    const table = new Table(
      title,
      [
        { name, cell: ({ group }) => el("bdi", {}, group), isHead: true, isWords: true },
        { name: "Share", cell: ({ cost_usd: cost }) => shareBar(Number(cost), most) },
        { name: "Cost", cell: ({ cost_usd: cost }) => usd(cost), isNumber: true },
        { name: "Turns", cell: ({ turns }) => count.format(turns), isNumber: true },
        { name: "Tokens", cell: ({ usage }) => shortTokens(usage), isNumber: true },
      ],
      ({ group }) => group,
      "Nothing was used.",
    );
    const note = el("p", { class: "note" });
    const update = ({ data }) => {
      most = Math.max(0, ...data.map(({ cost_usd: cost }) => Number(cost)));
      table.update(data);
      note.textContent = data.length < MOST_GROUPS ? "The most expensive first." : `The ${MOST_GROUPS} most expensive.`;
    };
    return { table, note, update };
  }

  async #load() {
    const request = (this.#request += 1);
    const range = this.#range.value;
    if (range === null) return;
    this.#notice.clear();
    this.node.setAttribute("aria-busy", "true");
    try {
      const [days, users, models, refusals] = await Promise.all([
        this.#api.usageByDay(range),
        this.#api.usageBy("user", range, MOST_GROUPS),
        this.#api.usageBy("model", range, MOST_GROUPS),
        this.#api.refusals(range),
        this.#parts.ledger.load(),
      ]);
      if (request !== this.#request) return;
      this.#draw(range, days);
      this.#parts.users.update(users);
      this.#parts.models.update(models);
      this.#parts.refusals.update(refusals.data);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (request === this.#request) this.#notice.show(problem, { name: "Try again", run: () => this.#load() });
    } finally {
      if (request === this.#request) this.node.removeAttribute("aria-busy");
    }
  }

  #draw(range, { data, totals }) {
    const { figures, days } = this.#parts;
    const tile = (name, value, more) => el("div", {}, el("dt", {}, name), el("dd", {}, value, more ? el("small", {}, more) : null));
    figures.replaceChildren(
      tile("Spent", usd(totals.cost_usd)),
      tile("Turns", count.format(totals.turns), totals.attempts === totals.turns ? null : `${count.format(totals.attempts)} attempts`),
      tile("Tokens", tokens(totals.usage)),
    );
    const points = everyDay(range, data).map(({ day, row }) => ({
      key: day,
      label: dayName(day),
      title: `${day}: ${usd(row?.cost_usd ?? "0")}`,
      values: [Number(row?.cost_usd ?? 0)],
      row,
    }));
    const highest = points.reduce((one, other) => (other.values[0] > one.values[0] ? other : one));
    days.update(points, `${points.length} days, ${usd(totals.cost_usd)} in all; the most on ${highest.title}.`);
  }
}
