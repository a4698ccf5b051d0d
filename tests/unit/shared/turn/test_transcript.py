from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.turn.events import EventEncoder, EventType
from shared.turn.transcript import Transcript

SESSION, TURN = UUID(int=1), UUID(int=2)
ENCODER = EventEncoder(SESSION, TURN)
TS = "2026-01-31T09:30:00.000Z"


def fold(*events):
    transcript = Transcript()
    for seq, (kind, attempt, fields) in enumerate(events, 1):
        transcript.apply(ENCODER.encode(kind, seq, attempt, TS, fields))
    return transcript


def test_deltas_make_the_text_and_thinking_stays_apart():
    text = fold(
        (EventType.TURN_QUEUED, 0, {}),
        (EventType.TURN_STARTED, 1, {"provider": "p", "model": "m"}),
        (EventType.MESSAGE_START, 1, {"message_id": str(UUID(int=9))}),
        (EventType.REASONING_DELTA, 1, {"delta": "hm"}),
        (EventType.CONTENT_DELTA, 1, {"delta": "Hel"}),
        (EventType.CONTENT_DELTA, 1, {"delta": "lo"}),
        (EventType.MESSAGE_END, 1, {"usage": {"input_tokens": 1}, "finish_reason": "stop"}),
    )
    assert (text.content, text.reasoning) == ("Hello", "hm")
    assert (text.seq, text.attempt, text.status, text.message_id) == (7, 1, "running", str(UUID(int=9)))


def test_a_reset_voids_the_text_of_the_earlier_attempt():
    text = fold(
        (EventType.MESSAGE_START, 1, {"message_id": "m"}),
        (EventType.CONTENT_DELTA, 1, {"delta": "old"}),
        (EventType.REASONING_DELTA, 1, {"delta": "old"}),
        (EventType.MESSAGE_RESET, 2, {"reason": "worker_lost"}),
        (EventType.CONTENT_DELTA, 2, {"delta": "new"}),
    )
    assert (text.content, text.reasoning, text.message_id, text.attempt) == ("new", "", None, 2)


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        (EventType.STOP_REQUESTED, {"stop_reason": "user"}, "stopping"),
        (EventType.DONE, {"status": "failed", "error": {"code": "internal"}}, "failed"),
    ],
)
def test_the_status_follows_the_events(kind, fields, status):
    assert fold((EventType.TURN_STARTED, 1, {}), (kind, 1, fields)).status == status


def test_an_event_type_of_the_future_counts_as_read():
    text = fold((EventType.CONTENT_DELTA, 1, {"delta": "a"}))
    text.apply(b'{"type":"tool_call","session_id":"s","turn_id":"t","seq":2,"attempt":1,"ts":"t","x":[1]}')
    assert (text.seq, text.content) == (2, "a")


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), max_size=20), st.integers(0, 20))
def test_a_snapshot_continues_as_the_events_that_it_stands_for(deltas, cut):
    cut = min(cut, len(deltas))
    encoded = [ENCODER.delta(False, seq, 1, TS, delta) for seq, delta in enumerate(deltas, 1)]
    early = Transcript()
    for event in encoded[:cut]:
        early.apply(event)
    late = Transcript()
    late.apply(early.snapshot(SESSION, TURN, TS))
    for event in encoded[cut:]:
        late.apply(event)
    assert late.content == "".join(deltas)
    assert late.seq == len(deltas)


def test_a_row_continues_as_the_events_that_it_stands_for():
    text = Transcript.resume(seq=4, attempt=2, status="running", message_id="m", content="ab", reasoning="r")
    text.apply(ENCODER.delta(False, 5, 2, TS, "c"))
    assert msgspec.json.decode(text.snapshot(SESSION, TURN, TS)) == {
        "type": "snapshot",
        "session_id": str(SESSION),
        "turn_id": str(TURN),
        "seq": 5,
        "attempt": 2,
        "ts": TS,
        "status": "running",
        "message_id": "m",
        "content": "abc",
        "reasoning": "r",
    }
