/** A table that is changed where its rows changed and nowhere else: nothing flickers, and the focus stays. */

import { el } from "./dom.js";

const kindOf = ({ isNumber, isWords }) => (isNumber ? "number" : isWords ? "words" : null);

export class Table {
  #columns;
  #keyOf;
  #body;
  #empty;
  #rows = new Map(); // the row's node and what it shows, by key

  /**
   * @param {string} name what it is a table of
   * @param {{name: string, cell: (row: object) => Node|string|null, isNumber?: boolean, isHead?: boolean,
   *   isWords?: boolean}[]} columns `isWords` may take several lines, all others take one
   * @param {(row: object) => string} keyOf what a row is recognised by
   * @param {string} [nothing] what stands there without rows
   */
  constructor(name, columns, keyOf, nothing = "Nothing.") {
    this.#columns = columns;
    this.#keyOf = keyOf;
    this.#body = el("tbody");
    this.#empty = el("p", { class: "note empty" }, nothing);
    const heads = columns.map((column) => el("th", { scope: "col", class: kindOf(column) }, column.name));
    this.table = el("table", {}, el("caption", { class: "unseen" }, name), el("thead", {}, el("tr", {}, heads)), this.#body);
    // What is wider than a phone scrolls by itself, and can be reached by keyboard.
    this.frame = el("div", { class: "table-frame", role: "region", "aria-label": name, tabindex: "0" }, this.table);
    this.node = el("div", {}, this.frame, this.#empty);
    this.update([]);
  }

  /** Show these rows, in this order. */
  update(rows) {
    const wanted = new Set(rows.map(this.#keyOf));
    for (const [key, node] of this.#rows) {
      if (!wanted.has(key)) node.remove(); // first: what stays need not be moved, for that takes the focus
    }
    const shown = new Map();
    rows.forEach((row, number) => {
      const key = this.#keyOf(row);
      const node = this.#rows.get(key) ?? el("tr", {}, this.#columns.map(() => el("td")));
      this.#draw(node, row);
      shown.set(key, node);
      const there = this.#body.children[number] ?? null;
      if (there !== node) this.#body.insertBefore(node, there);
    });
    this.#rows = shown;
    this.frame.hidden = rows.length === 0;
    this.#empty.hidden = rows.length > 0;
  }

  #draw(node, row) {
    this.#columns.forEach((column, number) => {
      const props = { class: kindOf(column), scope: column.isHead ? "row" : null };
      const cell = el(column.isHead ? "th" : "td", props, column.cell(row));
      if (!cell.isEqualNode(node.children[number])) node.children[number].replaceWith(cell);
    });
  }
}
