/**
 * Mathematics in TeX is no Markdown: `\(a_1\)`, `\[…\]`, `$$…$$`, `\begin{…}…\end{…}`, and `$…$` where it cannot be
 * money. It is shown as it was written: Markdown would take its backslashes, underscores and asterisks for its own.
 */

const BEGIN = /\\begin\{([a-zA-Z]{1,20}\*?)\}/y;
const MOST_LINES = 200; // a formula has fewer, and each line that begins one would look through all of them
const CITATION = /^[\d,;\s–-]*$/; // `\[1\]` is a bracket that must not become a link
const SPACE = /\s/;
const DIGIT = /\d/;

/** @param {object} markdown a `MarkdownIt`, which is told */
export function leaveMaths(markdown) {
  markdown.inline.ruler.before("escape", "maths", inline);
  markdown.block.ruler.before("fence", "maths", block, { alt: ["paragraph", "blockquote", "list"] });
}

/** What ends the mathematics that begins at `at`; nothing if none does. */
function openingAt(text, at) {
  const two = text.slice(at, at + 2);
  if (two === "\\(") return { length: 2, end: "\\)" };
  if (two === "\\[") return { length: 2, end: "\\]" };
  if (two === "$$") return { length: 2, end: "$$" };
  BEGIN.lastIndex = at;
  const [begin, name] = BEGIN.exec(text) ?? [];
  return begin === undefined ? null : { length: begin.length, end: `\\end{${name}}` };
}

function inline(state, silent) {
  const { src, pos, posMax } = state;
  const first = src[pos];
  if (first !== "\\" && first !== "$") return false;
  const opening = openingAt(src, pos);
  const end = opening === null ? endOfDollars(src, pos, posMax) : endAfter(state, pos, opening);
  if (end === null && opening?.end !== "\\)") return false;
  const stop = end ?? pos + 2; // nobody escapes a parenthesis: it is mathematics that has not ended yet
  if (!silent) write(state, src.slice(pos, stop));
  state.pos = stop;
  return true;
}

function endAfter(state, pos, { length, end }) {
  state.mathsWithoutEnd ??= new Set(); // so that a text of openings alone is not searched to its end for each
  if (state.mathsWithoutEnd.has(end)) return null;
  const at = state.src.indexOf(end, pos + length);
  if (at < 0 || at + end.length > state.posMax) {
    if (at < 0) state.mathsWithoutEnd.add(end);
    return null;
  }
  const content = state.src.slice(pos + length, at);
  return end === "\\]" && CITATION.test(content) ? null : at + end.length;
}

/** `$…$` as Pandoc has it: no space inside the signs, no digit after the last; and no sign between. */
function endOfDollars(src, pos, posMax) {
  if (src[pos] !== "$" || SPACE.test(src[pos + 1] ?? " ")) return null;
  let at = src.indexOf("$", pos + 1);
  while (at > 0 && src[at - 1] === "\\") at = src.indexOf("$", at + 1);
  if (at < pos + 2 || at >= posMax || SPACE.test(src[at - 1]) || DIGIT.test(src[at + 1] ?? "")) return null;
  return at + 1;
}

function write(state, text) {
  text.split("\n").forEach((line, number) => {
    if (number > 0) state.push("softbreak", "br", 0);
    if (line === "") return;
    const token = state.push("text_special", "", 0); // no link is looked for in it
    token.content = token.markup = line;
    token.info = "maths";
  });
}

/** Keep the lines of one formula together, whatever Markdown would see in them; a blank line is in none. */
function block(state, startLine, endLine, silent) {
  if (state.sCount[startLine] - state.blkIndent >= 4) return false;
  const begins = state.bMarks[startLine] + state.tShift[startLine];
  const firstLine = state.src.slice(begins, state.eMarks[startLine]);
  const opening = openingAt(firstLine, 0);
  if (opening === null || opening.end === "\\)") return false;
  const last = Math.min(endLine, startLine + MOST_LINES);
  let line = startLine;
  let from = opening.length;
  for (; line < last && !state.isEmpty(line); line++, from = 0) {
    if (line > startLine && state.sCount[line] < state.blkIndent) return false;
    const start = state.bMarks[line] + state.tShift[line];
    if (state.src.slice(start + from, state.eMarks[line]).includes(opening.end)) break;
  }
  const isClosed = line < last && !state.isEmpty(line);
  // What has not ended yet may be mathematics that still grows, but it takes no line from a paragraph.
  if (!isClosed && (silent || line < endLine)) return false;
  if (silent) return true;
  const next = isClosed ? line + 1 : line;
  paragraph(state, startLine, next);
  return true;
}

function paragraph(state, startLine, next) {
  state.push("maths_open", "p", 1).map = [startLine, next];
  const content = state.push("inline", "", 0);
  content.content = state.getLines(startLine, next, state.blkIndent, false).trim();
  content.map = [startLine, next];
  content.children = [];
  state.push("maths_close", "p", -1);
  state.line = next;
}
