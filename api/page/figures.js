/** Where the figures of a ledger row come from, in a word, with what the provider said or why it was corrected. */

import { el } from "./dom.js";
import { tokenDetails } from "./format.js";

/** @param {object} row a row of the ledger */
export const figuresOf = ({ usage_source: source, kind, reason, reported }) => {
  if (kind === "correction") return el("span", { title: reason ?? "" }, "correction");
  return reported ? el("span", { title: `The provider said: ${tokenDetails(reported)}` }, source) : source;
};
