/**
 * Charts as inline SVG, each with its figures in a table behind it. Nothing is told by colour alone: columns have one,
 * lines differ by dash and mark and are named where they end.
 */

import { el } from "./dom.js";
import { Table } from "./table.js";

const HEIGHT = 190;
const TOP = 12;
const BOTTOM = 26;
const LABEL_PX = 7; // about a character at the labels' size
const MARK = 3;
const NEVER_NARROWER = 220;

let bars = 0;

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) node.setAttribute(name, String(value));
  }
  node.append(...children);
  return node;
}

/** Round steps from 0 to at least `most`: three to five of them. */
export function steps(most) {
  if (!(most > 0)) return [0, 1];
  const magnitude = 10 ** Math.floor(Math.log10(most / 3));
  const step = [1, 2, 5, 10].map((factor) => factor * magnitude).find((size) => most / size <= 4.001);
  const count = Math.max(1, Math.ceil(most / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, number) => number * step);
}

class Chart {
  #figure;
  #plot;
  #table;
  #options;
  #observer;
  #points = [];
  #width = 0;

  /**
   * @param {{title: string, note?: string, columns: object[], axis: (value: number) => string}} options `columns`
   *   are those of the table, `axis` writes a value of the vertical axis
   */
  constructor(options) {
    this.#options = options;
    this.#plot = svg("svg", { class: "plot", role: "img", height: HEIGHT });
    this.#table = new Table(options.title, options.columns, (point) => point.key);
    this.#figure = el(
      "figure",
      { class: "chart" },
      el("figcaption", {}, el("strong", {}, options.title), options.note ? el("span", { class: "note" }, options.note) : null),
      el("div", { class: "plot-frame" }, this.#plot),
      el("details", {}, el("summary", {}, "Figures as a table"), this.#table.node),
    );
    this.#observer = new ResizeObserver(() => this.#draw());
    this.#observer.observe(this.#plot.parentNode);
  }

  get node() {
    return this.#figure;
  }

  /** Show points, oldest first: `{key, label, title, values, row…}`; a value of null is a hole. */
  update(points, summary) {
    this.#points = points;
    this.#plot.setAttribute("aria-label", `${this.#options.title}. ${summary} The table below has the figures.`);
    this.#table.update(points);
    this.#width = 0;
    this.#draw();
  }

  close() {
    this.#observer.disconnect();
  }

  #draw() {
    const width = Math.max(NEVER_NARROWER, Math.floor(this.#plot.parentNode.clientWidth));
    if (width === this.#width || this.#points.length === 0) return;
    this.#width = width;
    const most = Math.max(0, ...this.#points.flatMap(({ values }) => values.map((value) => value ?? 0)));
    const marks = steps(most);
    const names = marks.map(this.#options.axis);
    const left = Math.max(...names.map((name) => name.length)) * LABEL_PX + 10;
    const right = this.right;
    const top = marks.at(-1);
    const frame = {
      width,
      left,
      right,
      bottom: HEIGHT - BOTTOM,
      slot: (width - left - right) / this.#points.length,
      y: (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM),
      x: (number) => left + (number + 0.5) * ((width - left - right) / this.#points.length),
    };
    this.#plot.setAttribute("width", width);
    this.#plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#plot.replaceChildren(
      ...marks.flatMap((value, number) => [
        svg("line", { class: number === 0 ? "base" : "grid", x1: left, x2: width - right, y1: frame.y(value), y2: frame.y(value) }),
        svg("text", { class: "axis", x: left - 6, y: frame.y(value) + 4, "text-anchor": "end" }, names[number]),
      ]),
      ...this.#labels(frame),
      ...this.shapes(this.#points, frame),
      ...(most === 0 ? [svg("text", { class: "axis", x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "Nothing in this time")] : []),
    );
  }

  /** Names below the horizontal axis: as many as there is room for, the last one always. */
  #labels({ x, slot }) {
    const longest = Math.max(...this.#points.map(({ label }) => label.length)) * LABEL_PX + 14;
    const every = Math.max(1, Math.ceil(longest / slot));
    const last = this.#points.length - 1;
    return this.#points.flatMap(({ label }, number) =>
      (last - number) % every === 0 && x(number) - longest / 2 >= 0
        ? [svg("text", { class: "axis", x: Math.min(x(number), this.#width - longest / 2 + 7), y: HEIGHT - 8, "text-anchor": "middle" }, label)]
        : [],
    );
  }
}

/** A column for each point. */
export class ColumnChart extends Chart {
  get right() {
    return 4;
  }

  shapes(points, { x, y, slot, bottom }) {
    const width = Math.max(1, Math.min(36, slot * 0.72));
    return points.flatMap(({ values: [value], title }, number) => {
      if (!(value > 0)) return [];
      const height = Math.max(1, bottom - y(value)); // what is not nothing is seen
      const column = svg("rect", { class: "column", x: x(number) - width / 2, y: bottom - height, width, height, rx: Math.min(3, width / 3) });
      column.append(svg("title", {}, title));
      return [column];
    });
  }
}

/** A line for each of two values of a point: the first is drawn through, the second dashed. */
export class LineChart extends Chart {
  get right() {
    return 34;
  }

  shapes(points, frame) {
    const last = [0, 1].map((line) => points.findLastIndex(({ values }) => values[line] !== null));
    // Two names at one height would lie on each other.
    const ends = last.map((number, line) => (number < 0 ? null : frame.y(points[number].values[line])));
    if (ends[0] !== null && ends[1] !== null && ends[0] - ends[1] < 13) {
      const middle = (ends[0] + ends[1]) / 2;
      ends[0] = middle + 6.5;
      ends[1] = middle - 6.5;
    }
    return ["p50", "p95"].flatMap((name, line) => [
      svg("path", { class: `line ${name}`, d: this.#path(points, line, frame) }),
      ...points.flatMap((point, number) => (point.values[line] === null ? [] : [this.#mark(point, number, line, frame)])),
      ...(ends[line] === null
        ? []
        : [svg("text", { class: "axis name", x: frame.x(last[line]) + 7, y: ends[line] + 4 }, name)]),
    ]);
  }

  #path(points, line, { x, y }) {
    let isDrawing = false;
    return points
      .map(({ values }, number) => {
        const value = values[line];
        const command = isDrawing ? "L" : "M";
        isDrawing = value !== null;
        return value === null ? "" : `${command}${x(number).toFixed(1)} ${y(value).toFixed(1)}`;
      })
      .join(" ");
  }

  #mark({ values, title }, number, line, { x, y }) {
    const at = { x: x(number), y: y(values[line]) };
    const mark =
      line === 0
        ? svg("circle", { class: "mark p50", cx: at.x, cy: at.y, r: MARK })
        : svg("rect", { class: "mark p95", x: at.x - MARK, y: at.y - MARK, width: 2 * MARK, height: 2 * MARK });
    mark.append(svg("title", {}, title));
    return mark;
  }
}

/** A bar of a table's row: what share of `most` a value has. The row has it in figures. */
export function shareBar(value, most) {
  const share = most > 0 ? Math.max(0, Math.min(100, (value / most) * 100)) : 0;
  return svg(
    "svg",
    { class: "share", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "column", x: 0, y: 0, width: share, height: 10 }),
  );
}

/** A bar of what was spent, plain, and held, hatched, in per cent of a limit. What it says is written beside it. */
export function budgetBar({ spent, used }) {
  const id = `hatch-${(bars += 1)}`; // a pattern takes its colour from where it stands
  const hatch = svg(
    "pattern",
    { id, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { class: "hatched", width: 3, height: 6 }),
  );
  return svg(
    "svg",
    { class: "budget-bar", "aria-hidden": "true", width: "100%", height: 14 },
    svg("defs", {}, hatch),
    svg("rect", { class: "hatch", x: 0, y: 0, width: `${used}%`, height: 14, fill: `url(#${id})` }),
    svg("rect", { class: "column", x: 0, y: 0, width: `${spent}%`, height: 14 }),
  );
}
