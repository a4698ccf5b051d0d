/** What the client decides, without a service: proofs, event streams, retries, and what a reader takes. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { Follower } from "../src/following.js";
import { Broken } from "../src/line.js";
import { Reading } from "../src/reading.js";
import { mayRetry, pauseAfter, retryAfterOf } from "../src/retry.js";
import { sha256 } from "../src/sha256.js";
import { EventStream } from "../src/sse.js";
import { ApiError, Client, ConnectionFailedError, DEFAULT_POLICY, TextMismatchError } from "../src/turnkeeper.js";

const digest = (text) => createHash("sha256").update(text, "utf8").digest("hex");
const event = (type, seq, more = {}) => ({ type, session_id: "s", turn_id: "t", seq, attempt: 1, ts: "", ...more });
const delta = (seq, text, attempt = 1) => event("content_delta", seq, { delta: text, attempt });
const done = (seq, text, attempt = 1) => event("done", seq, { status: "completed", content_sha256: digest(text), attempt });
const follower = () => new Follower("s", new Reading("t"));

test("a digest is that of the platform, whatever the length", () => {
  for (let length = 0; length < 200; length += 1) {
    const text = "aß𝄞".repeat(length).slice(0, length);
    assert.equal(sha256(text.toWellFormed?.() ?? text), digest(text));
  }
});

test("an event stream is cut into events wherever its bytes are cut", () => {
  const wire = ": hello\r\n\r\nid: 1\r\nevent: x\r\ndata: {\"a\":\r\ndata: \"ß𝄞\u2028\"}\r\n\r\ndata:two\n\ndata: three\r\rdata: lost";
  const bytes = new TextEncoder().encode(wire);
  for (let size = 1; size < 20; size += 1) {
    const stream = new EventStream();
    const found = [];
    for (let at = 0; at < bytes.length; at += size) found.push(...stream.feed(bytes.subarray(at, at + size)));
    assert.deepEqual(found, ['{"a":\n"ß𝄞\u2028"}', "two", "three"], `in pieces of ${size}`);
  }
});

test("an event that is larger than any of the service's is refused", () => {
  const stream = new EventStream();
  const piece = new TextEncoder().encode(`data: ${"x".repeat(1 << 20)}\n`);
  assert.throws(() => {
    for (let pieces = 0; pieces < 17; pieces += 1) stream.feed(piece);
  }, /an event has more than/);
});

test("only what cannot be done twice, or was not done, is sent again", () => {
  assert.ok(mayRetry({ code: "rate_limited", status: 429 }, false));
  assert.ok(mayRetry({ code: "request_timeout", status: 408 }, false));
  assert.ok(mayRetry({ code: "", status: 503 }, true));
  assert.ok(!mayRetry({ code: "", status: 503 }, false));
  assert.ok(!mayRetry({ code: "session_busy", status: 409 }, true));
  assert.ok(!mayRetry({ code: "turn_limit_reached", status: 429 }, true));
});

test("the time to wait is taken from the more exact place", () => {
  const now = Date.parse("2026-01-31T09:30:00Z");
  assert.equal(retryAfterOf("7", 1500, now), 1500);
  assert.equal(retryAfterOf("7", undefined, now), 7000);
  assert.equal(retryAfterOf("Sat, 31 Jan 2026 09:30:05 GMT", undefined, now), 5000);
  assert.equal(retryAfterOf("-7", undefined, now), null);
  assert.equal(retryAfterOf(null, "7", now), null);
});

test("pauses grow to a bound and are never shorter than asked for", () => {
  const longest = [1, 2, 3, 20].map((failures) => pauseAfter(DEFAULT_POLICY, failures, () => 1));
  assert.deepEqual(longest, [250, 500, 1000, 8000]);
  assert.equal(pauseAfter(DEFAULT_POLICY, 9, () => 0, 3000), 3000);
});

test("an event that comes twice is shown once, and one behind a hole is asked for again", () => {
  const reader = follower();
  reader.take(event("turn_started", 1));
  assert.equal(reader.take(delta(2, "a")).length, 1);
  assert.equal(reader.take(delta(2, "a")).length, 0);
  assert.throws(() => reader.take(delta(4, "c")), Broken);
  assert.deepEqual([reader.asked().after, reader.reading.text], [2, "a"]);
});

test("text that was lost with its attempt is replaced in one piece", () => {
  const reader = follower();
  for (const each of [event("turn_started", 1), delta(2, "old "), delta(3, "text")]) reader.take(each);
  // The end of attempt 1 was lost: attempt 2 begins under numbers that are known already.
  assert.throws(() => reader.take(delta(3, "new", 2)), Broken);
  assert.deepEqual(reader.asked(), { sessionId: "s", turnId: "t", after: 0, bySnapshot: true });
  const shown = [
    event("turn_started", 1),
    event("turn_started", 2, { attempt: 2 }),
    delta(3, "new", 2),
    delta(4, " one", 2),
    done(5, "new one", 2),
  ].flatMap((each) => reader.take(each));
  assert.deepEqual(shown.map(({ type }) => type), ["snapshot", "content_delta", "done"]);
  assert.deepEqual([shown[0].content, reader.reading.text, reader.mended], ["new", "new one", 1]);
});

test("a text that differs from its hash is fetched again once, and then refused", () => {
  const reader = follower();
  const wrong = [event("turn_started", 1), delta(2, "wrong"), done(3, "right")];
  assert.throws(() => wrong.forEach((each) => reader.take(each)), Broken);
  assert.equal(reader.reading.done, null);
  assert.throws(() => wrong.forEach((each) => reader.take(each)), TextMismatchError);
});

// A service that is played, request by request.

const TURN = { id: "t", session_id: "s", status: "queued" };
const requests = [];
/** @type {Array<{status?: number, headers?: object, body?: object, cuts?: boolean}>} */
let answers = [];
const server = createServer((request, response) => {
  let text = "";
  request.on("data", (piece) => (text += piece));
  request.on("end", () => {
    requests.push({ method: request.method, url: request.url, headers: request.headers, text });
    const { status = 200, headers = {}, body = TURN, cuts = false } = answers.shift() ?? {};
    if (cuts) {
      response.destroy();
      return;
    }
    const type = status < 400 ? "application/json" : "application/problem+json";
    response.writeHead(status, { "Content-Type": type, ...headers }).end(JSON.stringify(body));
  });
});

before(() => new Promise((resolve) => server.listen(0, "127.0.0.1", resolve)));
after(() => {
  server.closeAllConnections?.();
  return new Promise((resolve) => server.close(resolve));
});

function played(...replies) {
  answers = replies;
  requests.length = 0;
  return new Client(`http://127.0.0.1:${server.address().port}/`, "tk_key", {
    policy: { firstPauseMs: 1, longestPauseMs: 2, tries: 4 },
  });
}

const busy = { status: 409, body: { code: "session_busy", title: "Busy", detail: "a turn runs", active_turn_id: "t0" } };

test("a turn is posted again with its key until it is accepted", async () => {
  const client = played(
    { cuts: true },
    { status: 503, body: { code: "unavailable" } },
    { status: 429, headers: { "Retry-After": "0" }, body: { code: "too_many_turns" } },
    { status: 202 },
  );
  assert.equal((await client.createTurn("s", "hello", { metadata: { a: 1 } })).id, "t");
  const keys = new Set(requests.map(({ headers }) => headers["idempotency-key"]));
  assert.deepEqual([requests.length, keys.size], [4, 1]);
  assert.deepEqual(JSON.parse(requests[3].text), { content: "hello", metadata: { a: 1 } });
  await client.createTurn("s", "hello");
  assert.notEqual(requests[4].headers["idempotency-key"], requests[0].headers["idempotency-key"]);
});

test("a refusal is thrown at once with all that it says", async () => {
  const client = played(busy);
  await assert.rejects(client.createTurn("s", "hello"), (error) => {
    assert.ok(error instanceof ApiError);
    assert.deepEqual([error.code, error.status, error.title], ["session_busy", 409, "Busy"]);
    assert.equal(error.members.active_turn_id, "t0");
    return true;
  });
  assert.equal(requests.length, 1);
});

test("without a place to wait a client looks until the turn is over", async () => {
  const refused = { status: 429, headers: { "Retry-After": "0" }, body: { code: "rate_limited", scope: "waits" } };
  const over = { body: { ...TURN, status: "completed" } };
  const client = played(refused, refused, refused, refused, { body: { ...TURN, status: "running" } }, over);
  assert.equal((await client.waitForTurn("t")).status, "completed");
  assert.deepEqual(
    requests.map(({ url }) => url.includes("wait=")),
    [true, true, true, true, false, true],
  );
});

test("a wait that does not fit is not begun", async () => {
  const client = played({ status: 429, headers: { "Retry-After": "3600" }, body: { code: "rate_limited" } });
  await assert.rejects(client.createTurn("s", "hello"), { code: "rate_limited", retryAfterMs: 3_600_000 });
});

test("a session is not made twice when the answer was lost", async () => {
  const client = played({ cuts: true });
  await assert.rejects(client.createSession({ user: "ada" }), ConnectionFailedError);
  assert.equal(requests.length, 1);
});

test("a call ends with the caller's signal", async () => {
  const client = played({ status: 503, headers: { "Retry-After": "30" }, body: { code: "unavailable" } });
  const controller = new AbortController();
  const call = client.getTurn("t", { signal: controller.signal });
  const refusal = assert.rejects(call, /enough/);
  controller.abort(new Error("enough"));
  await refusal;
});

test("a list is walked page by page", async () => {
  const client = played(
    { body: { data: [1, 2], next_cursor: "a b" } },
    { body: { data: [3], next_cursor: null } },
  );
  const found = [];
  for await (const each of client.every((page) => client.listMessages("s", { limit: 2, ...page }))) found.push(each);
  assert.deepEqual(found, [1, 2, 3]);
  assert.equal(requests[1].url, "/v1/sessions/s/messages?limit=2&cursor=a+b");
});

test("what is no id reaches no other path", async () => {
  const client = played();
  await client.getSession("..");
  await client.getSession("a/b?c");
  assert.deepEqual(requests.map(({ url }) => url), ["/v1/sessions/-", "/v1/sessions/a%2Fb%3Fc"]);
});

test("a key or an address that cannot be right is refused before anything is sent", () => {
  assert.throws(() => new Client("http://a.example", "with space"), TypeError);
  assert.throws(() => new Client("http://user:secret@a.example", "k"), TypeError);
  assert.throws(() => new Client("ftp://a.example", "k"), TypeError);
  assert.throws(() => new Client("http://a.example", "k", { via: "key" }), TypeError);
});

test("a page that may not open streams is told so, and does not try for ever", async () => {
  class Refused extends EventTarget {
    readyState = 0;
    constructor() {
      super();
      queueMicrotask(() => {
        this.readyState = 3;
        for (const type of ["error", "close"]) {
          const told = Object.assign(new Event(type), { code: 1006, reason: "" });
          this[`on${type}`]?.(told);
          this.dispatchEvent(told);
        }
      });
    }
    close() {}
    send() {}
  }
  const asked = [];
  const answers = {
    "/v1/sessions/s/turns": [200, { data: [], next_cursor: null }],
    "/v1/tickets": [201, { ticket: "tkt_x", expires_at: "2026-01-31T09:30:00.000Z" }],
    "/v1/stream": [403, { code: "forbidden", detail: "this origin is not in ALLOWED_ORIGINS", title: "Forbidden" }],
  };
  const answer = async (url) => {
    const path = new URL(url).pathname;
    asked.push(path);
    const [status, body] = answers[path];
    const type = status < 400 ? "application/json" : "application/problem+json";
    return new Response(JSON.stringify(body), { status, headers: { "Content-Type": type } });
  };
  const client = new Client("http://127.0.0.1:9", "k", { fetch: answer, openSocket: () => new Refused() });
  await assert.rejects(
    async () => {
      for await (const _ of client.streamSession("s")) break;
    },
    (error) => error instanceof ApiError && error.code === "forbidden" && /ALLOWED_ORIGINS/.test(error.detail),
  );
  assert.deepEqual(asked.filter((path) => !path.includes("sessions")), ["/v1/tickets", "/v1/stream"]);
});
