/** Builds elements. Text is always set as text: nothing in this page parses a string as HTML. */

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [props] attributes; `on` holds listeners; null, undefined and false are left out
 * @param {...(Node|string|null|undefined|false|(Node|string)[])} children a list is taken as its members, however
 *   long: arguments have a limit, an answer's parts do not
 * @returns {HTMLElement}
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

/** Set an element's text only when it differs, so that a screen reader is not told twice. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Say something to a screen reader without moving the focus. */
export function announce(text) {
  setText(document.getElementById("announcer"), text);
}

const PATHS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7.5 7.5h9v9h-9z",
  copy: "M9 9h10v10H9zM5 15V5h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  leave: "M10 5H5v14h5M10 12h10M16.5 8.5L20 12l-3.5 3.5",
  archive: "M4 5h16v4H4zM6 9v10h12V9M10 13h4",
  close: "M6 6l12 12M18 6L6 18",
  down: "M12 5v14M6 13l6 6 6-6",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  again: "M5 12a7 7 0 1 0 2.2-5.1M5 4v4h4",
  flag: "M6 21V4h11l-2 4 2 4H6",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.4 1.4M17 17l1.4 1.4M18.4 5.6L17 7M7 17l-1.4 1.4",
  moon: "M20 14.5A8 8 0 1 1 9.5 4a6.5 6.5 0 0 0 10.5 10.5z",
  keyboard: "M3 7h18v11H3zM7 11h.01M11 11h.01M15 11h.01M8 14.5h8",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l4.5 4.5",
};

/** A line icon that takes the colour of the text around it; hidden from assistive technology. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon and a name that is always spoken, and shown unless `quiet`. */
export function button(name, iconName, onClick, props = {}) {
  const quiet = props.quiet === true;
  const { quiet: _, ...rest } = props;
  return el(
    "button",
    { type: "button", "aria-label": quiet ? name : null, title: quiet ? name : null, ...rest, on: { click: onClick } },
    iconName ? icon(iconName) : null,
    quiet ? null : el("span", {}, name),
  );
}

/** Copy text; says whether it worked. The clipboard is there only over https and on localhost. */
export async function copyText(text) {
  if (!navigator.clipboard) return false;
  return navigator.clipboard.writeText(text).then(() => true, () => false);
}

/** A button that copies what `text()` returns and says so. */
export function copyButton(label, text) {
  const node = button(label, "copy", async () => {
    const copied = await copyText(text());
    node.replaceChildren(icon(copied ? "check" : "close"));
    announce(copied ? "Copied" : "The browser did not allow copying");
    setTimeout(() => node.replaceChildren(icon("copy")), 1500);
  }, { quiet: true, class: "copy" });
  return node;
}
