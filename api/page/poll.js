/** Asks again every few seconds, while the page is seen and the reader wants it, one question at a time. */

import { Problem } from "./admin-api.js";

const SLOWEST = 8; // times the interval, while the service cannot be reached

export class Poll {
  #run;
  #everyMs;
  #onState;
  #timer = null;
  #isWanted = true;
  #isClosed = false;
  #isAsking = false;
  #failures = 0;
  #seen = () => this.#look();

  /**
   * @param {() => Promise<boolean|void>} run asks and shows; false: there is nothing more to ask
   * @param {number} everyMs
   * @param {(state: {name: "live"|"paused"|"failing"|"ended", problem?: Problem}) => void} onState
   */
  constructor(run, everyMs, onState = () => undefined) {
    this.#run = run;
    this.#everyMs = everyMs;
    this.#onState = onState;
  }

  start() {
    document.addEventListener("visibilitychange", this.#seen);
    this.#look();
  }

  /** Ask at once, and again from then on. */
  async refresh() {
    if (this.#isAsking || this.#isClosed) return;
    clearTimeout(this.#timer);
    this.#isAsking = true;
    try {
      const goesOn = (await this.#run()) !== false;
      this.#failures = 0;
      if (!goesOn) this.close();
      if (!this.#isClosed || !goesOn) this.#tell(goesOn ? "live" : "ended");
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#failures += 1;
      if (!this.#isClosed) this.#tell("failing", problem);
    } finally {
      this.#isAsking = false;
      this.#plan();
    }
  }

  pause() {
    this.#isWanted = false;
    clearTimeout(this.#timer);
    this.#tell("paused");
  }

  resume() {
    this.#isWanted = true;
    this.#look();
  }

  close() {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#seen);
  }

  #look() {
    if (this.#mayAsk()) this.refresh();
    else clearTimeout(this.#timer);
  }

  #plan() {
    clearTimeout(this.#timer);
    const slower = Math.min(SLOWEST, 2 ** this.#failures);
    if (this.#mayAsk()) this.#timer = setTimeout(() => this.refresh(), this.#everyMs * slower);
  }

  #mayAsk() {
    return this.#isWanted && !this.#isClosed && document.visibilityState === "visible";
  }

  #tell(name, problem) {
    this.#onState({ name: name === "live" && !this.#isWanted ? "paused" : name, problem });
  }
}
