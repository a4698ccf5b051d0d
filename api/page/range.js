/** Which days are shown: chosen by the form, kept in the address, so that a reload and a link show the same. */

import { el } from "./dom.js";

const DAY_MS = 86_400_000;
const MOST_DAYS = 366;
const DAY = /^\d{4}-\d{2}-\d{2}$/;
const utcDay = (ms) => new Date(ms).toISOString().slice(0, 10);

/** The ranges that are offered by name, of a moment. */
function offered(now) {
  const today = utcDay(now);
  const last = (days) => ({ from: utcDay(now - (days - 1) * DAY_MS), to: today });
  return [
    ["Today", last(1)],
    ["7 days", last(7)],
    ["30 days", last(30)],
    ["This month", { from: `${today.slice(0, 8)}01`, to: today }],
    ["90 days", last(90)],
  ];
}

export class RangeForm {
  #from;
  #to;
  #error;
  #names;
  #onChange;

  /** @param {() => void} onChange called when another range was chosen */
  constructor(onChange) {
    this.#onChange = onChange;
    const given = new URLSearchParams(window.location.search);
    const [, month] = offered(Date.now())[2];
    const start = { from: given.get("from") ?? month.from, to: given.get("to") ?? month.to };
    const field = (id, label, value) => {
      const input = el("input", { id, type: "date", value: DAY.test(value) ? value : "", required: true, "aria-describedby": "range-error" });
      return { input, node: el("label", { for: id }, el("span", {}, label), input) };
    };
    const [from, to] = [field("range-from", "From", start.from), field("range-to", "To", start.to)];
    this.#from = from.input;
    this.#to = to.input;
    this.#error = el("p", { id: "range-error", class: "error", role: "alert" });
    this.#names = el("div", { class: "ranges", role: "group", "aria-label": "Days" });
    this.node = el(
      "form",
      { class: "range", on: { submit: (event) => this.#submitted(event), change: () => this.#changed() } },
      this.#names,
      from.node,
      to.node,
      this.#error,
    );
    this.#draw();
  }

  /** The days, both included, as UTC days; null when they are none. */
  get value() {
    const range = { from: this.#from.value, to: this.#to.value };
    if (!DAY.test(range.from) || !DAY.test(range.to)) return this.#refuse("Choose two days.");
    if (range.to < range.from) return this.#refuse("The first day must not be after the last.");
    if ((Date.parse(range.to) - Date.parse(range.from)) / DAY_MS >= MOST_DAYS) {
      return this.#refuse(`At most ${MOST_DAYS} days are added up.`);
    }
    this.#refuse("");
    return range;
  }

  #refuse(words) {
    this.#error.textContent = words;
    return null;
  }

  #submitted(event) {
    event.preventDefault();
    this.#changed();
  }

  #changed() {
    this.#draw();
    const range = this.value;
    if (range === null) return;
    window.history.replaceState(null, "", `?${new URLSearchParams(range)}`);
    this.#onChange();
  }

  #draw() {
    const isNow = ({ from, to }) => from === this.#from.value && to === this.#to.value;
    const focused = this.#names.contains(document.activeElement) ? document.activeElement.textContent : null;
    this.#names.replaceChildren(
      ...offered(Date.now()).map(([name, range]) => {
        const choose = () => {
          this.#from.value = range.from;
          this.#to.value = range.to;
          this.#changed();
        };
        return el("button", { type: "button", "aria-pressed": String(isNow(range)), on: { click: choose } }, name);
      }),
    );
    for (const node of this.#names.children) {
      if (node.textContent === focused) node.focus();
    }
  }
}
