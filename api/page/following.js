/** Keeps the end of a growing text in sight while the reader is there, and leaves alone whoever has scrolled up. */

import { button } from "./dom.js";

const NEAR_PX = 80; // closer than this to the end counts as reading along

export class Following {
  #scroll;
  #content;
  #height = 0;
  #follows = true;
  #resized;

  /**
   * @param {HTMLElement} scroll what scrolls
   * @param {HTMLElement} content what grows in it
   */
  constructor(scroll, content) {
    this.#scroll = scroll;
    this.#content = content;
    this.button = button("New text below", "down", () => this.toEnd(), { class: "jump", hidden: true });
    scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#resized = new ResizeObserver(() => this.#grown());
  }

  open() {
    this.#resized.observe(this.#scroll); // a notice or a longer message took room
    this.#resized.observe(this.#content);
  }

  close() {
    this.#resized.disconnect();
  }

  /** Go to the end and stay there. */
  toEnd() {
    this.#follows = true;
    this.button.hidden = true;
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  #grown() {
    const isLonger = this.#content.offsetHeight > this.#height;
    this.#height = this.#content.offsetHeight;
    if (this.#follows) this.toEnd();
    else if (isLonger && this.#content.querySelector(".is-streaming")) this.#say("New text below");
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    if (this.#follows) this.button.hidden = true;
    else if (this.button.hidden) this.#say("To the end");
  }

  #say(words) {
    this.button.hidden = false;
    this.button.lastChild.textContent = words;
  }
}
