// Writes the declarations of the client's modules: node declare.mjs [compiler] [folder]. They stand in the tree beside the
// modules, so that whoever installs the package from it, or packs it, needs no compiler.

import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
const PACKAGE = dirname(HERE);
const WRITTEN = new Set(["api.d.ts", "options.d.ts"]); // the one by `python -m turnkeeper.reference`, the other by hand
const [compiler = "typescript5", folder = join(PACKAGE, "src")] = process.argv.slice(2);

// From a copy without those of before: a compiler would read them in place of the modules.
const copy = mkdtempSync(join(tmpdir(), "declare-"));
try {
  cpSync(join(PACKAGE, "src"), join(copy, "src"), {
    recursive: true,
    filter: (path) => !path.endsWith(".d.ts") || [...WRITTEN].some((name) => path.endsWith(join("src", name))),
  });
  for (const name of ["package.json", "tsconfig.json"]) cpSync(join(PACKAGE, name), join(copy, name));
  const tsc = join(HERE, "node_modules", compiler, "bin", "tsc");
  const emit = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", folder];
  const { status } = spawnSync(process.execPath, [tsc, "-p", copy, ...emit], { stdio: "inherit" });
  process.exitCode = status ?? 1;
  if (status === 0) console.log(`${readdirSync(folder).filter((name) => name.endsWith(".d.ts")).length} declarations`);
} finally {
  rmSync(copy, { recursive: true, force: true });
}
