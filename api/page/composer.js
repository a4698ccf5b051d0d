/** Where a message is written. What is typed survives a failed send and a reload. */

import { button, el, icon } from "./dom.js";
import { plural } from "./format.js";
import { drafts } from "./storage.js";

const LONGEST = 32_000; // the API's limit, in characters after trimming
const COUNT_FROM = 30_000;

const characters = (text) => Array.from(text).length; // as the API counts: an emoji is one

export class Composer {
  #owner;
  #place;
  #isSending = false;
  #canSend = true;
  #isAnswering = false;
  #parts;

  /**
   * @param {string} place the session's id, or "new": whose draft this is
   * @param {{onSend: (content: string) => boolean|Promise<boolean>, onStop: () => void}} owner `onSend`
   *   says whether it took the message; until then it stays here
   */
  constructor(place, owner) {
    this.#owner = owner;
    this.#place = place;
    const input = el("textarea", {
      rows: "1",
      placeholder: "Write a message",
      "aria-label": "Message",
      "aria-describedby": "composer-hint",
      enterkeyhint: "send",
      on: { input: () => this.#typed(), keydown: (event) => this.#pressed(event) },
    });
    input.value = drafts.load(place);
    const send = el("button", { type: "submit", class: "send", "aria-label": "Send", title: "Send" }, icon("send"));
    const stop = button("Stop", "stop", () => owner.onStop(), { class: "stop", hidden: true });
    const hint = el("p", { class: "hint", id: "composer-hint" });
    this.#parts = { input, send, stop, hint };
    this.node = el(
      "form",
      { class: "composer", on: { submit: (event) => this.#submitted(event) } },
      el("div", { class: "field" }, input, stop, send),
      hint,
    );
    this.#draw();
  }

  /** Take the focus. */
  resume() {
    this.#draw(); // its height is known only now that it is on screen
    this.#parts.input.focus();
  }

  /** Put text here, unless something is being written already; says whether it was taken. */
  offer(content) {
    const isFree = this.#parts.input.value.trim() === "";
    if (isFree) {
      this.#parts.input.value = content;
      this.#typed();
    }
    this.#parts.input.focus();
    return isFree;
  }

  /** An answer is being written (`standing`: "running" or "stopping"), or null; `closed` says why nothing can be sent. */
  update({ standing, closed }) {
    const { input, stop } = this.#parts;
    this.#canSend = closed === null;
    this.#isAnswering = standing !== null;
    stop.hidden = standing === null;
    stop.disabled = standing === "stopping";
    stop.lastChild.textContent = standing === "stopping" ? "Stopping…" : "Stop";
    input.disabled = closed !== null;
    input.placeholder = closed ?? "Write a message";
    this.#draw();
  }

  /** Send what is written. */
  async submit() {
    const content = this.#parts.input.value;
    if (!this.#canSend || this.#isSending || !this.#fits(content)) return;
    this.#isSending = true;
    this.#draw();
    const isTaken = await this.#owner.onSend(content);
    this.#isSending = false;
    if (isTaken) this.#parts.input.value = ""; // read-only meanwhile: it is what was sent
    drafts.save(this.#place, this.#parts.input.value);
    this.#draw();
  }

  #fits(content) {
    const length = characters(content.trim());
    return length > 0 && length <= LONGEST;
  }

  #typed() {
    drafts.save(this.#place, this.#parts.input.value);
    this.#draw();
  }

  #pressed(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.submit();
    }
  }

  #submitted(event) {
    event.preventDefault();
    this.submit();
  }

  #draw() {
    const { input, send, hint } = this.#parts;
    const content = input.value;
    send.disabled = this.#isSending || !this.#canSend || !this.#fits(content);
    input.readOnly = this.#isSending;
    this.node.setAttribute("aria-busy", String(this.#isSending));
    input.style.height = "auto"; // so that scrollHeight can also shrink
    input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
    const [tone, words] = this.#hint(content);
    hint.textContent = words;
    hint.dataset.tone = tone;
  }

  #hint(content) {
    if (this.#isSending) return ["plain", "Sending…"];
    if (content.length > COUNT_FROM) {
      const left = LONGEST - characters(content.trim());
      return left >= 0 ? ["plain", `${plural(left, "character")} left`] : ["bad", `${plural(-left, "character")} too many`];
    }
    if (this.#isAnswering) return ["keys", "Enter queues the message, Esc stops the answer"];
    return ["keys", "Enter sends, Shift+Enter starts a new line"];
  }
}
