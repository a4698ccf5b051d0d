/** The keyboard: what each key does, the list of them, and those that work anywhere on the page. */

import { button, el } from "./dom.js";

const NAME = "turnkeeper.singleKeys";
const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const COMMAND = isMac ? "⌘" : "Ctrl";

const LIST = [
  [["Enter"], "Send the message"],
  [[COMMAND, "Enter"], "Send, also an edited message"],
  [["Shift", "Enter"], "Start a new line"],
  [["Esc"], "Stop the answer"],
  [[COMMAND, "K"], "Search sessions"],
  [[COMMAND, "Shift", "O"], "Start a new session"],
  [["?"], "Show this list"],
];

// A key without Ctrl or ⌘ can be pressed by a voice or by mistake: it can be switched off (WCAG 2.1.4).
function singleKeys() {
  try {
    return localStorage.getItem(NAME) !== "off";
  } catch (error) {
    if (error instanceof DOMException) return true;
    throw error;
  }
}

function saveSingleKeys(isOn) {
  try {
    if (isOn) localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, "off");
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
  }
}

const isField = (node) => node.closest?.("input, textarea, select, [contenteditable]") !== null;

/** Show the list. */
export function showShortcuts() {
  if (document.querySelector("dialog[open]")) return;
  const single = el("input", { type: "checkbox", on: { change: () => saveSingleKeys(single.checked) } });
  single.checked = singleKeys();
  const dialog = el(
    "dialog",
    { class: "shortcuts", "aria-labelledby": "shortcuts-title", on: { close: () => dialog.remove() } },
    el("h2", { id: "shortcuts-title" }, "Keyboard"),
    el("dl", {}, LIST.map(([keys, what]) => el("div", {}, el("dt", {}, what), el("dd", {}, keys.map((key) => el("kbd", {}, key)))))),
    el("label", { class: "check" }, single, "Use keys without Ctrl or ⌘ outside of fields"),
    el("div", { class: "choices" }, button("Close", null, () => dialog.close(), { class: "primary" })),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * Listen for the keys that work anywhere.
 * @param {{search: () => void, create: () => void}} actions
 * @returns {() => void} ends it
 */
export function listenForShortcuts({ search, create }) {
  const pressed = (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const key = event.key.toLowerCase();
    const hasCommand = isMac ? event.metaKey : event.ctrlKey;
    let action = null;
    if (key === "?" && !hasCommand && !event.altKey && !isField(event.target) && singleKeys()) action = showShortcuts;
    else if (hasCommand && !event.altKey && !event.shiftKey && key === "k") action = search;
    else if (hasCommand && !event.altKey && event.shiftKey && key === "o") action = create;
    if (action === null) return;
    event.preventDefault();
    action();
  };
  document.addEventListener("keydown", pressed);
  return () => document.removeEventListener("keydown", pressed);
}
