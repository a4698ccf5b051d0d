"""A client that speaks only the wire protocol: written from its description, not from the service.

`Reading` checks what every reader is promised: events numbered without a gap, and in the end the text
whose hash is in `done`. A broken promise raises an `AssertionError` that names it.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
from websockets.sync.client import ClientConnection, connect

LIMIT_SECONDS = 60.0
"""Time limit for anything that should take well under a second; the service is not to blame for a loaded machine."""
SUBPROTOCOL = "turnkeeper.v1"
TERMINAL = {"completed", "stopped", "failed", "expired"}
NUMBERED = {
    "turn_queued",
    "turn_started",
    "message_start",
    "content_delta",
    "reasoning_delta",
    "message_reset",
    "message_end",
    "title_updated",
    "stop_requested",
    "error",
    "done",
}
ENVELOPE = {"type", "session_id", "turn_id", "seq", "attempt", "ts"}
DONE = {
    "status",
    "finish_reason",
    "stop_reason",
    "usage",
    "usage_source",
    "cost_usd",
    "error",
    "content_sha256",
}


def wait_until(is_true: Callable[[], Any], what: str, limit_seconds: float = LIMIT_SECONDS) -> Any:
    """Wait until `is_true` returns something true, and return that."""
    deadline = time.monotonic() + limit_seconds
    while not (found := is_true()):
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.01)
    return found


@dataclass
class Reading:
    """One turn as one reader has it."""

    turn_id: str
    session_id: str
    seq: int = 0
    attempt: int = 0
    text: str = ""
    types: list[str] = field(default_factory=list)
    title: str | None = None
    gap_until: int | None = None
    snapshots: list[dict] = field(default_factory=list)
    resets: int = 0
    done: dict | None = None

    def take(self, event: dict) -> None:
        """Take the next event; raises if it breaks a promise."""
        assert self.done is None, f"{event} came after done"
        assert event["turn_id"] == self.turn_id, event
        if event["type"] == "gap":
            assert event["from"] == self.seq + 1, (event, self.seq)
            self.gap_until = event["to"]
            return
        if event["type"] == "snapshot":
            assert event["seq"] >= max(self.seq, self.gap_until or 0), (event, self.seq, self.gap_until)
            assert {"status", "message_id", "content", "reasoning"} <= event.keys(), event
            self.snapshots.append({**event, "content": len(event["content"]), "came_after_seq": self.seq})
            self.seq, self.attempt, self.text = event["seq"], event["attempt"], event["content"]
            self.gap_until = None
            return
        assert self.gap_until is None, f"{event} came between a gap and its snapshot"
        assert event.keys() >= ENVELOPE, event
        assert event["session_id"] == self.session_id, event
        assert event["type"] in NUMBERED, event
        assert event["seq"] == self.seq + 1, f"{event} came after seq {self.seq}"
        assert event["attempt"] >= self.attempt, event
        self.seq, self.attempt = event["seq"], event["attempt"]
        self.types.append(event["type"])
        match event["type"]:
            case "content_delta":
                assert event["delta"], "an empty delta"
                self.text += event["delta"]
            case "message_reset":
                self.text, self.resets = "", self.resets + 1
            case "title_updated":
                self.title = event["title"]
            case "done":
                assert event.keys() >= DONE, event
                self.done = event

    @property
    def is_whole(self) -> bool:
        """Whether the turn is over and the text is the stored one."""
        return self.done is not None and self.done["content_sha256"] == sha256(self.text)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Api:
    """The HTTP side, over one kept-alive connection, with one key."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self._client = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=70, trust_env=False
        )

    def close(self) -> None:
        self._client.close()

    def call(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request; checks that the response has an id and that an error is problem+json."""
        answer = self._client.request(method, path, **more)
        assert answer.headers["x-request-id"]
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", answer.headers
            problem = answer.json()
            assert {"type", "title", "status", "detail", "code", "request_id"} <= problem.keys()
            assert problem["status"] == answer.status_code
            assert problem["request_id"] == answer.headers["x-request-id"]
        return answer

    def expect(self, status: int, method: str, path: str, **more: Any) -> Any:
        """Send a request whose response must have this status; return its JSON."""
        answer = self.call(method, path, **more)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def session(self, **fields: Any) -> str:
        return self.expect(201, "POST", "/v1/sessions", json=fields)["id"]

    def turn(self, session_id: str, content: str, **fields: Any) -> str:
        body = {"content": content, **fields}
        return self.expect(202, "POST", f"/v1/sessions/{session_id}/turns", json=body)["id"]

    def get_turn(self, turn_id: str) -> dict:
        return self.expect(200, "GET", f"/v1/turns/{turn_id}")

    def final(self, turn_id: str) -> dict:
        """Return the turn once it is over."""
        turn = self.expect(200, "GET", f"/v1/turns/{turn_id}?wait=60")
        assert turn["status"] in TERMINAL, turn
        return turn

    def ask(self, content: str, session_id: str | None = None, **fields: Any) -> dict:
        """Run a turn to its end and return it."""
        return self.final(self.turn(session_id or self.session(user="alice"), content, **fields))

    def stop(self, turn_id: str, **fields: Any) -> httpx.Response:
        return self.call("POST", f"/v1/turns/{turn_id}/stop", json=fields)

    def stopped(self, turn_id: str) -> dict:
        """Stop a turn and return it once it is over; the bench measures how soon that is."""
        answer = self.stop(turn_id, wait_ms=30_000)
        assert answer.status_code in {200, 202}, answer.text
        return answer.json() if answer.status_code == 200 else self.final(turn_id)

    def await_text(self, turn_id: str) -> None:
        """Wait until some text of the answer was shown."""
        wait_until(
            lambda: "content_delta" in {each["type"] for each in self.page(turn_id)["data"]}, "some text"
        )

    def messages(self, session_id: str) -> list[dict]:
        return self.expect(200, "GET", f"/v1/sessions/{session_id}/messages?limit=100")["data"]

    def answer_to(self, turn: dict) -> str:
        """Return the stored text of a turn's answer; empty if none was stored."""
        stored = [each for each in self.messages(turn["session_id"]) if each["id"] == turn["message_id"]]
        return stored[0]["content"] if stored else ""

    def page(self, turn_id: str, after: int = 0) -> dict:
        return self.expect(200, "GET", f"/v1/turns/{turn_id}/events?after={after}")

    def read(self, turn_id: str, after: int = 0) -> Reading:
        """Read a turn over SSE to its end, from a cursor."""
        reading = Reading(turn_id, self.get_turn(turn_id)["session_id"], seq=after)
        with self.stream("GET", f"/v1/turns/{turn_id}/events?after={after}") as events:
            for event in events:
                reading.take(event)
        assert reading.done is not None, f"the stream ended without done: {reading}"
        return reading

    @contextmanager
    def stream(
        self, method: str, path: str, headers: dict | None = None, **more: Any
    ) -> Iterator[Iterator[dict]]:
        """Open an event stream and yield its events; `id:` and `event:` must match `data:`."""
        asked = {"Accept": "text/event-stream", **(headers or {})}
        with self._client.stream(method, path, headers=asked, **more) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-cache, no-transform"
            assert answer.headers["x-accel-buffering"] == "no"
            yield (envelope_of(fields) for fields in sse_fields(answer.iter_raw()))

    def server_of(self, pids: list[int]) -> int:
        """Return which of the processes is serving this client's connection."""
        with self._client.stream("GET", "/healthz") as answer:
            port = answer.extensions["network_stream"].get_extra_info("client_addr")[1]
            family = [
                process
                for pid in pids
                for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
            ]
            owners = [
                process.pid
                for process in family
                if any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp"))
            ]
            answer.read()
        assert len(owners) == 1, owners
        return owners[0]


def sse_fields(chunks: Iterator[bytes]) -> Iterator[dict[str, str]]:
    """Split an event stream into events by the WHATWG's rules; comments and a lone `retry` are not events."""
    fields: dict[str, str] = {}
    for line in lines_of(chunks):
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                fields["data"] = f"{fields['data']}\n{value}" if "data" in fields else value
            elif name:
                fields[name] = value
        else:
            if "data" in fields:
                yield fields
            fields = {}


def lines_of(chunks: Iterator[bytes]) -> Iterator[str]:
    """Split bytes into lines at LF and CRLF."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode()


def envelope_of(fields: dict[str, str]) -> dict:
    event = json.loads(fields["data"])
    assert fields["event"] == event["type"], fields
    if event["type"] in NUMBERED:
        assert fields["id"] == str(event["seq"]), fields
    return event


class Socket:
    """The websocket side, in one thread, for tests that need few events."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._numbers = itertools.count()

    def send(self, op: str, **fields: Any) -> None:
        self.connection.send(json.dumps({"op": op, **fields}))

    def receive(self, limit_seconds: float = LIMIT_SECONDS) -> dict:
        """Return the next message that is not a heartbeat."""
        deadline = time.monotonic() + limit_seconds
        while True:
            message = self.connection.recv(timeout=max(0.001, deadline - time.monotonic()))
            assert isinstance(message, str), "a binary frame"
            event = json.loads(message)
            if event["type"] != "ping":
                return event

    def subscribe(self, session_id: str, **fields: Any) -> tuple[dict, list[dict]]:
        """Subscribe; return the confirmation and the replayed events."""
        self.send("subscribe", session_id=session_id, **fields)
        subscribed = self.receive()
        assert subscribed["type"] == "subscribed", subscribed
        assert subscribed["session_id"] == session_id
        assert {"turn_id", "last_seq"} <= subscribed.keys()
        replayed = []
        while (event := self.receive())["type"] != "caught_up":
            replayed.append(event)
        return subscribed, replayed

    def until(self, is_wanted: Callable[[dict], bool], reading: Reading | None = None) -> dict:
        """Receive events until a wanted one, and return it."""
        while True:
            event = self.receive()
            if reading is not None:
                reading.take(event)
            if is_wanted(event):
                return event

    def until_done(self, reading: Reading) -> Reading:
        """Read on until the turn's `done`."""
        while reading.done is None:
            reading.take(self.receive())
        return reading


@contextmanager
def websocket(url: str, key: str | None, *subprotocols: str, **more: Any) -> Iterator[Socket]:
    """Open a websocket; `key` is None for one with a ticket."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with connect(
        url.replace("http", "ws", 1) + "/v1/stream",
        additional_headers={**headers, **more.pop("headers", {})},
        subprotocols=subprotocols or (SUBPROTOCOL,),
        open_timeout=LIMIT_SECONDS,
        proxy=None,
        **more,
    ) as connection:
        assert connection.subprotocol == SUBPROTOCOL
        yield Socket(connection)


class Oracle:
    """The scripted provider's own record of what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def records(self, marker: str) -> list[dict]:
        """Return the requests whose messages contain `marker`, oldest first."""
        found, after = [], 0
        while True:
            page = self._client.get("/_log", params={"contains": marker, "after": after}).json()
            found += page["data"]
            if page["last_id"] == after:
                return found
            after = page["last_id"]

    def record(self, marker: str, has: str = "received_ns") -> dict:
        """Wait until the newest such request has the field `has`, and return it."""
        return wait_until(
            lambda: next((each for each in self.records(marker)[-1:] if each[has] is not None), None),
            f"the provider's {has} for {marker}",
        )

    @contextmanager
    def scripted(self, **script: Any) -> Iterator[None]:
        """Make the provider follow this script for messages without directives."""
        self._client.put("/_script", content=json.dumps(script)).raise_for_status()
        try:
            yield
        finally:
            self._client.delete("/_script").raise_for_status()
