"""The bytes of every event, written out by hand in `events_on_the_wire.jsonl`: a line each, in the order of this file.

A field that an event gets later has a default, and is left out where it has it: no line changes by it.
"""

from functools import reduce
from operator import or_
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from shared.errors import Fault, fault_error
from shared.money.usage import Usage, UsageSource
from shared.turn.events import (
    NUMBERED,
    ONLY_ON_STREAMS,
    CaughtUp,
    ContentDelta,
    Done,
    Envelope,
    Event,
    EventEncoder,
    EventType,
    Gap,
    MessageEnd,
    MessageReset,
    MessageStart,
    Ping,
    ReasoningDelta,
    Snapshot,
    StopRequested,
    Subscribed,
    TitleUpdated,
    TurnError,
    TurnQueued,
    TurnStarted,
)
from shared.turn.turns import FinishReason, StopReason, TurnStatus

SESSION, TURN = "01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058"
TS = "2026-01-31T09:30:00.000Z"
ENCODER = EventEncoder(UUID(SESSION), UUID(TURN))
ALL = (*NUMBERED, *ONLY_ON_STREAMS)
COUNTS = Usage(3, 1, 2, 5, 4, cache_write_1h_tokens=1).as_dict()

LINES = (Path(__file__).parent / "events_on_the_wire.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")
IN_ENVELOPES = [
    (TurnQueued(), 1, 0),
    (TitleUpdated('Grüße "\\ \u2028 \n\x7f 😀 </'), 2, 0),
    (TurnStarted("scripted", "scripted-1"), 3, 1),
    (MessageStart("m-1"), 4, 1),
    (ReasoningDelta("hm"), 5, 1),
    (ContentDelta("a\tb/é"), 6, 1),
    (MessageEnd(COUNTS, FinishReason.STOP), 7, 1),
    (StopRequested(StopReason.USER), 8, 1),
    (StopRequested(None), 8, 1),
    (MessageReset(Fault.WORKER_LOST), 9, 2),
    (TurnError(fault_error(Fault.PROVIDER_OVERLOADED, "the provider is busy", 1500)), 10, 2),
    (TurnError(fault_error(Fault.WORKER_LOST, "the worker that ran the turn was lost")), 10, 2),
    (
        Done(
            status=TurnStatus.COMPLETED,
            finish_reason=FinishReason.STOP,
            stop_reason=None,
            usage=COUNTS,
            usage_source=UsageSource.PROVIDER,
            cost_usd="0.001230",
            error=None,
            content_sha256="f83e039796c6453a10f5519e39fd113901572316a1a8ea07cb525d2801dfd074",
        ),
        11,
        2,
    ),
    (
        Done(
            status=TurnStatus.FAILED,
            finish_reason=None,
            stop_reason=StopReason.USER,
            usage=Usage().as_dict(),
            usage_source=None,
            cost_usd="0.000000",
            error=fault_error(Fault.INTERNAL, "x"),
            content_sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        11,
        2,
    ),
    (Snapshot(TurnStatus.RUNNING, None, "a", ""), 9, 2),
    (Snapshot(TurnStatus.STOPPING, "m-1", "a", "hm"), 9, 2),
]
WHOLE = [
    Subscribed(SESSION, None, 0),
    Subscribed(SESSION, TURN, 9),
    CaughtUp(SESSION),
    Ping(),
    Gap(SESSION, TURN, 3, 9),
]
read = msgspec.json.Decoder(reduce(or_, ALL)).decode


@pytest.mark.parametrize(
    ("event", "seq", "attempt", "line"),
    [(*each, line) for each, line in zip(IN_ENVELOPES, LINES, strict=False)],
)
def test_an_event_is_the_bytes_of_its_line_and_the_line_is_the_event(event, seq, attempt, line):
    assert ENCODER.encode(event, seq, attempt, TS) == line
    assert read(line) == event
    assert msgspec.json.decode(line, type=Envelope) == Envelope(SESSION, TURN, seq, attempt, TS)
    if isinstance(event, ContentDelta | ReasoningDelta):
        assert ENCODER.delta(isinstance(event, ReasoningDelta), seq, attempt, TS, event.delta) == line


@pytest.mark.parametrize(("event", "line"), [*zip(WHOLE, LINES[len(IN_ENVELOPES) :], strict=True)])
def test_an_event_without_an_envelope_is_its_line_too(event, line):
    assert event.encoded() == line
    assert read(line) == event


def test_every_type_has_a_line():
    assert {type(event) for event in [*(event for event, *_ in IN_ENVELOPES), *WHOLE]} == set(ALL)
    assert [kind.__struct_config__.tag for kind in ALL] == list(EventType)


def test_a_field_that_came_later_is_left_out_where_it_has_its_default():
    class Later(Event, frozen=True, tag="later"):
        first: int | None
        second: int | None = None

    assert ENCODER.encode(Later(None), 1, 0, TS).endswith(b'"ts":"2026-01-31T09:30:00.000Z","first":null}')
    assert ENCODER.encode(Later(None, 2), 1, 0, TS).endswith(b',"first":null,"second":2}')
