/** Reads one turn, or a session until so many turns are over, and prints what came: for a test that cuts connections. */

import { client } from "./stack.js";

const { VIA, TURN, SESSION, TURNS } = process.env;
const reader = client({ via: VIA });
const stream = TURN ? reader.streamTurn(TURN) : reader.streamSession(SESSION);
const turns = new Map();
let over = 0;
process.stdout.write("began\n");
for await (const event of stream) {
  const read = turns.get(event.turn_id) ?? { seqs: [], text: "", done: null };
  turns.set(event.turn_id, read);
  if (event.type !== "gap" && event.type !== "snapshot") read.seqs.push(event.seq);
  if (event.type === "content_delta") read.text += event.delta;
  if (event.type === "snapshot") read.text = event.content;
  if (event.type === "done") {
    read.done = event;
    over += 1;
  }
  if (!TURN && over === Number(TURNS)) break;
}
const { connections, mended, text } = stream;
console.log(JSON.stringify({ turns: Object.fromEntries(turns), connections, mended, text }));
