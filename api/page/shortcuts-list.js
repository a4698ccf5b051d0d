/** The keyboard: what each key does, and the choice whether single keys do anything. */

import { button, el } from "./dom.js";

const listed = (command) => [
  [["Enter"], "Send the message"],
  [[command, "Enter"], "Send, also an edited message"],
  [["Shift", "Enter"], "Start a new line"],
  [["Esc"], "Stop the answer"],
  [[command, "K"], "Search sessions"],
  [[command, "Shift", "O"], "Start a new session"],
  [["?"], "Show this list"],
];

/**
 * Show the list.
 * @param {boolean} isOn whether keys without Ctrl or ⌘ are used
 * @param {string} name under which that is kept
 * @param {string} command the key's name on this machine
 */
export function showList(isOn, name, command) {
  if (document.querySelector("dialog[open]")) return;
  const single = el("input", { type: "checkbox", on: { change: () => save(name, single.checked) } });
  single.checked = isOn;
  const dialog = el(
    "dialog",
    { class: "shortcuts", "aria-labelledby": "shortcuts-title", on: { close: () => dialog.remove() } },
    el("h2", { id: "shortcuts-title" }, "Keyboard"),
    el("dl", {}, listed(command).map(([keys, what]) => el("div", {}, el("dt", {}, what), el("dd", {}, keys.map((key) => el("kbd", {}, key)))))),
    el("label", { class: "check" }, single, "Use keys without Ctrl or ⌘ outside of fields"),
    el("div", { class: "choices" }, button("Close", null, () => dialog.close(), { class: "primary" })),
  );
  document.body.append(dialog);
  dialog.showModal();
}

function save(name, isOn) {
  try {
    if (isOn) localStorage.removeItem(name);
    else localStorage.setItem(name, "off");
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
  }
}
