/** The ledger: what each attempt cost, by filters, page by page, or all of it as a file. */

import { Problem } from "./admin-api.js";
import { announce, button, el } from "./dom.js";
import { figuresOf } from "./figures.js";
import { moment, tokenDetails, tokens, usd } from "./format.js";
import { Notice } from "./notice.js";
import { Table } from "./table.js";

const TYPING_MS = 400; // a search begins when typing pauses
const SOURCES = [
  ["", "any"],
  ["provider", "the provider's"],
  ["partial", "running figures"],
  ["estimated", "estimated"],
  ["disputed", "disputed"],
];

export class LedgerCard {
  #api;
  #days;
  #notice = new Notice();
  #rows = [];
  #cursor = null;
  #typing = null;
  #request = 0; // only the newest answer is shown
  #parts;

  /** @param {object} api @param {() => {from: string, to: string}|null} days which days are shown */
  constructor(api, days) {
    this.#api = api;
    this.#days = days;
    const text = (id, label) => {
      const input = el("input", { id, type: "text", maxlength: "200", autocomplete: "off", spellcheck: "false", on: { input: () => this.#typed() } });
      return { input, node: el("label", { for: id }, el("span", {}, label), input) };
    };
    const [user, model] = [text("ledger-user", "User"), text("ledger-model", "Model")];
    const source = el("select", { id: "ledger-source", on: { change: () => this.load() } }, SOURCES.map(([value, name]) => el("option", { value }, name)));
    const table = new Table(
      "Ledger",
      [
        { name: "Time", cell: ({ created_at: at }) => el("time", { datetime: at }, moment(at)), isHead: true },
        { name: "User", cell: ({ user: name }) => el("bdi", {}, name), isWords: true },
        { name: "Model", cell: ({ model: name }) => el("bdi", {}, name), isWords: true },
        { name: "Attempt", cell: ({ attempt }) => String(attempt), isNumber: true },
        { name: "Tokens", cell: ({ usage }) => el("span", { title: tokenDetails(usage) }, tokens(usage)), isNumber: true },
        { name: "Figures", cell: figuresOf },
        { name: "Cost", cell: ({ cost_usd: cost }) => usd(cost), isNumber: true },
        { name: "Turn", cell: ({ turn_id: id }) => el("a", { href: `/operations/turns/${id}`, title: id }, `…${id.slice(-6)}`) },
      ],
      ({ id }) => id,
      "No rows.",
    );
    const more = button("Load more", null, () => this.#more(), { class: "outlined", hidden: true });
    const download = button("Download CSV", "down", () => this.#download(), { class: "outlined" });
    this.#parts = { user: user.input, model: model.input, source, table, more, download };
    this.node = el(
      "section",
      { class: "card" },
      el("header", {}, el("h2", {}, "Ledger"), download),
      el("p", { class: "note" }, "One row for each attempt that reached a provider, of the days above."),
      el(
        "form",
        { class: "filters", on: { submit: (event) => event.preventDefault() } },
        user.node,
        model.node,
        el("div", { class: "field" }, el("label", { for: "ledger-source" }, el("span", {}, "Figures")), source),
      ),
      this.#notice.node,
      table.node,
      more,
    );
  }

  /** Read the first page. */
  async load() {
    clearTimeout(this.#typing);
    await this.#read(null);
  }

  #filters() {
    const { user, model, source } = this.#parts;
    return { ...this.#days(), user: user.value, model: model.value, usage_source: source.value };
  }

  #typed() {
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.load(), TYPING_MS);
  }

  #more() {
    return this.#read(this.#cursor);
  }

  async #read(cursor) {
    const request = (this.#request += 1);
    if (this.#days() === null) return;
    this.#notice.clear();
    try {
      const page = await this.#api.ledger(this.#filters(), cursor);
      if (request !== this.#request) return;
      this.#rows = cursor === null ? page.data : [...this.#rows, ...page.data];
      this.#cursor = page.next_cursor;
      this.#parts.table.update(this.#rows);
      this.#parts.more.hidden = this.#cursor === null;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      if (request === this.#request) this.#notice.show(problem, { name: "Try again", run: () => this.#read(cursor) });
    }
  }

  async #download() {
    const { download } = this.#parts;
    const days = this.#days();
    if (days === null) return;
    download.disabled = true;
    announce("The table is being made.");
    try {
      const address = URL.createObjectURL(await this.#api.ledgerTable(this.#filters()));
      el("a", { href: address, download: `ledger-${days.from}-${days.to}.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser has begun to save it long before
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#notice.show(problem, { name: "Try again", run: () => this.#download() });
    } finally {
      download.disabled = false;
    }
  }
}
