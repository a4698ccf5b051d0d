/** Asks the user one thing at a time, with the browser's own modal dialog. */

import { el } from "./dom.js";

function open(title, words, field, confirm) {
  const id = "dialog-title";
  const dialog = el("dialog", { "aria-labelledby": id });
  return new Promise((resolve) => {
    const answer = (value) => {
      dialog.close();
      dialog.remove();
      resolve(value);
    };
    const accept = (event) => {
      event.preventDefault();
      answer(field === null ? true : field.value.trim());
    };
    dialog.addEventListener("close", () => answer(null)); // the browser may close it without asking
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      answer(null);
    });
    dialog.append(
      el(
        "form",
        { on: { submit: accept } },
        el("h2", { id }, title),
        el("p", {}, words),
        field,
        el(
          "div",
          { class: "choices" },
          el("button", { type: "button", on: { click: () => answer(null) } }, "Cancel"),
          el("button", { type: "submit", class: "primary" }, confirm),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
    field?.select();
  });
}

/** Ask for consent. @returns {Promise<boolean>} */
export const confirm = async (title, words, yes) => (await open(title, words, null, yes)) === true;

/** Ask for a short text. @returns {Promise<string|null>} null when the user would not say */
export function ask(title, words, label, suggestion, yes = "Continue", { isOptional = false } = {}) {
  const field = el("input", { type: "text", "aria-label": label, value: suggestion, required: !isOptional, maxlength: "200" });
  return open(title, words, field, yes);
}
