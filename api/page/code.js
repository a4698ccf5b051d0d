/** A block of code: its language, a button that copies it, and colours, fetched once code is near the screen. */

import { hasControls, showControls } from "./controls.js";
import { copyButton, el } from "./dom.js";
import DOMPurify from "./vendor/purify.js";

const LONGEST = 60_000; // characters; colouring more would hold the page up
const LANGUAGES = new Set([
  "bash", "c", "cpp", "csharp", "css", "diff", "dockerfile", "go", "ini", "java", "javascript", "json", "kotlin",
  "markdown", "php", "python", "ruby", "rust", "sql", "typescript", "xml", "yaml",
]);
const OTHER_NAMES = {
  "c#": "csharp", "c++": "cpp", cc: "cpp", cs: "csharp", docker: "dockerfile", golang: "go", h: "c", hpp: "cpp",
  html: "xml", js: "javascript", jsx: "javascript", kt: "kotlin", md: "markdown", mjs: "javascript", patch: "diff",
  postgresql: "sql", py: "python", rb: "ruby", rs: "rust", sh: "bash", shell: "bash", svg: "xml", toml: "ini",
  ts: "typescript", tsx: "typescript", yml: "yaml", zsh: "bash",
};
const COLOURS = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true };

const sources = new WeakMap(); // figure -> its code as it was written: on screen, characters may be made visible
let highlighter = null;

const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      colour(target);
    }
  },
  { scrollMargin: "600px 0px" },
);

/** A figure with `text` as code. */
export function codeBlock(text, language) {
  const copied = () => sources.get(figure).replace(/\n$/, "");
  const figure = el(
    "figure",
    { class: "code", "data-language": language },
    el("figcaption", {}, el("span", {}, language), copyButton("Copy this code", copied)),
    el("pre", { tabindex: "0", role: "region", "aria-label": language ? `Code, ${language}` : "Code" }, el("code")),
  );
  write(figure, text);
  return figure;
}

/** True for what `codeBlock` has made. */
export const isCode = (node) => sources.has(node);

/** Let `figure` show other text, if it is in the same language. */
export function setCode(figure, text, language) {
  if (figure.dataset.language !== language) return false;
  if (sources.get(figure) !== text) write(figure, text);
  return true;
}

/** Add to what `figure` shows. */
export function appendCode(figure, added) {
  const code = figure.querySelector("code");
  if (hasControls(added) || code.childNodes.length !== 1) {
    write(figure, sources.get(figure) + added);
    return;
  }
  code.firstChild.appendData(added); // not compared and not searched again: this comes with each delta
  sources.set(figure, sources.get(figure) + added);
}

/** Colour all code in `node`, or what `node` is, once it is near the screen: nothing will be added to it. */
export function colourLater(node) {
  const figures = isCode(node) ? [node] : node.querySelectorAll("figure.code");
  for (const figure of figures) near.observe(figure);
}

function write(figure, text) {
  const code = figure.querySelector("code");
  const known = sources.get(figure);
  sources.set(figure, text);
  if (known !== undefined && text.startsWith(known)) {
    const added = text.slice(known.length);
    if (!hasControls(added) && code.lastChild?.nodeType === Node.TEXT_NODE) {
      code.lastChild.appendData(added);
      return;
    }
  }
  code.textContent = text;
  showControls(code);
}

async function colour(figure) {
  const named = figure.dataset.language.toLowerCase();
  const language = OTHER_NAMES[named] ?? named;
  const text = sources.get(figure);
  if (!LANGUAGES.has(language) || text.length > LONGEST) return;
  const core = await load(language);
  if (core === null || sources.get(figure) !== text) return;
  const code = figure.querySelector("code");
  code.replaceChildren(DOMPurify.sanitize(core.highlight(text, { language }).value, COLOURS));
  showControls(code);
}

async function load(language) {
  try {
    highlighter ??= (await import("./vendor/highlight/core.js")).default;
    if (!highlighter.getLanguage(language)) {
      highlighter.registerLanguage(language, (await import(`./vendor/highlight/${language}.js`)).default);
    }
    return highlighter;
  } catch (error) {
    if (error instanceof TypeError) return null; // it could not be fetched: the code is readable without
    throw error;
  }
}
