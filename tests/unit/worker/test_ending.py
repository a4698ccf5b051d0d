"""From an attempt that ended to what is written and told, step by step."""

import asyncio
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic

import pytest

from shared.errors import Fault, UnavailableError
from shared.money.usage import Usage, UsageSource
from shared.turn.events import MessageReset, StopRequested, TurnError
from shared.turn.turns import FinishReason, StopReason
from tests.unit.worker.claimed import AGAIN, FIRST, Tape, World, services
from worker import ending
from worker.ending import (
    Ended,
    HandedBack,
    Settler,
    ends_instead,
    handed_back,
    settlement_of,
    tell_end,
    tell_reset,
    tell_stop,
)
from worker.process.admission import Admission
from worker.providers.breaker import Breaker
from worker.providers.provider import Capabilities, Prompt
from worker.traces import Untraced
from worker.turn.attempt import Attempt
from worker.turn.moved import SettledTurn
from worker.turn.outcome import NOTHING, Answer, Completed, Failed, Requeued, Stopped
from worker.turn.retry import Retries, RetryBudget
from worker.turn.settle import Settlement, UnpayableError

SHOWN = Answer("half", "", called=True, usage=Usage(output_tokens=1), usage_source=UsageSource.ESTIMATED)
THOUGHT = replace(SHOWN, content="", reasoning="hm")
WHOLE = Completed(replace(SHOWN, content="whole"), FinishReason.STOP)
FAILED = Failed(SHOWN, Fault.PROVIDER_TIMEOUT, "it was silent")
CONTINUING = Capabilities(continuation=True)
NEXT = Settlement(FIRST.organization_id, FIRST.id, 1, last_seq=9)
FINISHED = SettledTurn(
    id=FIRST.id,
    session_id=FIRST.session_id,
    status="completed",
    attempt=1,
    finish_reason="stop",
    stop_reason=None,
    input_tokens=0,
    cache_read_tokens=0,
    cache_write_tokens=0,
    output_tokens=1,
    reasoning_tokens=0,
    usage_source="provider",
    cost_usd=Decimal(0),
    error=None,
    last_seq=9,
    title=None,
    queued_at=FIRST.queued_at,
    stop_requested_at=None,
    finished_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC),
    stop_observed_at=None,
    worker_id=None,
    dropped=False,
    max_output_tokens=100,
    released_usd=None,
    charged_usd=Decimal(0),
    has_next=True,
)
WAITING = replace(FINISHED, status="queued", attempt=2, finished_at=None, finish_reason=None)
STOPPED = replace(FINISHED, status="stopped", stop_reason="user", finish_reason=None)
DEADLINE_SECONDS = 60


def attempt(tape):
    retries = Retries(lambda: 0.0, RetryBudget(lambda: 0.0))
    return Attempt(None, tape, Prompt((), None, 100), "id", 60.0, retries, Breaker(lambda: 0.0, 10.0))


@pytest.mark.parametrize(("outcome", "last_seq"), [(WHOLE, 8), (FAILED, 9)])
def test_the_last_number_is_that_of_done_which_follows_the_error_of_a_turn_that_failed(outcome, last_seq):
    settlement = settlement_of(FIRST, attempt(Tape(7)), outcome, 2)
    assert (settlement.last_seq, settlement.history_trimmed) == (last_seq, 2)
    assert (settlement.organization_id, settlement.turn_id) == (FIRST.organization_id, FIRST.id)


def test_a_settlement_says_how_long_ago_the_first_text_and_the_stop_were():
    one = attempt(Tape())
    settlement = settlement_of(FIRST, one, WHOLE, 0)
    assert (settlement.first_token_ago_seconds, settlement.stop_observed_ago_seconds) == (None, None)
    one._draft.first_text_at, one.stop_observed_at = monotonic() - 30, monotonic() - 20
    settlement = settlement_of(FIRST, one, WHOLE, 0)
    assert settlement.first_token_ago_seconds >= 30
    assert settlement.stop_observed_ago_seconds >= 20


@pytest.mark.parametrize(
    ("answer", "capabilities", "last_seq", "keeps_text", "reset"),
    [
        (NOTHING, CONTINUING, 8, False, None),
        (SHOWN, Capabilities(), 9, False, Fault.WORKER_LOST),
        (SHOWN, CONTINUING, 8, True, None),
        (THOUGHT, CONTINUING, 9, False, Fault.WORKER_LOST),
    ],
)
def test_a_turn_that_waits_again_keeps_its_text_or_numbers_the_reset(
    answer, capabilities, last_seq, keeps_text, reset
):
    requeued = Requeued(answer)
    assert handed_back(NEXT, requeued, capabilities) == HandedBack(
        replace(NEXT, last_seq=last_seq), replace(requeued, keeps_text=keeps_text), reset
    )  # I5


@pytest.mark.parametrize(
    ("recovery", "answer", "ends"),
    [("fail", SHOWN, True), ("fail", THOUGHT, True), ("fail", NOTHING, False), ("restart", SHOWN, False)],
)
def test_a_turn_ends_where_its_text_broke_off_when_it_asked_for_that(recovery, answer, ends):
    assert ends_instead(replace(FIRST, recovery=recovery), Requeued(answer)) is ends


def done_of(tape):
    seq, event = tape.told[-1]
    return seq, json.loads(event)


def sha256_of(content):
    return hashlib.sha256(content.encode()).hexdigest()


def test_the_end_is_told_under_the_number_that_the_row_has():
    tape = Tape(8)
    asyncio.run(tell_end(tape, WHOLE, FINISHED))
    seq, done = done_of(tape)
    assert (len(tape.told), tape.state) == (1, "closed")
    assert (seq, done["status"], done["content_sha256"]) == (9, "completed", sha256_of("whole"))


def test_an_error_is_told_before_the_end():
    tape = Tape(7)
    asyncio.run(tell_end(tape, FAILED, replace(FINISHED, status="failed", error={"code": "x"})))
    assert isinstance(tape.told[0], TurnError)
    assert tape.told[0].error["code"] == "provider_timeout"
    assert done_of(tape)[0] == 9


def test_the_end_of_a_turn_that_a_newer_one_rolled_back_shows_no_text():
    tape = Tape(8)
    asyncio.run(tell_end(tape, WHOLE, replace(FINISHED, dropped=True)))
    assert done_of(tape)[1]["content_sha256"] == sha256_of("")


def test_a_stop_that_the_attempt_did_not_know_of_is_told_with_the_rows_reason():
    tape = Tape(7)
    superseded = replace(STOPPED, stop_reason="superseded")
    asyncio.run(tell_stop(tape, Stopped(SHOWN, StopReason.USER), superseded))
    assert tape.told[0] == StopRequested("superseded")
    assert done_of(tape)[1]["content_sha256"] == sha256_of("half")


@pytest.mark.parametrize(
    ("reset", "told"),
    [
        (None, ["drained"]),
        (Fault.WORKER_LOST, [MessageReset(Fault.WORKER_LOST), "drained"]),
    ],
)
def test_readers_are_shown_the_last_of_an_attempt_before_another_follows(reset, told):
    tape = Tape()
    asyncio.run(tell_reset(tape, reset))
    assert (tape.told, tape.state) == (told, "discarded")


class Desk:
    """A settler beside a running loop, and a database that gives the answers it is told to."""

    def __init__(self, loop, monkeypatch):
        self.world = World()
        self.rung = []
        self.answers = []
        self.earlier = FINISHED
        self.written = []
        self.services = services(self.world, loop=loop, ring=lambda *doorbell: self.rung.append(doorbell))
        self.settler = Settler(self.services, Admission(loop, steps_at_once=1, patience_seconds=1.0))
        self.tape = Tape(8)
        monkeypatch.setattr(ending, "settle", self.settle)
        monkeypatch.setattr(ending, "read_settled", lambda *_: self.earlier)
        monkeypatch.setattr(ending, "_SETTLE_RETRY_SECONDS", 0.0)

    def settle(self, _database, _provider, settlement, how):
        self.written.append((settlement.last_seq, how))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ended(self, outcome, turn=FIRST):
        return Ended(turn, self.services.choices.choose(turn), outcome, self.tape, NEXT, Untraced(None))

    def ours(self, turn):
        return replace(turn, worker_id=self.services.worker_id)

    def in_loop(self):
        """Wait for what was handed to the loop."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.services.loop).result(DEADLINE_SECONDS)


@contextmanager
def running_loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=DEADLINE_SECONDS)
        loop.close()


@pytest.fixture
def desk(monkeypatch):
    with running_loop() as loop:
        yield Desk(loop, monkeypatch)


def test_the_end_is_told_once_it_is_written(desk):
    desk.answers = [FINISHED]
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is True  # the session's next turn waits
    assert desk.written == [(9, WHOLE)]
    assert (done_of(desk.tape)[0], desk.tape.state) == (9, "closed")


def test_a_claim_that_was_lost_is_neither_written_nor_told(desk):
    desk.answers = [None]
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is False
    desk.in_loop()
    assert (desk.tape.told, desk.tape.state) == ([], "discarded")  # I3


def test_settling_is_tried_again_and_knows_its_own_commit_whose_answer_was_lost(desk):
    desk.answers = [UnavailableError("away"), UnavailableError("away"), None]
    desk.earlier = desk.ours(FINISHED)
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is True
    assert len(desk.written) == 3  # I2
    assert done_of(desk.tape)[0] == 9


@pytest.mark.parametrize(
    "change", [{"attempt": 2}, {"worker_id": None}, {"status": "running", "finished_at": None}]
)
def test_what_another_has_written_meanwhile_is_not_told_as_our_own(desk, change):
    desk.answers = [UnavailableError("away"), None]
    desk.earlier = replace(desk.ours(FINISHED), **change)
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is False
    desk.in_loop()
    assert desk.tape.told == []  # I3


def test_settling_is_tried_beyond_the_lease_for_the_answer_is_paid_for(desk):
    """An outage of less than the lease ends after the trust in it; nobody else can have begun."""
    desk.answers = [UnavailableError("away"), UnavailableError("away"), FINISHED]
    desk.world.trusted = False
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is True
    assert (len(desk.written), done_of(desk.tape)[0]) == (3, 9)  # I2


def test_settling_is_given_up_in_time_when_the_lease_is_trusted_no_more(desk, monkeypatch):
    monkeypatch.setattr(ending, "_SETTLE_SECONDS", 0.0)
    desk.answers = [UnavailableError("away")]
    desk.world.trusted = False
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is False
    assert len(desk.written) == 1


def test_a_process_that_is_ending_tries_for_a_few_seconds_only(desk, monkeypatch):
    monkeypatch.setattr(ending, "_LAST_SETTLE_SECONDS", 0.0)
    desk.world.handed_back = True
    desk.answers = [UnavailableError("away")]
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is False
    assert len(desk.written) == 1
    monkeypatch.setattr(ending, "_LAST_SETTLE_SECONDS", 60.0)
    desk.answers = [UnavailableError("away"), FINISHED]
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is True


def test_settling_goes_on_as_long_as_the_lease_is_trusted(desk, monkeypatch):
    monkeypatch.setattr(ending, "_SETTLE_SECONDS", 0.0)
    desk.answers = [UnavailableError("away"), FINISHED]
    assert desk.settler.finish(desk.ended(WHOLE), WHOLE) is True


def test_a_turn_that_is_handed_back_is_rung_for_once_readers_were_shown_its_last(desk):
    desk.answers = [WAITING]
    turn = replace(FIRST, traceparent="00-trace")
    requeued = Requeued(SHOWN)
    desk.settler.hand_back(desk.ended(requeued, turn), requeued)
    assert desk.written == [(9, requeued)]
    assert desk.tape.told == [MessageReset(Fault.WORKER_LOST), "drained"]
    assert desk.rung == [(str(FIRST.id), "00-trace")]


def test_a_turn_that_wants_no_second_attempt_ends_with_an_error_and_is_not_rung_for(desk):
    failed = replace(FINISHED, status="failed", error={"code": "worker_lost"}, last_seq=10)
    desk.answers = [failed]
    requeued = Requeued(SHOWN)
    desk.settler.hand_back(desk.ended(requeued, replace(AGAIN, recovery="fail")), requeued)
    ((last_seq, how),) = desk.written
    assert (last_seq, how.fault) == (10, Fault.WORKER_LOST)  # `error` is 9
    assert (type(desk.tape.told[0]), done_of(desk.tape)[0], desk.rung) == (TurnError, 10, [])


@pytest.mark.parametrize(
    ("lost_by", "reason"), [(None, StopReason.USER), (UnpayableError(), StopReason.BUDGET)]
)
def test_a_turn_that_cannot_wait_again_is_stopped_with_what_was_shown(desk, lost_by, reason):
    desk.answers = [lost_by, replace(STOPPED, stop_reason=reason.value, last_seq=10)]
    requeued = Requeued(SHOWN)
    desk.settler.hand_back(desk.ended(requeued), requeued)
    assert desk.written[1] == (10, Stopped(SHOWN, reason))
    assert desk.tape.told[0] == StopRequested(reason.value)
    assert (done_of(desk.tape)[0], desk.rung) == (10, [])


def test_a_turn_that_is_another_workers_by_now_is_not_handed_back(desk):
    desk.answers = [None, None]
    requeued = Requeued(SHOWN)
    desk.settler.hand_back(desk.ended(requeued), requeued)
    desk.in_loop()
    assert (desk.tape.told, desk.tape.state, desk.rung) == ([], "discarded", [])  # I3
