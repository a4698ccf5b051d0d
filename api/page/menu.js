/** A button that opens a short list of actions below it. */

import { el, icon } from "./dom.js";

/**
 * @param {string} name what the button is called
 * @param {string} iconName
 * @param {() => {name: string, icon: string, run: () => void}[]} actions asked for each time it opens
 * @param {Record<string, any>} [props] of the node around both
 */
export function menu(name, iconName, actions, props = {}) {
  const list = el("ul", { class: "choices-list", role: "menu", "aria-label": name, hidden: true, on: { keydown: moved } });
  const opener = el(
    "button",
    { type: "button", "aria-label": name, title: name, "aria-haspopup": "menu", "aria-expanded": "false", on: { click: toggle } },
    icon(iconName),
  );
  const node = el("div", { ...props, class: `menu-of ${props.class ?? ""}`.trim(), on: { focusout: left } }, opener, list);

  function toggle() {
    if (list.hidden) open();
    else close();
  }

  function open() {
    list.replaceChildren(...actions().map(item));
    list.hidden = false;
    opener.setAttribute("aria-expanded", "true");
    list.querySelector("button")?.focus();
  }

  function close() {
    if (list.hidden) return;
    const hadFocus = list.contains(document.activeElement);
    list.hidden = true;
    opener.setAttribute("aria-expanded", "false");
    if (hadFocus) opener.focus();
  }

  function item({ name: label, icon: iconOfItem, run }) {
    const choose = () => {
      close();
      run();
    };
    return el(
      "li",
      { role: "none" },
      el("button", { type: "button", role: "menuitem", tabindex: "-1", on: { click: choose } }, icon(iconOfItem), el("span", {}, label)),
    );
  }

  function moved(event) {
    const items = [...list.querySelectorAll("button")];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      items.at(to % items.length).focus();
    } else if (event.key === "Escape" || event.key === "Tab") {
      event.stopPropagation(); // Escape would stop the answer as well
      close();
    }
  }

  function left({ relatedTarget }) {
    // A click that goes nowhere blurs without a target; so does a tab that is left.
    if (!node.contains(relatedTarget) && document.hasFocus()) close();
  }

  return node;
}
