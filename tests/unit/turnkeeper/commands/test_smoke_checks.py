"""What the smoke test accepts, and what it does not."""

import hashlib

import pytest
from turnkeeper_client import read_event

from turnkeeper.commands.chat import closing_line, printable
from turnkeeper.commands.smoke import Response, checks_of, read_events

USAGE = {"input_tokens": 9, "output_tokens": 2}


def turn(text: str = "hello", **done) -> list[dict]:
    """The events of a good turn."""
    events = [
        {"type": "turn_queued"},
        {"type": "turn_started", "provider": "scripted", "model": "scripted"},
        {"type": "message_start", "message_id": "m"},
        {"type": "content_delta", "delta": text},
        {"type": "message_end", "usage": USAGE, "finish_reason": "stop"},
        {
            "type": "done",
            "status": "completed",
            "usage_source": "provider",
            "content_sha256": hashlib.sha256(text.encode()).hexdigest(),
            **done,
        },
    ]
    return [{**event, "seq": seq} for seq, event in enumerate(events, 1)]


def failures(events: list[dict]) -> list[str]:
    answer = Response()
    for event in events:
        answer.take(event, 0.5)
    return [check.promise for check in checks_of(answer) if not check.passed]


def without(kind: str) -> list[dict]:
    kept = [event for event in turn() if event["type"] != kind]
    return [{**event, "seq": seq} for seq, event in enumerate(kept, 1)]


def test_a_good_turn_passes():
    assert failures(turn()) == []


@pytest.mark.parametrize(
    ("events", "broken"),
    [
        ([], "events are numbered without a hole"),
        ([event for event in turn() if event["seq"] != 3], "events are numbered without a hole"),
        (without("turn_started"), "a worker took the turn"),
        (without("content_delta"), "the answer was streamed"),
        (without("message_end"), "the provider reported usage"),
        (turn(usage_source="estimated"), "the provider reported usage"),
        (turn(usage_source="partial"), "the provider reported usage"),
        (turn(usage_source="disputed"), "the provider reported usage"),
        (without("done"), "one `done`, and it came last"),
        ([*turn(), {"type": "done", "seq": 7}], "one `done`, and it came last"),
        (turn(status="failed", error={"code": "provider_timeout"}), "the turn was completed"),
        (turn(content_sha256="0"), "the text is whole (SHA-256)"),
    ],
)
def test_a_broken_promise_is_named(events: list[dict], broken: str):
    assert broken in failures(events)


def test_text_of_a_void_attempt_does_not_count():
    events = turn()
    events[3:3] = [
        {"type": "content_delta", "delta": "void"},
        {"type": "message_reset", "reason": "worker_lost"},
    ]
    assert failures([{**event, "seq": seq} for seq, event in enumerate(events, 1)]) == []


def test_events_are_read_from_a_stream_with_comments():
    lines = [
        "retry: 1000",
        "",
        ": ping",
        "",
        "id: 1",
        "event: done",
        'data: {"a":',
        "data: 1}",
        "",
        'data: {"cut',
    ]
    assert list(read_events(lines)) == [{"a": 1}]


def test_a_model_cannot_steer_the_terminal():
    assert printable("a\x1b[2Jb\x07\r\x9bc\nd\u00a0é") == "a[2Jbc\nd\u00a0é"


def test_the_end_of_a_turn_is_summed_up():
    done = {
        "type": "done",
        "session_id": "s",
        "turn_id": "t",
        "seq": 9,
        "attempt": 1,
        "ts": "2026-01-31T09:30:00.000Z",
        "status": "stopped",
        "stop_reason": "user",
        "finish_reason": None,
        "usage": USAGE,
        "usage_source": "partial",
        "cost_usd": "0.000000001",
        "error": None,
        "content_sha256": "",
    }
    assert closing_line(read_event(done)) == "stopped (user) · 2 tokens · 0.000000001 USD"
