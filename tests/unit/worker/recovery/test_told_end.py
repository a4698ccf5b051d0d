"""The end that a log has becomes the turn's, whatever words it is written in."""

import hashlib
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shared.errors import Fault
from shared.turn.turns import FinishReason, StopReason
from worker.recovery.told_end import Billed, LoggedDone, done_in, ending_as_told
from worker.turn.outcome import Completed, Failed, Stopped

USAGE = {
    "input_tokens": 10,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "output_tokens": 7,
    "reasoning_tokens": 3,
}
NOTHING = Billed(0, 0, 0, 0, 0, Decimal(0), None)


def done(text="whole", **fields):
    known = {
        "seq": 9,
        "attempt": 2,
        "ts": datetime(2026, 1, 1, tzinfo=UTC),
        "status": "completed",
        "finish_reason": "stop",
        "stop_reason": None,
        "usage": USAGE,
        "usage_source": "provider",
        "cost_usd": "0.5",
        "error": None,
        "content_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return LoggedDone(**known | fields)


@pytest.mark.parametrize(
    ("fields", "kind", "why"),
    [
        ({}, Completed, FinishReason.STOP),
        ({"finish_reason": "length"}, Completed, FinishReason.LENGTH),
        ({"status": "stopped", "stop_reason": "budget"}, Stopped, StopReason.BUDGET),
        (
            {"status": "failed", "error": {"code": "provider_timeout", "detail": "d"}},
            Failed,
            Fault.PROVIDER_TIMEOUT,
        ),
        ({"status": "failed", "error": {"code": "of a newer release"}}, Failed, Fault.WORKER_LOST),
        ({"status": "expired", "usage_source": None}, Failed, Fault.WORKER_LOST),
    ],
)
def test_a_turn_ends_as_it_was_told(fields, kind, why):
    ending, told = ending_as_told(done(**fields), "whole", "thought", NOTHING)
    assert isinstance(ending, kind)
    assert why in {getattr(ending, name, None) for name in ("finish_reason", "reason", "fault")}
    assert (ending.answer.content, ending.answer.reasoning) == ("whole", "thought")
    assert (told.attempt, told.cost_usd) == (2, Decimal("0.5"))


def test_only_what_the_ledger_lacks_is_billed():
    billed = Billed(4, 0, 0, 2, 0, Decimal("0.2"), "estimated")
    ending, told = ending_as_told(done(), "whole", "", billed)
    usage = ending.answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (6, 5, 3)
    assert told.cost_usd == Decimal("0.3")
    again, told = ending_as_told(done(), "whole", "", Billed(10, 0, 0, 7, 3, Decimal("0.5"), "provider"))
    assert (again.answer.called, told.cost_usd) == (False, 0)


def test_a_part_of_a_text_is_not_called_whole_and_a_text_that_was_dropped_stays_so():
    ending, _ = ending_as_told(done("the whole text"), "the whole", "", NOTHING)
    assert (type(ending), ending.fault) == (Failed, Fault.WORKER_LOST)
    ending, _ = ending_as_told(done(""), "rolled back", "", NOTHING)
    assert (type(ending), ending.answer.content) == (Completed, "")


def test_a_log_ends_only_with_done():
    assert done_in([]) is None
    assert done_in([b'{"type":"done"}', b'{"type":"content_delta"}']) is None
