/** The keys that work anywhere on the page. */

const NAME = "turnkeeper.singleKeys";
const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
const COMMAND = isMac ? "⌘" : "Ctrl";

// A key without Ctrl or ⌘ can be pressed by a voice or by mistake: it can be switched off (WCAG 2.1.4).
function singleKeys() {
  try {
    return localStorage.getItem(NAME) !== "off";
  } catch (error) {
    if (error instanceof DOMException) return true;
    throw error;
  }
}

const isField = (node) => node.closest?.("input, textarea, select, [contenteditable]") !== null;

/** Show the list, which few ask for and so is not loaded with the page. */
export const showShortcuts = async () => (await import("./shortcuts-list.js")).showList(singleKeys(), NAME, COMMAND);

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
