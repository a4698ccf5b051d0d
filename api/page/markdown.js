/**
 * Markdown as DOM nodes. A model's output is untrusted: the parser passes no HTML through, what it makes is sanitised
 * against a short list of elements, links lead to the web or to mail only, and nothing is loaded from anywhere.
 */

import { codeBlock } from "./code.js";
import { showControls } from "./controls.js";
import { leaveMaths } from "./maths.js";
import MarkdownIt from "./vendor/markdown-it.js";
import DOMPurify from "./vendor/purify.js";

const LONGEST_BLOCK = 200_000; // characters; a longer one is no prose, and is shown as it was written
const WEB = /^https?:\/\//i;
const TARGET = /^(?:https?:\/\/|mailto:)/i;
const LINE = /\r\n?|\n/g;
const SAFE = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "hr", "li", "ol", "p", "pre", "s", "strong",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["class", "href", "rel", "start", "target", "title"],
  ALLOWED_URI_REGEXP: TARGET,
  ADD_URI_SAFE_ATTR: ["rel", "start", "target"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true });
// A definition changes what was shown before it: while text grows, there can be none. What one says is shown.
markdown.disable("reference");
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
leaveMaths(markdown);
markdown.validateLink = (target) => TARGET.test(target);

const { rules } = markdown.renderer;

rules.link_open = (tokens, index, options, env, self) => {
  const token = tokens[index];
  const href = token.attrGet("href");
  token.attrs = [
    ["href", href],
    ["title", href], // where it leads, whatever it is called
    ["target", "_blank"],
    ["rel", "noopener noreferrer nofollow"],
  ];
  return self.renderToken(tokens, index, options);
};

// An image would tell its host who reads this, and when.
rules.image = (tokens, index, options, env, self) => {
  const source = tokens[index].attrGet("src");
  const name = self.renderInlineAsText(tokens[index].children, options, env) || source;
  const escape = markdown.utils.escapeHtml;
  if (!WEB.test(source)) return escape(`Image: ${name}`);
  const href = escape(source);
  return `<a href="${href}" title="${href}" target="_blank" rel="noopener noreferrer nofollow">Image: ${escape(name)}</a>`;
};

rules.heading_open = (tokens, index) => `<${heading(tokens[index].tag)}>`;
rules.heading_close = (tokens, index) => `</${heading(tokens[index].tag)}>`;

/** The page's own headings stand above an answer's. */
const heading = (tag) => ({ h1: "h3", h2: "h3", h3: "h4" })[tag] ?? "h5";

for (const name of ["th_open", "td_open"]) {
  rules[name] = (tokens, index, options, env, self) => {
    const token = tokens[index];
    const side = /text-align:(\w+)/.exec(token.attrGet("style") ?? "")?.[1]; // an inline style is against the policy
    token.attrs = side ? [["class", `to-${side}`]] : null;
    return self.renderToken(tokens, index, options);
  };
}

/**
 * Cut `text` into its top blocks, from `from` on, where one begins.
 * @returns {{start: number, end: number, tokens: object[], env: object}[]} `start` and `end` are offsets in `text`
 */
export function blocksOf(text, from = 0) {
  const source = text.slice(from);
  const starts = [0];
  for (const { index, 0: end } of source.matchAll(LINE)) starts.push(index + end.length);
  const offset = (line) => from + (starts[line] ?? source.length);
  const env = {};
  const blocks = [];
  let depth = 0;
  for (const token of markdown.parse(source, env)) {
    if (depth === 0) blocks.push({ start: offset(token.map[0]), end: offset(token.map[1]), tokens: [], env });
    blocks.at(-1).tokens.push(token);
    depth += token.nesting;
  }
  return blocks;
}

/** Nodes for `html`, with nothing in them but what an answer needs. */
export const sanitise = (html) => DOMPurify.sanitize(html, SAFE);

/**
 * Draw blocks of `text`: a node for each. What is no code is sanitised all at once, for a sanitiser has a document
 * to make each time.
 */
export function drawBlocks(blocks, text) {
  const html = blocks.filter(isProse).map(({ tokens, env }) => markdown.renderer.render(tokens, markdown.options, env));
  const prose = [...dressed(sanitise(html.join("\n"))).children];
  return blocks.map((block) => {
    if (isProse(block)) return prose.shift();
    const [token] = block.tokens;
    return token.type === "fence" ? codeBlock(token.content, languageOf(token)) : asWritten(text, block);
  });
}

const isProse = ({ tokens, start, end }) => tokens[0].type !== "fence" && end - start <= LONGEST_BLOCK;

/** Make of what was drawn what it is on this page. */
function dressed(drawn) {
  showControls(drawn);
  for (const pre of drawn.querySelectorAll("pre")) {
    const language = /^language-(.+)$/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "";
    pre.replaceWith(codeBlock(pre.textContent, language));
  }
  for (const table of drawn.querySelectorAll("table")) {
    const frame = document.createElement("div");
    frame.className = "wide";
    frame.tabIndex = 0; // so that it can be scrolled by keyboard
    table.replaceWith(frame);
    frame.append(table);
  }
  return drawn;
}

/** The language that a fence says its code is in. */
export const languageOf = (token) => token.info.trim().split(/\s/)[0].slice(0, 30);

function asWritten(text, { start, end }) {
  const paragraph = document.createElement("p");
  paragraph.className = "as-written";
  paragraph.append(text.slice(start, end));
  showControls(paragraph);
  return paragraph;
}
