/**
 * Messages between the composer and the conversation: on their way, or not sent. Each keeps its key until it is accepted,
 * so trying again, a reload and a second tab make one turn of it.
 */

import { Problem } from "./api.js";
import { announce, button, el } from "./dom.js";
import { outbox } from "./storage.js";
import { explain } from "./words.js";

const MOST = 20; // of one session

export class Outbox {
  #place;
  #owner;
  #messages;
  #words = new Map(); // key -> why it was not sent
  #tail = Promise.resolve(); // messages go out one after another, in the order in which they were written

  /**
   * @param {string} place the session's id
   * @param {{post: (message: {content: string, key: string, replaces: string|null}) => Promise<void>, onRefused: (content: string, problem: Problem) => boolean,
   *   onEdit: (content: string) => boolean}} owner `onRefused` and `onEdit` say whether they took the text
   */
  constructor(place, owner) {
    this.#place = place;
    this.#owner = owner;
    this.#messages = outbox.load(place);
    this.node = el("div", { class: "outbox" });
    this.#draw();
  }

  /** Send what was on its way when the page was left. */
  resume() {
    for (const message of this.#messages.filter(({ isFailed }) => !isFailed)) this.#enqueue(message);
  }

  /** Take a message, which may replace a turn that is under way; false when too many wait already. */
  send(content, replaces = null) {
    if (this.#messages.length >= MOST) return false;
    const message = outbox.add(this.#place, content, replaces);
    this.#messages.push(message);
    this.#draw();
    this.#enqueue(message);
    return true;
  }

  #enqueue(message) {
    // A fault of this page is the browser's to report; what was written behind it goes out all the same.
    this.#tail = this.#tail.then(() => this.#post(message)).catch(reportError);
  }

  async #post(message) {
    try {
      await this.#owner.post(message);
      this.#remove(message);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      // Refused for certain: it goes back to where it can be changed. Else only the same key can tell.
      if (!problem.isUncertain && problem.status !== 401 && this.#owner.onRefused(message.content, problem)) this.#remove(message);
      else this.#fail(message, problem);
    }
  }

  #fail(message, problem) {
    const { title, detail } = explain(problem);
    this.#words.set(message.key, `${title} ${detail}`);
    message.isFailed = true;
    this.#changed();
    announce(`Not sent. ${title}`);
  }

  #retry(message) {
    message.isFailed = false;
    this.#changed();
    this.#enqueue(message);
  }

  #edit(message) {
    if (this.#owner.onEdit(message.content)) this.#remove(message);
  }

  #remove(message) {
    this.#messages = this.#messages.filter(({ key }) => key !== message.key);
    this.#changed();
  }

  #changed() {
    outbox.save(this.#place, this.#messages);
    this.#draw();
  }

  #draw() {
    this.node.replaceChildren(...this.#messages.map((message) => this.#row(message)));
  }

  #row(message) {
    const { content, isFailed, key } = message;
    const words = isFailed ? `Not sent. ${this.#words.get(key) ?? ""}` : "Sending…";
    const choices = [
      button("Retry", null, () => this.#retry(message), { class: "link" }),
      button("Edit", null, () => this.#edit(message), { class: "link" }),
      button("Discard", null, () => this.#remove(message), { class: "link" }),
    ];
    return el(
      "article",
      { class: "unsent", "data-state": isFailed ? "failed" : "sending" },
      el("div", { class: "question", dir: "auto" }, content),
      el("p", { class: "outcome", "data-tone": isFailed ? "bad" : "plain" }, el("span", {}, words), isFailed ? choices : null),
    );
  }
}
