/** Shows the characters that turn text around: unseen, they let a text read otherwise than it is. */

import { el } from "./dom.js";

const NAMES = {
  "\u202A": "left-to-right embedding",
  "\u202B": "right-to-left embedding",
  "\u202C": "end of embedding",
  "\u202D": "left-to-right override",
  "\u202E": "right-to-left override",
  "\u2066": "left-to-right isolate",
  "\u2067": "right-to-left isolate",
  "\u2068": "first strong isolate",
  "\u2069": "end of isolate",
};
const CONTROL = /[\u202A-\u202E\u2066-\u2069]/;
const CUT = /([\u202A-\u202E\u2066-\u2069])/;

const code = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase()}`;
const shown = (character) => el("span", { class: "control", title: NAMES[character] }, code(character));

/** True where `text` has such a character. */
export const hasControls = (text) => CONTROL.test(text);

/** `text` as a list of nodes and strings, each such character by its code. */
export const withControls = (text) =>
  text.split(CUT).filter((part) => part !== "").map((part) => (CONTROL.test(part) ? shown(part) : part));

/** Replace such characters in all text below `root`. */
export function showControls(root) {
  if (!CONTROL.test(root.textContent)) return;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    if (CONTROL.test(walker.currentNode.data)) found.push(walker.currentNode);
  }
  for (const node of found) node.replaceWith(...withControls(node.data));
}
