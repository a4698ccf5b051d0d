from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Fault, fault_error
from shared.turn.events import (
    ContentDelta,
    EventEncoder,
    MessageEnd,
    MessageReset,
    MessageStart,
    ReasoningDelta,
    StopRequested,
    TurnQueued,
    TurnStarted,
)
from shared.turn.transcript import Transcript
from shared.turn.turns import FinishReason, StopReason, TurnStatus
from tests.ends import done

SESSION, TURN = UUID(int=1), UUID(int=2)
ENCODER = EventEncoder(SESSION, TURN)
TS = "2026-01-31T09:30:00.000Z"


def fold(*events):
    transcript = Transcript()
    for seq, (event, attempt) in enumerate(events, 1):
        transcript.apply(ENCODER.encode(event, seq, attempt, TS))
    return transcript


def test_deltas_make_the_text_and_thinking_stays_apart():
    text = fold(
        (TurnQueued(), 0),
        (TurnStarted("p", "m"), 1),
        (MessageStart(str(UUID(int=9))), 1),
        (ReasoningDelta("hm"), 1),
        (ContentDelta("Hel"), 1),
        (ContentDelta("lo"), 1),
        (MessageEnd(None, FinishReason.STOP), 1),
    )
    assert (text.content, text.reasoning) == ("Hello", "hm")
    assert (text.seq, text.attempt, text.status, text.message_id) == (7, 1, "running", str(UUID(int=9)))


def test_a_reset_voids_the_text_of_the_earlier_attempt():
    text = fold(
        (MessageStart("m"), 1),
        (ContentDelta("old"), 1),
        (ReasoningDelta("old"), 1),
        (MessageReset(Fault.WORKER_LOST), 2),
        (ContentDelta("new"), 2),
    )
    assert (text.content, text.reasoning, text.message_id, text.attempt) == ("new", "", None, 2)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (StopRequested(StopReason.USER), "stopping"),
        (done(TurnStatus.FAILED, error=fault_error(Fault.INTERNAL, "x")), "failed"),
    ],
)
def test_the_status_follows_the_events(event, status):
    assert fold((TurnStarted("p", "m"), 1), (event, 1)).status == status


def test_an_event_type_of_the_future_counts_as_read():
    text = fold((ContentDelta("a"), 1))
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
