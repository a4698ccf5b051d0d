/** Light or dark: as the system says, until the reader says otherwise; `theme-early.js` remembers. */

import { announce, button, icon } from "./dom.js";

const NAME = "turnkeeper.theme";
const system = window.matchMedia("(prefers-color-scheme: dark)");

const current = () => document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light");
const other = () => (current() === "dark" ? "light" : "dark");

function choose(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    // What the system says anyway is not remembered: it may say something else tonight.
    if (theme === (system.matches ? "dark" : "light")) localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, theme);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error; // storage is blocked: it holds until the page is left
  }
}

/** A button that changes between light and dark. */
export function themeButton() {
  const label = () => `Use ${other()} colours`;
  const draw = () => {
    node.replaceChildren(icon(other() === "dark" ? "moon" : "sun"));
    node.title = label();
    node.setAttribute("aria-label", label());
  };
  const node = button(label(), null, () => {
    choose(other());
    draw();
    announce(`Colours are ${current()} now`);
  }, { quiet: true, class: "theme" });
  draw();
  return node;
}
