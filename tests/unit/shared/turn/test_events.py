"""Events are encoded once, and every byte of them is JSON that a client can read."""

import json
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import new_id
from shared.turn.events import EventEncoder, TurnQueued, decode_header, timestamp
from tests.ends import done

SESSION, TURN = new_id(), new_id()
ENCODER = EventEncoder(SESSION, TURN)


@given(st.text(max_size=50), st.booleans(), st.integers(1, 2**31), st.integers(1, 9))
def test_a_delta_is_the_envelope_with_its_text(text, reasoning, seq, attempt):
    event = json.loads(ENCODER.delta(reasoning, seq, attempt, "2026-01-31T09:30:00.000Z", text))
    assert event == {
        "type": "reasoning_delta" if reasoning else "content_delta",
        "session_id": str(SESSION),
        "turn_id": str(TURN),
        "seq": seq,
        "attempt": attempt,
        "ts": "2026-01-31T09:30:00.000Z",
        "delta": text,
    }


def test_an_event_without_fields_is_the_bare_envelope():
    event = json.loads(ENCODER.encode(TurnQueued(), 1, 0, "t"))
    assert list(event) == ["type", "session_id", "turn_id", "seq", "attempt", "ts"]


def test_an_event_carries_its_fields():
    event = json.loads(ENCODER.encode(done(), 9, 2, "t"))
    assert (event["status"], event["error"], event["attempt"]) == ("completed", None, 2)


def test_a_relay_reads_the_header_and_nothing_else():
    header = decode_header(ENCODER.delta(False, 7, 2, "t", "hello"))
    assert (header.type, header.turn_id, header.seq, header.attempt) == ("content_delta", str(TURN), 7, 2)


def test_what_is_no_event_has_no_header():
    with pytest.raises(msgspec.DecodeError):
        decode_header(b'{"type":"x"}')


def test_times_are_utc_with_milliseconds():
    moment = datetime(2026, 1, 31, 10, 30, 0, 123456, tzinfo=timezone(timedelta(hours=1)))
    assert timestamp(moment) == "2026-01-31T09:30:00.123Z"
    assert timestamp(datetime(2026, 1, 31, tzinfo=UTC)) == "2026-01-31T00:00:00.000Z"
