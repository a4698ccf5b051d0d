/** A problem on screen: what happened, in words, and a way to be rid of it. */

import { announce, button, el } from "./dom.js";
import { explain } from "./words.js";

export class Notice {
  constructor() {
    this.node = el("div", { class: "notice", hidden: true });
  }

  /**
   * Show a Problem.
   * @param {import("./api.js").Problem} problem
   * @param {{name: string, run: () => void}} [remedy] what the user can do at once
   */
  show(problem, remedy) {
    const { title, detail } = explain(problem);
    this.node.replaceChildren(
      el("p", {}, el("strong", {}, title), " ", el("span", {}, detail)),
      remedy ? button(remedy.name, null, () => { this.clear(); remedy.run(); }, { class: "link" }) : "",
      button("Dismiss", "close", () => this.clear(), { quiet: true }),
    );
    this.node.dataset.code = problem.code;
    this.node.hidden = false;
    announce(`${title} ${detail}`);
  }

  clear() {
    this.node.hidden = true;
    this.node.replaceChildren();
  }
}
