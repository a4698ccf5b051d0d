/** Operations: how turns stand now, where time goes, who runs what, what failed and what was flagged; kept up to date. */

import { Problem } from "./admin-api.js";
import { LineChart } from "./chart.js";
import { announce, button, el, setText } from "./dom.js";
import { ago, moment, usd } from "./format.js";
import { Notice } from "./notice.js";
import { Poll } from "./poll.js";
import { seconds } from "./spans.js";
import { Table } from "./table.js";

const NOW_MS = 3_000;
const DELAYS_MS = 30_000; // a stretch has five minutes
const FAILURES = 10;
const TURNS = 25;
const MOST_TURNS = 100; // the API's largest page: beyond it filters help more than more rows
const FLAGGED = 50;
const count = new Intl.NumberFormat("en");
const STATUSES = ["queued", "running", "stopping", "completed", "stopped", "failed", "expired"];
const DELAYS = [
  ["first_token", "Time to first text", "From acceptance. Includes waiting for the session's earlier turns."],
  ["worker_wait", "Wait for a worker", "From when a turn could be claimed to its claim."],
  ["model_wait", "From claim to first text", "The provider's time, retries and ours together."],
];

const time = (at) => el("time", { datetime: at, title: moment(at) }, ago(at));
const turnLink = (id) => el("a", { href: `/operations/turns/${id}`, title: id }, `…${id.slice(-6)}`);
const shortId = (id) => el("span", { class: "id", title: id }, `…${id.slice(-6)}`);
const nameOf = (user) => el("bdi", {}, user);
const clock = (at) => new Date(at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

/** Where a turn stands, with a mark of its own shape for each kind of status. */
export const standing = (status) => el("span", { class: "standing", "data-status": status }, status);

const TURN_COLUMNS = [
  { name: "Turn", cell: ({ id }) => turnLink(id), isHead: true },
  { name: "Status", cell: ({ status }) => standing(status) },
  { name: "Accepted", cell: ({ queued_at: at }) => time(at) },
  { name: "User", cell: ({ user }) => nameOf(user), isWords: true },
  { name: "Code", cell: ({ error, stop_reason: reason }) => error?.code ?? reason ?? "" },
  { name: "Attempt", cell: ({ attempt }) => (attempt === 0 ? "–" : String(attempt)), isNumber: true },
  { name: "First text", cell: (turn) => (turn.first_token_at === null ? "–" : seconds(turn.queued_at, turn.first_token_at)), isNumber: true },
  { name: "Took", cell: (turn) => (turn.finished_at === null ? "–" : seconds(turn.queued_at, turn.finished_at)), isNumber: true },
  { name: "Cost", cell: ({ cost_usd: cost }) => usd(cost), isNumber: true },
];

export class OperationsView {
  title = "Operations";
  #api;
  #now;
  #delays;
  #notice = new Notice();
  #charts;
  #tables;
  #tiles = new Map();
  #parts;
  #isClosed = false;

  constructor(api) {
    this.#api = api;
    this.#charts = DELAYS.map(([name, title, note]) => [name, this.#chart(title, note)]);
    this.#tables = {
      failures: new Table("Last failures", [...TURN_COLUMNS.slice(0, 5), { name: "Why", cell: ({ error }) => error?.title ?? "No worker took it in time", isWords: true }], ({ id }) => id, "Nothing failed."),
      codes: new Table(
        "Failures of the last 24 hours by code",
        [
          { name: "Code", cell: ({ code }) => this.#codeButton(code), isHead: true },
          { name: "Turns", cell: ({ turns }) => count.format(turns), isNumber: true },
          { name: "Last", cell: ({ last_turn_id: id }) => turnLink(id) },
        ],
        ({ code }) => code,
        "None in the last 24 hours.",
      ),
      workers: new Table(
        "Workers",
        [
          { name: "Worker", cell: ({ id }) => shortId(id), isHead: true },
          { name: "State", cell: ({ state }) => el("span", { class: "standing", "data-state": state }, state) },
          { name: "Started", cell: ({ started_at: at }) => (at === null ? "–" : time(at)) },
          { name: "Heard", cell: ({ heard_at: at }) => (at === null ? "–" : time(at)) },
          { name: "Runs", cell: ({ running }) => count.format(running), isNumber: true },
          { name: "Your turns", cell: (worker) => this.#leases(worker), isWords: true },
        ],
        ({ id }) => id,
        "No worker lives: turns wait until one does.",
      ),
      turns: new Table("Turns", TURN_COLUMNS, ({ id }) => id, "No such turns."),
      flagged: new Table(
        "Flagged sessions",
        [
          { name: "Session", cell: ({ id, title }) => el("a", { href: `/#/sessions/${id}`, dir: "auto" }, title || "Untitled"), isHead: true, isWords: true },
          { name: "User", cell: ({ user }) => nameOf(user), isWords: true },
          { name: "Reason", cell: ({ flag_reason: reason }) => el("bdi", {}, reason ?? ""), isWords: true },
          { name: "Flagged", cell: ({ flagged_at: at }) => time(at) },
          { name: "By", cell: ({ flagged_by: by }) => el("bdi", {}, by ?? ""), isWords: true },
          { name: "Action", cell: ({ id, title }) => button("Unflag", null, () => this.#unflag(id), { class: "link", "aria-label": `Unflag ${title || "Untitled"}` }) },
        ],
        ({ id }) => id,
        "No session is flagged.",
      ),
    };
    this.#parts = {
      tiles: el("dl", { class: "tiles" }),
      state: el("p", { class: "note state-of-poll" }),
      pause: button("Pause", null, () => this.#toggle(), { class: "outlined", "aria-pressed": "false" }),
      status: el("select", { id: "turn-status", on: { change: () => this.#filtered() } }, el("option", { value: "" }, "any"), STATUSES.map((status) => el("option", {}, status))),
      code: el("input", { id: "turn-code", type: "text", maxlength: "50", autocomplete: "off", spellcheck: "false", on: { change: () => this.#filtered() } }),
      more: button("Show more", null, () => this.#more(), { class: "outlined", hidden: true }),
      count: TURNS,
    };
    this.#now = new Poll(() => this.#readNow(), NOW_MS, (state) => this.#told(state));
    this.#delays = new Poll(() => this.#readDelays(), DELAYS_MS);
    this.node = this.#layout();
  }

  open() {
    this.#now.start();
    this.#delays.start();
  }

  close() {
    this.#isClosed = true;
    this.#now.close();
    this.#delays.close();
    for (const [, chart] of this.#charts) chart.close();
  }

  #layout() {
    const { tiles, state, pause, status, code, more } = this.#parts;
    const section = (title, note, ...children) =>
      el("section", { class: "card" }, el("h2", {}, title), note ? el("p", { class: "note" }, note) : null, ...children);
    return el(
      "div",
      { class: "stack" },
      el("div", { class: "toolbar" }, state, pause),
      this.#notice.node,
      tiles,
      el("div", { class: "columns three" }, this.#charts.map(([, chart]) => el("section", { class: "card" }, chart.node))),
      section("Workers", "Processes that run turns. Only your organization's turns are shown and counted.", this.#tables.workers.node),
      el(
        "div",
        { class: "columns wide-first" },
        section("Last failures", null, this.#tables.failures.node),
        section("Failures by code", "Of turns accepted in the last 24 hours.", this.#tables.codes.node),
      ),
      section(
        "Turns",
        null,
        el(
          "form",
          { class: "filters", on: { submit: (event) => event.preventDefault() } },
          el("div", { class: "field" }, el("label", { for: "turn-status" }, el("span", {}, "Status")), status),
          el("label", { for: "turn-code" }, el("span", {}, "Code of a failure"), code),
        ),
        this.#tables.turns.node,
        more,
      ),
      section("Flagged sessions", null, this.#tables.flagged.node),
    );
  }

  #chart(title, note) {
    const figure = (value) => (value === null ? "–" : `${value.toFixed(3)} s`);
    return new LineChart({
      title,
      note,
      axis: (value) => `${Number(value.toPrecision(2))} s`,
      columns: [
        { name: "From", cell: ({ label }) => label, isHead: true },
        { name: "Turns", cell: ({ turns }) => count.format(turns), isNumber: true },
        { name: "p50", cell: ({ values: [half] }) => figure(half), isNumber: true },
        { name: "p95", cell: ({ values: [, most] }) => figure(most), isNumber: true },
      ],
    });
  }

  async #readNow() {
    const [summary, workers, failed, expired, turns, flagged] = await Promise.all([
      this.#api.summary(),
      this.#api.workers(),
      this.#api.turns({ status: "failed" }, FAILURES),
      this.#api.turns({ status: "expired" }, FAILURES),
      this.#turns(),
      this.#api.flagged(FLAGGED),
    ]);
    if (this.#isClosed) return;
    this.#drawTiles(summary, workers.data);
    this.#tables.workers.update(workers.data);
    const failures = [...failed.data, ...expired.data].sort((one, other) => (one.id < other.id ? 1 : -1));
    this.#tables.failures.update(failures.slice(0, FAILURES));
    this.#tables.codes.update(summary.failures);
    this.#drawTurns(turns);
    this.#tables.flagged.update(flagged.data);
    setText(this.#parts.state, `As of ${new Date(summary.at).toLocaleTimeString("en-GB")}`);
  }

  async #readDelays() {
    const delays = await this.#api.delays();
    if (this.#isClosed) return;
    for (const [name, chart] of this.#charts) {
      const points = delays.data.map((stretch) => {
        const values = [stretch[name]?.p50_seconds ?? null, stretch[name]?.p95_seconds ?? null];
        const label = clock(stretch.begins_at);
        const words = values[0] === null ? "none" : `p50 ${values[0].toFixed(3)} s, p95 ${values[1].toFixed(3)} s`;
        return { key: stretch.begins_at, label, turns: stretch.turns, values, title: `${label}: ${words}` };
      });
      const worst = Math.max(0, ...points.map(({ values }) => values[1] ?? 0));
      chart.update(points, `The last hour, ${count.format(delays.turns)} turns; at p95 at most ${worst.toFixed(3)} s.`);
    }
  }

  #drawTiles({ queued, claimable, running, stopping, oldest_turn_id: oldest, oldest_wait_seconds: wait }, workers) {
    const hearing = workers.filter(({ state }) => state === "hearing").length;
    const behind = queued - claimable;
    const tiles = [
      ["Queued", count.format(queued), behind === 0 ? "" : `${count.format(behind)} behind their session's turn`, ""],
      ["Running", count.format(running), "", ""],
      ["Stopping", count.format(stopping), "", ""],
      ["Longest wait", wait === null ? "–" : `${wait.toFixed(1)} s`, oldest === null ? "" : turnLink(oldest), wait > 10 ? "warn" : ""],
      ["Workers hearing", `${hearing} of ${workers.length}`, "", hearing === 0 ? "bad" : ""],
    ];
    for (const [name, value, more, tone] of tiles) {
      let tile = this.#tiles.get(name);
      if (tile === undefined) {
        tile = { figure: el("span"), more: el("small") };
        tile.node = el("div", {}, el("dt", {}, name), el("dd", {}, tile.figure, tile.more));
        this.#tiles.set(name, tile);
        this.#parts.tiles.append(tile.node);
      }
      setText(tile.figure, value);
      const shown = typeof more === "string" ? document.createTextNode(more) : more;
      if (!shown.isEqualNode(tile.more.firstChild)) tile.more.replaceChildren(shown);
      tile.node.dataset.tone = tone;
    }
  }

  #turns() {
    const { status, code, count: limit } = this.#parts;
    return this.#api.turns({ status: status.value, code: code.value.trim() }, limit);
  }

  #drawTurns({ data, next_cursor: next }) {
    this.#tables.turns.update(data);
    this.#parts.more.hidden = next === null || this.#parts.count >= MOST_TURNS;
  }

  #filtered() {
    this.#parts.count = TURNS;
    return this.#readTurns();
  }

  #more() {
    this.#parts.count = MOST_TURNS;
    return this.#readTurns();
  }

  async #readTurns() {
    const asked = [this.#parts.status.value, this.#parts.code.value, this.#parts.count].join();
    this.#notice.clear();
    try {
      const turns = await this.#turns();
      if (asked === [this.#parts.status.value, this.#parts.code.value, this.#parts.count].join()) this.#drawTurns(turns);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#notice.show(problem);
    }
  }

  #codeButton(code) {
    if (code === "expired") return code;
    const show = () => {
      this.#parts.status.value = "failed";
      this.#parts.code.value = code;
      this.#filtered();
      this.#parts.status.focus();
    };
    return button(code, null, show, { class: "link", title: "Show these turns" });
  }

  #leases({ running, turns }) {
    const links = turns.flatMap(({ id, status }) => [turnLink(id), status === "stopping" ? " (stopping) " : " "]);
    const rest = running - turns.length;
    return el("span", { class: "leases" }, ...links, rest > 0 ? `and ${count.format(rest)} more` : null);
  }

  async #unflag(id) {
    this.#notice.clear();
    try {
      await this.#api.unflag(id);
      announce("The session is no longer flagged.");
      this.#tables.flagged.frame.focus();
      this.#tables.flagged.update((await this.#api.flagged(FLAGGED)).data);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#notice.show(problem);
    }
  }

  #toggle() {
    const { pause } = this.#parts;
    const pauses = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(pauses));
    for (const poll of [this.#now, this.#delays]) {
      if (pauses) poll.pause();
      else poll.resume();
    }
  }

  #told({ name, problem }) {
    const { state } = this.#parts;
    state.dataset.state = name;
    if (name === "failing" && this.#notice.node.hidden) this.#notice.show(problem);
    if (name === "live" && this.#notice.node.dataset.code === "network") this.#notice.clear();
  }
}
