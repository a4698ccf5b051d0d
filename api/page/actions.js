/** What a reader can do with one turn: edit its question, ask it again, take it out of the queue, copy the answer. */

import { button, copyButton, el } from "./dom.js";

const REPLACES = "The answer that is being written is stopped and taken away with this message. What it cost stays.";
const ADDS = "It is sent as a new message. This one and its answer stay, and are part of what the model reads.";

export class TurnActions {
  #owner;
  #turn = null;
  #question;
  #editor = null;
  #place = null;
  #parts;

  /**
   * @param {HTMLElement} question where the question stands
   * @param {{onSend: (content: string, replaces: string|null) => boolean, onCancel: (turnId: string) => void}} owner
   *   `onSend` gets the id of the turn that is to be replaced and says whether it took the message
   */
  constructor(question, owner) {
    this.#owner = owner;
    this.#question = question;
    const quiet = { quiet: true, class: "act" };
    this.#parts = {
      cancel: button("Take out of the queue", null, () => owner.onCancel(this.#turn.id), { class: "link", hidden: true }),
      edit: button("Edit", "edit", () => this.#edit(), quiet),
      again: button("Ask again", "again", (event) => this.#askAgain(event), quiet),
      copy: copyButton("Copy the answer", () => this.#turn.content),
    };
    const { cancel, edit, again, copy } = this.#parts;
    this.node = el("div", { class: "actions" }, cancel, edit, again, copy);
  }

  /**
   * @param {object} turn
   * @param {{ahead: number, isAlone: boolean}} place `ahead`: how many turns of this session are over before this one is
   *   run; `isAlone`: it is under way and no other is
   */
  update(turn, place) {
    this.#turn = turn;
    this.#place = place;
    const { cancel, edit, again, copy } = this.#parts;
    const isWaiting = !turn.done && place.ahead > 0;
    cancel.hidden = !isWaiting || turn.status !== "queued";
    edit.hidden = turn.question === null || isWaiting || this.#editor !== null;
    again.hidden = turn.question === null || !turn.done;
    copy.hidden = turn.content === "";
  }

  async #edit() {
    const { questionEditor } = await import("./editor.js"); // no page is loaded for it
    if (this.#editor !== null) return; // the second click of two
    const { id, question } = this.#turn;
    const replaces = this.#place.isAlone ? id : null;
    const editor = questionEditor(question, {
      note: replaces === null ? ADDS : REPLACES,
      onSend: (content) => this.#owner.onSend(content, replaces),
      onCancel: () => this.#closeEditor(),
    });
    this.#editor = editor.node;
    this.#question.hidden = true;
    this.#question.before(editor.node);
    this.#parts.edit.hidden = true;
    editor.open();
  }

  #closeEditor() {
    const hadFocus = this.#editor.contains(document.activeElement);
    this.#editor.remove();
    this.#editor = null;
    this.#question.hidden = false;
    this.#parts.edit.hidden = false;
    if (hadFocus) this.#parts.edit.focus();
  }

  #askAgain({ detail }) {
    if (detail < 2) this.#owner.onSend(this.#turn.question, null); // the second click of two is no second question
  }
}
