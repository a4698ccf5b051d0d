/** Links to the administrators' pages, which only an administrator sees. */

import { Problem, administration } from "./admin-api.js";
import { el } from "./dom.js";
import { credentials } from "./storage.js";

/** Make the links of whoever is signed in; they show once the service has said that the key may follow them. */
export function places() {
  const node = el(
    "nav",
    { class: "places", "aria-label": "For administrators", hidden: true },
    el("a", { href: "/usage" }, "Usage"),
    el("a", { href: "/operations" }, "Operations"),
  );
  const key = credentials.load();
  if (key !== null) show(node, key);
  return node;
}

async function show(node, key) {
  try {
    await administration(key, () => undefined).budget();
    node.hidden = false;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem; // nobody is told: the links are a convenience
  }
}
