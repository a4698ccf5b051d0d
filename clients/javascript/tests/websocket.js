/** A websocket for the tests, so that they need no package: Node has none of its own before version 22. */

import { randomBytes } from "node:crypto";
import { request } from "node:http";

const [TEXT, CLOSE, PING, PONG] = [1, 8, 9, 10];

/** The part of a browser's WebSocket that the client uses. */
export class TestSocket {
  #listeners = { open: [], message: [], close: [], error: [] };
  #socket = null;
  #rest = Buffer.alloc(0);
  #parts = [];
  #isOver = false;

  constructor(url, protocols, headers = {}) {
    this.readyState = 0;
    const handshake = request(url.replace(/^ws/, "http"), {
      headers: {
        Connection: "Upgrade",
        Upgrade: "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": randomBytes(16).toString("base64"),
        "Sec-WebSocket-Protocol": protocols.join(", "),
        ...headers,
      },
      agent: false,
    });
    handshake.on("upgrade", (_, socket, head) => this.#opened(socket, head));
    handshake.on("response", (response) => {
      response.destroy();
      this.#over(1006);
    });
    handshake.on("error", () => this.#over(1006));
    handshake.end();
    this.abort = () => handshake.destroy();
  }

  addEventListener(type, listener) {
    this.#listeners[type].push(listener);
  }

  send(text) {
    if (this.readyState !== 1) throw new Error("not open");
    this.#write(TEXT, Buffer.from(text));
  }

  close() {
    this.abort();
    this.#socket?.destroy();
    this.#over(1005);
  }

  #say(type, event) {
    for (const listener of this.#listeners[type]) listener(event);
  }

  #opened(socket, head) {
    this.#socket = socket;
    this.readyState = 1;
    socket.on("data", (data) => this.#take(data));
    socket.on("error", () => this.#over(1006));
    socket.on("close", () => this.#over(1006));
    this.#say("open", {});
    this.#take(head);
  }

  #over(code) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.readyState = 3;
    if (code === 1006) this.#say("error", {});
    this.#say("close", { code });
  }

  #take(data) {
    this.#rest = Buffer.concat([this.#rest, data]);
    for (let frame = this.#cut(); frame !== null; frame = this.#cut()) this.#frame(frame);
  }

  #cut() {
    const bytes = this.#rest;
    if (bytes.length < 2) return null;
    let [length, at] = [bytes[1] & 127, 2];
    const extra = { 126: 2, 127: 8 }[length] ?? 0;
    if (bytes.length < at + extra) return null;
    if (extra === 2) length = bytes.readUInt16BE(at);
    if (extra === 8) length = Number(bytes.readBigUInt64BE(at));
    at += extra;
    if (bytes.length < at + length) return null;
    this.#rest = bytes.subarray(at + length);
    return { isLast: (bytes[0] & 128) !== 0, opcode: bytes[0] & 15, payload: bytes.subarray(at, at + length) };
  }

  #frame({ isLast, opcode, payload }) {
    if (opcode === PING) this.#write(PONG, payload);
    if (opcode === CLOSE) {
      this.#over(payload.length >= 2 ? payload.readUInt16BE(0) : 1005);
      this.#socket.destroy();
    }
    if (opcode > TEXT) return;
    this.#parts.push(payload);
    if (!isLast) return;
    const data = Buffer.concat(this.#parts).toString();
    this.#parts = [];
    this.#say("message", { data });
  }

  #write(opcode, payload) {
    const mask = randomBytes(4);
    const length = payload.length < 126 ? Buffer.from([128 | payload.length]) : Buffer.from([254, payload.length >> 8, payload.length & 255]);
    const masked = payload.map((byte, at) => byte ^ mask[at % 4]);
    this.#socket.write(Buffer.concat([Buffer.from([128 | opcode]), length, mask, masked]));
  }
}

export const openSocket = (url, protocols, headers) => new TestSocket(url, protocols, headers);
