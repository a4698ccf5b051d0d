/** The badge that says whether what is on screen is live; a change that lasts is said to screen readers, politely. */

import { announce, el, setText } from "./dom.js";

const LASTS_MS = 1_500; // a connection that is back at once was not missed
const NAMES = { live: "connected", connecting: "connecting…", offline: "offline", waiting: "reconnecting…", ended: "not connected" };
const SAID = { live: "Connected again.", offline: "Offline.", waiting: "Connection lost. Reconnecting.", ended: "Not connected." };

export class ConnectionBadge {
  #state = { name: "connecting" };
  #shown = "connecting";
  #said = "live";
  #timer = null;
  #clock = null;
  #redraw = () => this.#draw();

  /** @param {() => void} onWake the reader wants it tried now */
  constructor(onWake) {
    this.node = el("button", { type: "button", class: "state", on: { click: onWake } });
    this.#draw();
  }

  /** Begin to follow the browser's own opinion, and to count down. */
  open() {
    this.#clock = setInterval(this.#redraw, 1000);
    window.addEventListener("online", this.#redraw);
    window.addEventListener("offline", this.#redraw);
  }

  close() {
    clearInterval(this.#clock);
    clearTimeout(this.#timer);
    window.removeEventListener("online", this.#redraw);
    window.removeEventListener("offline", this.#redraw);
  }

  /** @param {import("./stream.js").State} state */
  update(state) {
    this.#state = state;
    this.#draw();
  }

  #draw(now = Date.now()) {
    const { name, retryAt } = this.#state;
    // A try that fails is still the same loss.
    const isAgain = name === "connecting" && ["waiting", "offline"].includes(this.#shown);
    const isAway = (name === "waiting" || isAgain) && !navigator.onLine;
    const shown = isAway ? "offline" : isAgain ? "waiting" : name;
    const left = shown === "waiting" && name === shown ? Math.ceil((retryAt - now) / 1000) : 0;
    this.node.dataset.state = shown;
    setText(this.node, left > 1 ? `reconnecting in ${left} s` : NAMES[shown]);
    this.node.disabled = name !== "waiting";
    this.node.title = name === "waiting" ? "Try now" : "The live connection";
    if (shown === this.#shown) return;
    this.#shown = shown;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#say(), shown === "live" ? 0 : LASTS_MS);
  }

  #say() {
    if (this.#shown === this.#said || !(this.#shown in SAID)) return;
    this.#said = this.#shown;
    announce(SAID[this.#shown]);
  }
}
