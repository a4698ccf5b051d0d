/**
 * A small and safe part of Markdown, as DOM nodes. A model's output is untrusted: text becomes text nodes, links are
 * http(s) only and say where they lead, nothing is loaded from anywhere. Growing text redraws its last two blocks only.
 */

import { copyButton, el } from "./dom.js";

const DEPTH = 6; // quotes in quotes, emphasis in emphasis; deeper is shown as it was written
// No two neighbours in these can match the same text: each is linear in the line, however hostile.
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s(.*)$/s;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s{0,12})([-*+]|\d{1,9}[.)])\s+(.*)$/s;
const QUOTE = /^ {0,3}> ?/;
const URL_START = /^https?:\/\/[^\s<>"'`]+/i;
const CLOSING = new Set(".,;:!?)]*_");
const BLANK = /^\s*$/;

/**
 * Cut text into blocks.
 * @returns {{kind: string, start: number, [field: string]: any}[]} `start` is where the block's source begins
 */
export function blocksOf(text, from = 0) {
  const lines = linesOf(text, from);
  const blocks = [];
  let index = 0;
  while (index < lines.length) {
    if (BLANK.test(lines[index].text)) {
      index += 1;
      continue;
    }
    const [block, next] = readBlock(lines, index);
    blocks.push({ ...block, start: lines[index].start });
    index = next;
  }
  return blocks;
}

function linesOf(text, from) {
  const lines = [];
  for (let start = from; start < text.length; ) {
    const end = text.indexOf("\n", start);
    const stop = end === -1 ? text.length : end;
    lines.push({ start, text: text.slice(start, stop).replace(/\r$/, "") });
    start = stop + 1;
  }
  return lines;
}

function readBlock(lines, index) {
  const line = lines[index].text;
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, index, fence);
  if (RULE.test(line)) return [{ kind: "rule" }, index + 1];
  const heading = HEADING.exec(line);
  if (heading) return [{ kind: "heading", level: heading[1].length, text: heading[2].trim() }, index + 1];
  if (QUOTE.test(line)) return readQuote(lines, index);
  if (ITEM.test(line)) return readList(lines, index);
  return readParagraph(lines, index);
}

function readFence(lines, index, [, mark, info]) {
  const close = new RegExp(`^ {0,3}${mark[0] === "`" ? "`" : "~"}{${mark.length},}\\s*$`);
  const code = [];
  let next = index + 1;
  while (next < lines.length && !close.test(lines[next].text)) {
    code.push(lines[next].text);
    next += 1;
  }
  return [{ kind: "code", language: info.trim().split(/\s/)[0].slice(0, 30), text: code.join("\n") }, next + 1];
}

function readQuote(lines, index) {
  const inner = [];
  let next = index;
  while (next < lines.length && QUOTE.test(lines[next].text)) {
    inner.push(lines[next].text.replace(QUOTE, ""));
    next += 1;
  }
  return [{ kind: "quote", text: inner.join("\n") }, next];
}

const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function readParagraph(lines, index) {
  const inner = [lines[index].text];
  let next = index + 1;
  while (next < lines.length && !BLANK.test(lines[next].text) && !startsBlock(lines[next].text)) {
    inner.push(lines[next].text);
    next += 1;
  }
  return [{ kind: "paragraph", text: inner.join("\n") }, next];
}

/** Items as a flat list with their indentation; a blank line ends the list unless an item or its text follows. */
function readList(lines, index) {
  const items = [];
  let next = index;
  while (next < lines.length) {
    const line = lines[next].text;
    const item = RULE.test(line) ? null : ITEM.exec(line);
    if (item) {
      items.push({ indent: item[1].length, mark: item[2], text: item[3] });
    } else if (BLANK.test(line)) {
      const after = lines[next + 1]?.text ?? "";
      if (!ITEM.test(after) && !/^\s{2,}\S/.test(after)) break;
    } else if (/^\s{2,}\S/.test(line) || (!startsBlock(line) && !BLANK.test(lines[next - 1].text))) {
      items[items.length - 1].text += `\n${line.trim()}`;
    } else {
      break;
    }
    next += 1;
  }
  return [{ kind: "list", items }, next];
}

/** Draw one block. */
export function drawBlock(block, depth = 0) {
  switch (block.kind) {
    case "rule":
      return el("hr");
    case "heading":
      return el(block.level < 3 ? "h3" : "h4", {}, inline(block.text));
    case "code":
      return drawCode(block);
    case "quote":
      if (depth >= DEPTH) return el("p", {}, block.text);
      return el("blockquote", {}, blocksOf(block.text).map((inner) => drawBlock(inner, depth + 1)));
    case "list":
      return drawList(block.items, 0, block.items.length, 0);
    default:
      return el("p", {}, inline(block.text));
  }
}

function drawCode({ language, text }) {
  return el(
    "figure",
    { class: "code" },
    el("figcaption", {}, el("span", {}, language), copyButton("Copy this code", () => text)),
    el("pre", { tabindex: "0" }, el("code", {}, text)),
  );
}

function drawList(items, start, end, depth) {
  const { indent, mark } = items[start];
  const isOrdered = /\d/.test(mark);
  const list = el(isOrdered ? "ol" : "ul", isOrdered && mark !== "1." ? { start: Number.parseInt(mark, 10) } : {});
  for (let index = start; index < end; ) {
    let next = index + 1;
    while (next < end && items[next].indent > indent + 1) next += 1;
    const row = el("li", {}, inline(items[index].text));
    if (next > index + 1) {
      if (depth < DEPTH) row.append(drawList(items, index + 1, next, depth + 1));
      else row.append(items.slice(index + 1, next).map((item) => `\n${item.mark} ${item.text}`).join(""));
    }
    list.append(row);
    index = next;
  }
  return list;
}

/**
 * Text with code, emphasis and links as nodes. Where the next mark of each kind stands is remembered: a hostile text
 * costs no more than a long one.
 */
export function inline(text, depth = 0) {
  const nodes = [];
  const marks = new Map();
  let plain = "";
  const push = (node) => {
    if (plain !== "") nodes.push(plain);
    plain = "";
    nodes.push(node);
  };
  for (let at = 0; at < text.length; ) {
    const span = SPANS[text[at]]?.(text, at, depth, marks) ?? null;
    if (span === null) {
      plain += text[at];
      at += 1;
    } else if (typeof span.node === "string") {
      plain += span.node;
      at = span.end;
    } else {
      push(span.node);
      at = span.end;
    }
  }
  if (plain !== "") nodes.push(plain);
  return nodes;
}

/** Where `mark` stands next at or past `from`, or -1. `from` only grows for a mark, so an answer holds until it is passed. */
function find(text, mark, from, marks) {
  const known = marks.get(mark);
  if (known !== undefined && (known === -1 || known >= from)) return known;
  const at = text.indexOf(mark, from);
  marks.set(mark, at);
  return at;
}

function codeSpan(text, at, depth, marks) {
  const mark = /^`+/.exec(text.slice(at, at + 16))[0];
  const end = find(text, mark, at + mark.length, marks);
  if (end === -1 || text[end + mark.length] === "`") return { node: mark, end: at + mark.length };
  const code = text.slice(at + mark.length, end);
  const trimmed = code.length > 2 && code.startsWith(" ") && code.endsWith(" ") ? code.slice(1, -1) : code;
  return { node: el("code", {}, trimmed), end: end + mark.length };
}

function emphasis(text, at, depth, marks) {
  const sign = text[at];
  const mark = text[at + 1] === sign ? sign + sign : sign;
  const start = at + mark.length;
  const asWritten = { node: mark, end: start };
  if (depth >= DEPTH || start >= text.length || /\s/.test(text[start])) return asWritten;
  if (sign === "_" && /\w/.test(text[at - 1] ?? "")) return asWritten; // snake_case is no emphasis
  const end = find(text, mark, start + 1, marks);
  if (end === -1 || /\s/.test(text[end - 1])) return asWritten;
  if (sign === "_" && /\w/.test(text[end + mark.length] ?? "")) return asWritten;
  const tag = mark.length === 2 ? "strong" : "em";
  return { node: el(tag, {}, inline(text.slice(start, end), depth + 1)), end: end + mark.length };
}

function namedLink(text, at, depth, marks) {
  const middle = find(text, "]", at, marks);
  if (middle === -1 || text[middle + 1] !== "(") return null;
  const end = find(text, ")", middle, marks);
  const label = text.slice(at + 1, middle);
  if (end === -1 || label === "" || label.includes("\n")) return null;
  const target = text.slice(middle + 2, end).trim().split(/\s/)[0];
  const link = drawLink(target, label);
  return link === null ? null : { node: link, end: end + 1 };
}

function bareLink(text, at) {
  if (/\w/.test(text[at - 1] ?? "")) return null;
  const found = URL_START.exec(text.slice(at, at + 2_000));
  if (found === null) return null;
  let length = found[0].length;
  while (CLOSING.has(found[0][length - 1])) length -= 1; // the sentence's, not the address's
  const target = found[0].slice(0, length);
  const link = drawLink(target, target);
  return link === null ? null : { node: link, end: at + target.length };
}

function drawLink(target, label) {
  if (!URL_START.test(target) || !URL.canParse(target)) return null;
  const { href } = new URL(target);
  return el("a", { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" }, label);
}

const escaped = (text, at) =>
  /[\\`*_[\]()#+\-.!>~|]/.test(text[at + 1] ?? "") ? { node: text[at + 1], end: at + 2 } : null;

const picture = (text, at) => (text[at + 1] === "[" ? { node: "![", end: at + 2 } : null); // never loaded

const SPANS = {
  "`": codeSpan,
  "*": emphasis,
  _: emphasis,
  "[": namedLink,
  "!": picture,
  "\\": escaped,
  h: bareLink,
  H: bareLink,
};

/** Shows a text that grows. */
export class MarkdownView {
  #root;
  #text = "";
  #starts = []; // source offset of each block drawn, in step with the root's children

  constructor(root) {
    this.#root = root;
  }

  /** Show `text`; only what may have changed since the last time is drawn again. */
  update(text) {
    if (text === this.#text) return;
    // The last block may go on, and its first line decides whether the list before it does.
    const keep = text.startsWith(this.#text) ? Math.max(0, this.#starts.length - 2) : 0;
    const blocks = blocksOf(text, keep === 0 ? 0 : this.#starts[keep]);
    while (this.#root.childNodes.length > keep) this.#root.lastChild.remove();
    for (const block of blocks) this.#root.append(drawBlock(block));
    this.#starts = [...this.#starts.slice(0, keep), ...blocks.map((block) => block.start)];
    this.#text = text;
  }
}
