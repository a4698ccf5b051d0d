/** The client against a running service. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, TimeLimitError, TurnEndedError } from "../src/turnkeeper.js";
import { URL_OF_SERVICE, client } from "./stack.js";
import { openSocket } from "./websocket.js";

const ENDLESS = "[[tokens=3000 rate=20]] hello";
const talk = client();
const session = await talk.createSession({ user: "alice" });
const sessionId = session.id;

const stored = async (turnId, from = sessionId) => {
  for await (const message of talk.every((page) => talk.listMessages(from, page))) {
    if (message.turn_id === turnId && message.role === "assistant") return message.content;
  }
  return "";
};

test("one line asks and gets the finished answer", async () => {
  const answer = await talk.ask("[[tokens=40]] What is a turn?", { user: "alice" });
  assert.equal(answer.text, await stored(answer.turn.id, answer.sessionId));
  assert.equal(answer.turn.status, "completed");
  assert.ok(answer.turn.usage.output_tokens > 0 && Number(answer.turn.cost_usd) > 0);
});

for (const via of ["auto", "ticket", "key", "sse"]) {
  test(`an answer comes in pieces that make its text, via ${via}`, async () => {
    // They come while the answer is made, which is not over before it is stopped.
    const stream = client({ via }).askStream(ENDLESS, { sessionId });
    let shown = "";
    let pieces = 0;
    for await (const { text, replaces } of stream) {
      shown = replaces ? text : shown + text;
      pieces += 1;
      if (pieces === 6) await talk.stopTurn(stream.turnId);
    }
    assert.ok(pieces >= 6);
    assert.equal(shown, stream.text);
    assert.equal(shown, await stored(stream.turnId));
  });

  // Why a handshake with a key in it was refused is not told to scripts.
  if (via === "key") continue;
  test(`a wrong key is said at once, via ${via}`, async () => {
    const stranger = new Client(URL_OF_SERVICE, `tk_${"0".repeat(40)}`, { via, openSocket });
    const turn = { id: sessionId, session_id: sessionId };
    await assert.rejects(stranger.streamTurn(turn).untilDone(), { code: "unauthorized" });
  });
}

test("text of an attempt that broke off is replaced", async () => {
  const stream = talk.askStream("[[tokens=40 rate=200 cut=10 fail_times=1]] hello", { sessionId });
  let shown = "";
  let resets = 0;
  for await (const { text, replaces } of stream) {
    shown = replaces ? text : shown + text;
    resets += replaces;
  }
  assert.ok(resets >= 1 && stream.attempt >= 2);
  assert.equal(shown, await stored(stream.turnId));
});

test("a turn that fails is an error that has what was kept", async () => {
  await assert.rejects(talk.ask("[[status=400]] no", { sessionId }), (error) => {
    assert.ok(error instanceof TurnEndedError);
    assert.equal(error.answer.turn.error.code, "provider_rejected");
    return true;
  });
});

test("a stop ends the stream with the text that was kept", async () => {
  const stream = talk.askStream(ENDLESS, { sessionId });
  await stream.next();
  await talk.stopTurn(stream.turnId, { waitMs: 10_000 });
  const stopped = await talk.waitForTurn(stream.turnId);
  assert.deepEqual([stopped.status, stopped.stop_reason], ["stopped", "user"]);
  await stream.untilDone();
  assert.equal(stream.text, await stored(stream.turnId));
});

test("a busy session says which turn runs, and a queued one waits for it", async () => {
  const turn = await talk.createTurn(sessionId, ENDLESS);
  await assert.rejects(talk.createTurn(sessionId, "second"), (error) => {
    assert.deepEqual([error.code, error.members.active_turn_id], ["session_busy", turn.id]);
    return true;
  });
  const second = await talk.createTurn(sessionId, "[[tokens=3]] second", { multitask_strategy: "enqueue" });
  await talk.stopTurn(turn.id, { waitMs: 10_000 });
  assert.equal((await talk.waitForTurn(second.id)).status, "completed");
});

test("a key of one's own makes one turn and refuses another body", async () => {
  const idempotencyKey = `key-${sessionId}`;
  const first = await talk.createTurn(sessionId, "[[tokens=3]] a", { idempotencyKey });
  assert.equal((await talk.createTurn(sessionId, "[[tokens=3]] a", { idempotencyKey })).id, first.id);
  await assert.rejects(talk.createTurn(sessionId, "other", { idempotencyKey }), { code: "idempotency_conflict" });
  await talk.waitForTurn(first.id);
});

test("a session's stream has every turn, in order, until it is left", async () => {
  const other = (await talk.createSession({ user: "alice" })).id;
  // Stopped when it is watched, for one that was over before would not be in the stream.
  const first = await talk.createTurn(other, ENDLESS);
  const second = await talk.createTurn(other, "[[tokens=5]] two", { multitask_strategy: "enqueue" });
  const states = [];
  const ends = [];
  const seqs = { [first.id]: [], [second.id]: [] };
  for await (const event of talk.streamSession(other, { onState: ({ name }) => states.push(name) })) {
    seqs[event.turn_id].push(event.seq);
    if (event.turn_id === first.id && event.type === "content_delta") await talk.stopTurn(first.id);
    if (event.type === "done") ends.push(event.turn_id);
    if (ends.length === 2) break;
  }
  assert.deepEqual(ends, [first.id, second.id]);
  for (const list of Object.values(seqs)) assert.deepEqual(list, list.map((_, at) => at + 1));
  assert.equal(states[0], "connecting");
});

test("a stream that waits ends when it is closed, and a limit ends it but not the turn", async () => {
  const stream = talk.streamSession(sessionId);
  const waiting = stream.next();
  stream.close();
  assert.deepEqual(await waiting, { done: true, value: undefined });
  const turn = await talk.createTurn(sessionId, ENDLESS);
  await assert.rejects(talk.streamTurn(turn, { limitMs: 300 }).untilDone(), TimeLimitError);
  const controller = new AbortController();
  const reading = talk.streamTurn(turn, { signal: controller.signal }).untilDone();
  controller.abort(new Error("enough"));
  await assert.rejects(reading, /enough/);
  assert.equal((await talk.getTurn(turn.id)).finished_at, null);
  await talk.stopTurn(turn.id);
  await talk.waitForTurn(turn.id);
});

test("a stream is read on from where another one left it", async () => {
  const turn = await talk.createTurn(sessionId, ENDLESS);
  const first = talk.streamTurn(turn);
  for await (const _ of first) if (first.seq === 10) break;
  await talk.stopTurn(turn.id);
  const rest = talk.streamTurn(turn.id, { after: first.seq, text: first.text });
  await rest.untilDone();
  assert.equal(rest.text, await stored(turn.id));
});

test("sessions are changed, found, flagged, listed and closed", async () => {
  const word = `word${Date.now()}${Math.floor(Math.random() * 1e9)}`;
  const { id } = await talk.createSession({ user: "alice", title: `About ${word}` });
  assert.equal((await talk.searchSessions(word)).data[0].id, id);
  assert.deepEqual((await talk.updateSession(id, { metadata: { a: 2 } })).metadata, { a: 2 });
  assert.ok((await talk.flagSession(id, { reason: "look" })).flagged);
  assert.equal((await talk.listSessions({ user: "alice", limit: 1 })).data.length, 1);
  assert.equal(await talk.closeSession(id), null);
  assert.equal((await talk.getSession(id)).status, "closed");
  await assert.rejects(talk.getUsage(), { code: "forbidden" });
  assert.ok((await talk.getReadiness()).checks.postgres.ok);
});
