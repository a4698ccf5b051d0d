/** The organization's budget: what of it is spent and held, and a form that changes it as a whole. */

import { Problem } from "./admin-api.js";
import { shareOf } from "./budget-share.js";
import { budgetBar } from "./chart.js";
import { confirm } from "./dialog.js";
import { announce, button, el } from "./dom.js";
import { moment, usd } from "./format.js";
import { explain } from "./words.js";

const MONEY = [
  ["daily_usd", "US dollars a day"],
  ["monthly_usd", "US dollars a month"],
];
const NUMBERS = [
  ["max_concurrent_turns", "Turns at once"],
  ["turns_per_minute_per_user", "Turns a minute, of each user"],
  ["turns_per_hour", "Turns an hour, of the organization"],
  ["max_turns_per_session", "Turns of a new session"],
];
const STOPPING =
  "All queued and running turns of the organization end; the texts so far are kept. New turns are accepted as before: switch AI off under Change limits to refuse those, too.";

/** Money without the zeros that say nothing. */
const shownValue = (value) => (value === null ? "" : typeof value === "string" ? usd(value).slice(1) : String(value));

/** What the fields say, as the API takes it: an empty one is no limit. */
function bodyOf(fields, enabled) {
  const body = { enabled: enabled.checked };
  for (const [name] of MONEY) body[name] = fields[name].value.trim() || null;
  for (const [name] of NUMBERS) body[name] = fields[name].value.trim() === "" ? null : Number(fields[name].value);
  return body;
}

export class BudgetCard {
  #api;
  #shown = el("div", { class: "budgets" });
  #limits = el("dl", { class: "limits" });
  #form = el("div", { hidden: true });
  #change;
  #stop;
  #stopped = el("p", { class: "note", role: "status", hidden: true });

  constructor(api, budget) {
    this.#api = api;
    this.#change = button("Change limits", null, () => this.#open(), { class: "outlined" });
    this.#stop = button("Stop everything", null, () => this.#stopAll(), { class: "outlined" });
    this.node = el(
      "section",
      { class: "card", "aria-labelledby": "budget-title" },
      el("header", {}, el("h2", { id: "budget-title" }, "Budget"), el("div", { class: "choices" }, this.#stop, this.#change)),
      this.#stopped,
      this.#shown,
      this.#limits,
      this.#form,
    );
    this.#draw(budget);
  }

  #draw(budget) {
    this.#shown.replaceChildren(
      ...(budget.enabled ? [] : [el("p", { class: "warning" }, "AI is switched off: new turns are refused, and those that wait fail.")]),
      this.#period("Today", budget.daily_usd, budget.day),
      this.#period("This month", budget.monthly_usd, budget.month),
    );
    this.#limits.replaceChildren(
      ...NUMBERS.map(([name, words]) => {
        const value = budget[name];
        const unset = name.startsWith("turns_per") ? "as the service is set" : "no limit";
        return el("div", {}, el("dt", {}, words), el("dd", {}, value === null ? unset : String(value)));
      }),
    );
  }

  #period(name, limit, period) {
    const { spent_usd: spent, held_usd: held, resets_at: resets } = period;
    const share = limit === null ? null : shareOf(limit, period);
    const of = limit === null ? "no limit" : `of ${usd(limit)}`;
    const words = share === null ? "" : share.used >= 100 ? "used up" : `${Math.floor(share.used)} % used`;
    return el(
      "div",
      { class: "period", "data-level": share?.level },
      el("h3", {}, name),
      el("p", {}, el("strong", {}, usd(spent)), ` spent, ${usd(held)} held, ${of}`, words && el("span", { class: "used" }, ` · ${words}`)),
      share && budgetBar(share),
      el("p", { class: "note" }, "Starts anew ", el("time", { datetime: resets }, moment(resets))),
    );
  }

  async #stopAll() {
    if (!(await confirm("Stop everything?", STOPPING, "Stop everything"))) return;
    this.#stop.disabled = true;
    try {
      const { queued, running } = await this.#api.stopOrganization();
      this.#stopped.textContent = `Stopped: ${queued} that waited, ${running} that ran.`;
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#stopped.textContent = explain(problem).title;
    }
    this.#stopped.hidden = false;
    this.#stop.disabled = false;
  }

  async #open() {
    this.#change.disabled = true;
    try {
      // All of it is replaced: what another administrator changed meanwhile must not be put back.
      const budget = await this.#api.budget();
      this.#draw(budget);
      this.#form.replaceChildren(this.#fields(budget));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#form.replaceChildren(el("p", { class: "error", role: "alert" }, explain(problem).title));
    }
    this.#form.hidden = false;
    this.#form.querySelector("input")?.focus();
    this.#change.disabled = false;
  }

  #close() {
    this.#form.hidden = true;
    this.#form.replaceChildren();
    this.#change.focus();
  }

  #fields(budget) {
    const fields = {};
    const errors = {};
    const enabled = el("input", { id: "budget-enabled", type: "checkbox", checked: budget.enabled });
    const input = ([name, words], kind) => {
      const id = `budget-${name}`;
      fields[name] = el("input", { id, type: "text", inputmode: kind, value: shownValue(budget[name]), autocomplete: "off", "aria-describedby": `${id}-error` });
      errors[name] = el("span", { id: `${id}-error`, class: "error" });
      return el("label", { for: id }, el("span", {}, words), fields[name], errors[name]);
    };
    const failed = el("p", { class: "error", role: "alert" });
    const submit = el("button", { type: "submit", class: "primary" }, "Save");

    const save = async (event) => {
      event.preventDefault();
      submit.disabled = true;
      failed.textContent = "";
      for (const [name, node] of Object.entries(errors)) {
        node.textContent = "";
        fields[name].removeAttribute("aria-invalid");
      }
      try {
        const body = bodyOf(fields, enabled);
        const wrong = NUMBERS.find(([name]) => body[name] !== null && !Number.isInteger(body[name]));
        if (wrong !== undefined) {
          refuse(wrong[0], "must be a whole number, or empty for no limit");
          return;
        }
        this.#draw(await this.#api.changeBudget(body));
        announce("The limits were changed.");
        this.#close();
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        for (const { pointer, detail } of problem.errors) refuse(pointer.slice(1), detail);
        if (!problem.errors.some(({ pointer }) => pointer.slice(1) in errors)) {
          const { title, detail } = explain(problem);
          failed.textContent = `${title} ${detail}`;
        }
      } finally {
        submit.disabled = false;
      }
    };

    function refuse(name, detail) {
      if (!(name in errors)) return;
      errors[name].textContent = detail;
      fields[name].setAttribute("aria-invalid", "true");
      fields[name].focus();
    }

    return el(
      "form",
      { class: "budget-form", "aria-label": "Limits", on: { submit: save, keydown: (event) => event.key === "Escape" && this.#close() } },
      el("p", { class: "note wide" }, "An empty field is no limit; 0 allows nothing."),
      el("label", { class: "check wide", for: "budget-enabled" }, enabled, "AI is switched on"),
      MONEY.map((field) => input(field, "decimal")),
      NUMBERS.map((field) => input(field, "numeric")),
      failed,
      el("div", { class: "choices wide" }, button("Cancel", null, () => this.#close()), submit),
    );
  }
}
