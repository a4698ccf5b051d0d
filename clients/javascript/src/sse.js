/** Server-sent events (WHATWG HTML section 9.2), parsed from bytes as they arrive. */

import { ProtocolError } from "./errors.js";

export const MOST_CHARACTERS = 16 * 1024 * 1024; // the most of one event: a snapshot contains a whole answer

/** Splits bytes into the data of events; comments, ids and names are not needed, since the data repeats them. */
export class EventStream {
  #decoder = new TextDecoder(); // removes a byte order mark, as the standard requires
  #rest = "";
  #endsWithCr = false;
  /** @type {string[]} */
  #data = [];
  #size = 0;

  /**
   * Return the data of the events that a piece completes.
   * @param {Uint8Array} piece
   * @returns {string[]}
   */
  feed(piece) {
    let text = this.#decoder.decode(piece, { stream: true });
    if (text === "") return []; // must not forget a CR before it
    if (this.#endsWithCr && text.startsWith("\n")) text = text.slice(1);
    this.#endsWithCr = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() ?? "";
    this.#bound(this.#rest.length);
    return lines.flatMap((line) => this.#take(line));
  }

  /**
   * @param {string} line
   * @returns {string[]}
   */
  #take(line) {
    if (line === "") {
      const data = this.#data;
      this.#data = [];
      this.#size = 0;
      return data.length === 0 ? [] : [data.join("\n")];
    }
    const [, name, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? [];
    if (name === "data") {
      this.#data.push(value ?? "");
      this.#size += line.length;
      this.#bound(0);
    }
    return [];
  }

  /** @param {number} more */
  #bound(more) {
    if (this.#size + more > MOST_CHARACTERS) throw new ProtocolError(`an event has more than ${MOST_CHARACTERS} characters`);
  }
}
