/** Links to the administrators' pages, which only an administrator sees. */

import { el } from "./dom.js";

/**
 * Make the links; they show once the service has told the budget, as it does to administrators alone.
 * @param {import("./budget.js").BudgetView} budget
 */
export function places(budget) {
  const node = el(
    "nav",
    { class: "places", "aria-label": "For administrators", hidden: true },
    el("a", { href: "/usage" }, "Usage"),
    el("a", { href: "/operations" }, "Operations"),
  );
  budget.known.then(() => {
    node.hidden = false;
  });
  return node;
}
