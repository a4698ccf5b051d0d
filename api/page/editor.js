/** Lets a question be written anew in its place. The protocol changes no message: what is sent is another turn. */

import { el } from "./dom.js";

const LONGEST = 32_000; // the API's limit, in characters after trimming
const TALLEST_PX = 320;

/**
 * @param {string} content the question as it is
 * @param {{note: string, onSend: (content: string) => boolean, onCancel: () => void}} owner
 *   `note` says what sending does; `onSend` says whether it took the text, and until then what was written stays
 */
export function questionEditor(content, { note, onSend, onCancel }) {
  const input = el("textarea", { "aria-label": "The edited text", rows: "1", on: { input: typed, keydown: pressed } });
  input.value = content;
  const send = el("button", { type: "submit", class: "primary" }, "Send");
  const cancel = el("button", { type: "button", on: { click: onCancel } }, "Cancel");
  const node = el(
    "form",
    { class: "editor", on: { submit: submitted } },
    input,
    el("p", { class: "note" }, note),
    el("div", { class: "choices" }, cancel, send),
  );

  function fits() {
    const { length } = Array.from(input.value.trim());
    return length > 0 && length <= LONGEST;
  }

  function grow() {
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight + 2, TALLEST_PX)}px`;
  }

  function typed() {
    send.disabled = !fits();
    grow();
  }

  function submitted(event) {
    event.preventDefault();
    if (fits() && onSend(input.value)) onCancel();
  }

  function pressed(event) {
    if (event.key === "Escape") {
      event.stopPropagation(); // it ends the editing, not the answer
      onCancel();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      submitted(event);
    }
  }

  return {
    node,
    open() {
      grow();
      input.focus();
      input.setSelectionRange(content.length, content.length);
    },
  };
}
