/**
 * Shows a text that grows. Only the block that may still change is drawn again; a long one not with each delta, but
 * when it has grown by a share of itself, so that drawing a text costs in proportion to its length.
 */

import { appendCode, colourLater, isCode, setCode } from "./code.js";
import { blocksOf, drawBlocks, languageOf } from "./markdown.js";

const SHORT = 4_096; // characters; a block up to here is drawn with each delta
const SHARE = 32; // a longer one each time it has grown by one part of so many
const HOLDS_TEXT = "p, h3, h4, h5, ul, ol, li, blockquote, .wide, table, tbody, tr, td";
const LETTER = /^ {0,3}\p{L}/u;

export class MarkdownView {
  #root;
  #text = "";
  #drawn = 0; // how much of the text is drawn as Markdown; the rest hangs on as it was written
  #starts = []; // where each block drawn begins
  #nodes = []; // what was drawn for it: looking it up among the children would cost with each that there is

  /** @param {HTMLElement} root an empty element whose children are all ours */
  constructor(root) {
    this.#root = root;
  }

  /**
   * Show `text`.
   * @param {string} text
   * @param {{grows?: boolean}} [options] `grows`: more of it will come
   */
  update(text, { grows = false } = {}) {
    const isLonger = text.startsWith(this.#text);
    const added = isLonger ? text.slice(this.#text.length) : "";
    const isSame = isLonger && added === "";
    this.#text = text;
    const keep = isLonger ? this.#settled() : 0;
    if (grows && isLonger && !this.#isDue(keep)) this.#hangOn(added);
    else if (!isSame || this.#drawn < text.length) this.#draw(keep);
    if (!grows && this.#nodes.length > 0) colourLater(this.#nodes.at(-1));
  }

  /** How many blocks will stay as they are, whatever comes. */
  #settled() {
    const last = this.#starts.at(-1);
    if (last === undefined) return 0;
    // A first line that is whole, or begins with a letter, belongs to no block before it, whatever follows.
    const firstLine = this.#text.slice(last, this.#drawn);
    const isOwn = /[\r\n]/.test(firstLine) || LETTER.test(firstLine);
    return Math.max(0, this.#starts.length - (isOwn ? 1 : 2));
  }

  #isDue(keep) {
    const open = this.#drawn - (this.#starts[keep] ?? 0);
    return open <= SHORT || this.#text.length - this.#drawn > open / SHARE;
  }

  #hangOn(added) {
    let place = this.#nodes.at(-1);
    if (isCode(place)) {
      appendCode(place, added);
      return;
    }
    if (!place?.matches(HOLDS_TEXT)) return;
    while (place.lastElementChild?.matches(HOLDS_TEXT)) place = place.lastElementChild;
    if (place.lastChild?.nodeType === Node.TEXT_NODE) place.lastChild.appendData(added);
    else place.append(added);
  }

  #draw(keep) {
    const blocks = blocksOf(this.#text, keep === 0 ? 0 : this.#starts[keep]);
    const old = this.#nodes.splice(keep);
    const kept = sameCode(blocks[0], old[0]) ? [old.shift()] : [];
    const nodes = [...kept, ...drawBlocks(blocks.slice(kept.length), this.#text)];
    for (const node of old) node.remove();
    for (const node of nodes.slice(kept.length)) this.#root.append(node);
    for (const node of nodes.slice(0, -1)) colourLater(node);
    this.#starts.length = keep;
    for (const { start } of blocks) this.#starts.push(start);
    for (const node of nodes) this.#nodes.push(node);
    this.#drawn = this.#text.length;
  }
}

/** Let code that is still being written stay where it is, with its scroll, its selection and its button. */
function sameCode(block, figure) {
  const token = block?.tokens[0];
  return token?.type === "fence" && isCode(figure) && setCode(figure, token.content, languageOf(token));
}
