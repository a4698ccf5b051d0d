"""A network for the core's steps that is none: a service with one turn's log, and everything that can go wrong."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from turnkeeper_client.exchange import Means
from turnkeeper_client.retry import RetryPolicy
from turnkeeper_client.steps import (
    Closed,
    Emit,
    Finished,
    Hang,
    Hear,
    Heard,
    Lost,
    Open,
    Opened,
    Pause,
    Received,
    Reply,
    Say,
    Send,
    Silence,
    Step,
    Steps,
    Wire,
    advance,
)

SESSION = "019a0000-0000-7000-8000-000000000001"
TURN = "019a0000-0000-7000-8000-000000000002"
USAGE = {"input_tokens": 1, "output_tokens": 2}
MOST_STEPS = 20_000


@dataclass
class Clock:
    """Time that only passes when somebody waits."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def means(clock: Clock | None = None, **policy: Any) -> Means:
    return Means(RetryPolicy(**policy), clock or Clock(), random.Random(1))


def event(kind: str, seq: int, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "session_id": SESSION,
        "turn_id": fields.pop("turn_id", TURN),
        "seq": seq,
        "attempt": attempt,
        "ts": "2026-01-31T09:30:00.000Z",
        **fields,
    }


def done(seq: int, text: str, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    ended = {
        "status": "completed",
        "finish_reason": "stop",
        "stop_reason": None,
        "usage": USAGE,
        "usage_source": "provider",
        "cost_usd": "0.001230",
        "error": None,
        "content_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return event("done", seq, attempt, **{**ended, **fields})


def log_of(deltas: list[str], turn_id: str = TURN) -> list[dict[str, Any]]:
    """A turn of one attempt from its acceptance to `done`."""
    said = [event("turn_queued", 1, 0, turn_id=turn_id)]
    said.append(event("turn_started", 2, provider="scripted", model="scripted", turn_id=turn_id))
    said.append(event("message_start", 3, message_id="m", turn_id=turn_id))
    said += [
        event("content_delta", 4 + number, delta=delta, turn_id=turn_id)
        for number, delta in enumerate(deltas)
    ]
    said.append(event("message_end", len(said) + 1, usage=USAGE, finish_reason="stop", turn_id=turn_id))
    said.append(done(len(said) + 1, "".join(deltas), turn_id=turn_id))
    return said


def text_of(said: list[dict[str, Any]]) -> str:
    text = ""
    for each in said:
        text = "" if each["type"] == "message_reset" else text + each.get("delta", "")
    return text


@dataclass
class Service:
    """One turn behind a network that does what `fault` says before each thing that is heard.

    `fault(frame)` gets the next frame and returns the frames that are heard in its place, or a reply.
    """

    log: list[dict[str, Any]]
    fault: Callable[[dict[str, Any]], list[dict[str, Any]] | Reply] = lambda frame: [frame]
    refuse: Callable[[Open], Reply] = lambda asked: None
    clock: Clock = field(default_factory=Clock)
    asked: list[dict[str, Any]] = field(default_factory=list)
    opened: list[Open] = field(default_factory=list)
    sent: list[Send] = field(default_factory=list)
    answers: dict[str, Callable[[Send], Reply]] = field(default_factory=dict)
    emitted: list[Any] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    is_open: bool = False
    _waiting: list[dict[str, Any]] = field(default_factory=list)
    _unjudged: list[dict[str, Any]] = field(default_factory=list)
    _wire: Wire = Wire.WEBSOCKET

    def run(self, steps: Steps[Any], most_items: int | None = None) -> Any:
        """Do all steps, or those until so many items came; return what the steps return."""
        reply: Reply = None
        for _ in range(MOST_STEPS):
            step = advance(steps, reply)
            if isinstance(step, Finished):
                return step.value
            reply = self.perform(step)
            if most_items is not None and len(self.emitted) >= most_items:
                steps.close()
                return None
        raise AssertionError("the steps do not end")

    def perform(self, step: Step) -> Reply:
        match step:
            case Open():
                return self._open(step)
            case Say(text):
                self._subscribe(json.loads(text))
            case Hear(limit_seconds):
                return self._hear(limit_seconds)
            case Pause(seconds):
                self.pauses.append(seconds)
                self.clock.now += seconds
            case Hang():
                self.is_open = False
            case Emit(item):
                self.emitted.append(item)
            case Send():
                self.sent.append(step)
                return self.answers[step.path](step)
        return None

    def _open(self, step: Open) -> Reply:
        self.opened.append(step)
        refused = self.refuse(step)
        if refused is not None:
            self.clock.now += 0.01
            return refused
        self.is_open, self._wire = True, step.wire
        self._waiting, self._unjudged = [], []
        if step.wire is Wire.EVENTS:
            self._waiting = self._after(int(step.query["after"]))
        return Opened()

    def _subscribe(self, asked: dict[str, Any]) -> None:
        assert asked.pop("op") == "subscribe"
        self.asked.append(asked)
        named = asked.get("turn_id")
        rest = self._after(asked.get("after", 0), named)
        if asked.get("replay") == "snapshot":
            rest = [self.snapshot(), *rest[-1:]]
        begun = {"type": "subscribed", "session_id": SESSION, "turn_id": named, "last_seq": 0}
        self._waiting = [begun, *rest, {"type": "caught_up", "session_id": SESSION}]

    def snapshot(self) -> dict[str, Any]:
        """The text of the turn that is over, just before its `done`."""
        last = self.log[-1]
        said = {"status": last["status"], "message_id": "m", "content": text_of(self.log), "reasoning": ""}
        return event("snapshot", last["seq"] - 1, last["attempt"], **said)

    def _after(self, after: int, turn_id: str | None = None) -> list[dict[str, Any]]:
        return [each for each in self.log if each["seq"] > after and turn_id in {None, each["turn_id"]}]

    def _hear(self, limit_seconds: float) -> Reply:
        assert self.is_open
        if self._unjudged:
            return Heard(json.dumps(self._unjudged.pop(0)))
        if not self._waiting:
            self.clock.now += min(limit_seconds, 40)
            return Closed() if self._wire is Wire.EVENTS else Silence()
        heard = self.fault(self._waiting.pop(0))
        if not isinstance(heard, list):
            return heard
        if not heard:
            return self._hear(limit_seconds)
        if self._wire is Wire.EVENTS:
            return Heard(
                b"".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in heard)
            )
        first, *rest = heard
        self._unjudged = rest
        return Heard(json.dumps(first))


def problem(status: int, code: str, headers: dict[str, str] | None = None, **members: Any) -> Received:
    body = {
        "type": f"urn:turnkeeper:error:{code}",
        "title": code,
        "status": status,
        "detail": "no",
        "code": code,
    }
    names = {"content-type": "application/problem+json", "x-request-id": "r-1", **(headers or {})}
    return Received(status, names, json.dumps({**body, **members}).encode())


def answer(value: Any, status: int = 200) -> Received:
    return Received(status, {"content-type": "application/json"}, json.dumps(value).encode())


LOST = Lost("cut")
