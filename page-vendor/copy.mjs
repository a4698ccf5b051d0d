/**
 * Copies what the page has of others from `node_modules` to `api/page/vendor`, and axe to the tests: the published
 * files, byte for byte, with their licences and a list that says what each is. `npm ci` has proven the packages by
 * the hashes in `package-lock.json`.
 */

import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const HERE = import.meta.dirname;
const PAGE = join(HERE, "..", "api", "page", "vendor");
const TESTS = join(HERE, "..", "tests", "browser", "vendor");
const HIGHLIGHT = "@highlightjs/cdn-assets";
const LANGUAGES = [
  "bash", "c", "cpp", "csharp", "css", "diff", "dockerfile", "go", "ini", "java", "javascript", "json", "kotlin",
  "markdown", "php", "python", "ruby", "rust", "sql", "typescript", "xml", "yaml",
];

/** [package, its file, our name] */
const PAGE_FILES = [
  ["markdown-it", "dist/browser/markdown-it.esm.min.mjs", "markdown-it.js"],
  ["dompurify", "dist/purify.es.mjs", "purify.js"],
  [HIGHLIGHT, "es/core.min.js", "highlight/core.js"],
  ...LANGUAGES.map((name) => [HIGHLIGHT, `es/languages/${name}.min.js`, `highlight/${name}.js`]),
];
const TEST_FILES = [["axe-core", "axe.min.js", "axe.js"]];

/** Packages whose text is in a file above, with where their licence stands. */
const PAGE_LICENCES = {
  "markdown-it": ["LICENSE"],
  "entities": ["LICENSE"],
  "linkify-it": ["LICENSE"],
  "mdurl": ["LICENSE"],
  "punycode.js": ["LICENSE-MIT.txt"],
  "uc.micro": ["LICENSE.txt"],
  "dompurify": ["LICENSE"],
  [HIGHLIGHT]: ["LICENSE"],
};
const TEST_LICENCES = { "axe-core": ["LICENSE", "LICENSE-3RD-PARTY.txt"] };

const inPackage = (name, file) => join(HERE, "node_modules", name, file);
const lock = JSON.parse(readFileSync(join(HERE, "package-lock.json"), "utf8"));
const locked = (name) => lock.packages[`node_modules/${name}`];

function copyAll(files, licences, folder) {
  rmSync(folder, { recursive: true, force: true });
  const list = files.map(([name, source, target]) => {
    const to = join(folder, target);
    mkdirSync(join(to, ".."), { recursive: true });
    cpSync(inPackage(name, source), to);
    const sha256 = createHash("sha256").update(readFileSync(to)).digest("hex");
    return { file: target, package: name, version: locked(name).version, source, sha256 };
  });
  const packages = Object.entries(licences).map(([name, names]) => {
    const { version, license, integrity } = locked(name);
    const text = names.map((file) => readFileSync(inPackage(name, file), "utf8").trim()).join("\n\n");
    return { name, version, license, integrity, text };
  });
  const facts = packages.map(({ text, ...rest }) => rest);
  writeFileSync(join(folder, "MANIFEST.json"), `${JSON.stringify({ files: list, packages: facts }, null, 2)}\n`);
  const texts = packages.map(({ name, version, license, text }) => `${name} ${version} (${license})\n\n${text}\n`);
  writeFileSync(join(folder, "LICENSES.txt"), texts.join(`\n${"-".repeat(80)}\n\n`));
}

copyAll(PAGE_FILES, PAGE_LICENCES, PAGE);
copyAll(TEST_FILES, TEST_LICENCES, TESTS);
