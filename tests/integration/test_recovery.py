"""A turn whose text broke off is begun again, continued or failed, with one bill for each attempt."""

import json
from hashlib import sha256

import pytest

from shared.configuration.settings import load_settings
from shared.redis.names import log_key
from tests.integration.conftest import LONG_LEASES, until
from tests.integration.test_worker import DEADLINE_SECONDS, Desk, patience, patient_worker, provider
from worker.providers import upstream
from worker.providers.provider import Capabilities
from worker.providers.silence import SilenceWatch

__all__ = ["patience", "provider"]


class RecoveringDesk(Desk):
    """Rings again for a turn that waits for its next attempt, as Celery would."""

    def run(self, turn):
        self.ring(turn)
        return self.ended_after_rings(turn)

    def ended_after_rings(self, turn):
        def is_over():
            row = self.row(turn)
            if row.status == "queued" and not any(thread.is_alive() for thread in self.threads):
                self.ring(turn)
            return row if row.finished_at else None

        return until(is_over)

    def waits_again(self, turn):
        self.ring(turn)
        until(lambda: self.row(turn).status == "queued" and self.row(turn).attempt)
        self.threads[-1].join()
        return self.row(turn)

    def bills(self, turn):
        rows = self.sql(
            "select attempt, usage_source, output_tokens, cost_usd from turnkeeper.ledger"
            " where turn_id = :t order by attempt",
            t=turn,
        )
        assert all(row.cost_usd > 0 for row in rows)
        return [(row.attempt, row.usage_source, row.output_tokens) for row in rows]

    def kinds(self, turn):
        return [event["type"] for event in self.told(turn) if event["type"] != "content_delta"]

    def requests(self, mark):
        return self.provider.get("/_log", params={"contains": mark}).json()["data"]

    def text_of(self, script):
        """Return what the provider answers to a script when nothing goes wrong."""
        turn = self.queue(f"[[{script}]]")
        self.run(turn)
        return self.answer(turn).content

    def is_whole(self, turn, text):
        row, events = self.ended(turn), self.told(turn)
        assert (row.status, self.answer(turn).content, self.answer(turn).status) == (
            "completed",
            text,
            "complete",
        )
        assert events[-1]["content_sha256"] == sha256(text.encode()).hexdigest()
        assert events[-1]["seq"] == row.last_seq
        assert not self.sql("select 1 as left from turnkeeper.checkpoints where turn_id = :t", t=turn)

    def dead_after(self, turn, text, attempt=1, *, is_ended=False):
        """Let a worker claim the turn, show `text` and die."""
        dead = self.claimed_elsewhere(turn)
        assert dead.attempt == attempt
        end = [{"type": "message_end", "usage": {}, "finish_reason": "stop"}] if is_ended else []
        events = (
            {"type": "turn_queued"},
            {"type": "title_updated", "title": "Title"},
            {"type": "turn_started"},
            {"type": "message_start", "message_id": str(dead.turn.answer_id)},
            {"type": "content_delta", "delta": text},
            *end,
        )
        for seq, event in enumerate(events, start=1):
            of_attempt = 0 if seq < 3 else attempt
            encoded = json.dumps(
                {"session_id": "s", "turn_id": "t", "seq": seq, "attempt": of_attempt, **event}
            )
            self.redis.xadd(log_key(self.session, turn), {"e": encoded}, id=f"{of_attempt}-{seq}")
        self.lapse(turn)
        until(lambda: self.row(turn).status == "queued")


@pytest.fixture
def silence(monkeypatch):
    """Takes how long the next call may be silent; all others may be for as long as a test waits."""
    limits = []

    def watch(first_seconds, _idle_seconds):
        idle_seconds = limits.pop() if limits else DEADLINE_SECONDS
        return SilenceWatch(max(first_seconds, DEADLINE_SECONDS), idle_seconds)

    monkeypatch.setattr(upstream, "SilenceWatch", watch)
    return limits


@pytest.fixture
def start(database, environment, organization, provider, patience, silence):
    started = []

    def begin(**more):
        settings = load_settings(
            {
                **environment,
                "SCRIPTED_BASE_URL": f"{provider}/v1",
                **LONG_LEASES,
                **more,
            }
        )
        worker = patient_worker(settings)
        worker.start()
        desk = RecoveringDesk(database, organization, worker, settings, provider)
        started.append((desk, worker))
        return desk

    yield begin
    for desk, worker in started:
        desk.close()
        worker.stop()


@pytest.fixture
def desk(start):
    return start()


@pytest.fixture
def continuing(start):
    return start(MCP_LLM_CONTINUATION="true")


# Begun again


@pytest.mark.parametrize(
    ("break_off", "code"),
    [
        ("cut=5 rate=100", "provider_protocol"),
        ("eof=5", "provider_protocol"),
        ("hang=5", "provider_timeout"),
        ("error_after=5", "provider_overloaded"),
    ],
)
def test_a_text_that_broke_off_is_begun_again_at_once_and_both_attempts_are_billed(
    desk, silence, break_off, code
):
    silence.append(2.0)
    turn = desk.queue(f"[[tokens=20 {break_off} fail_times=1]]")
    row = desk.run(turn)
    assert (row.status, row.attempt, row.handed_back) == ("completed", 2, 0)
    events = desk.told(turn)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    (reset,) = [event for event in events if event["type"] == "message_reset"]
    assert (reset["reason"], reset["attempt"]) == (code, 1)
    assert desk.kinds(turn)[3:] == [
        "message_start", "message_reset", "turn_started", "message_start", "message_end", "done",
    ]  # fmt: skip
    desk.is_whole(turn, desk.shown(turn))
    assert len(desk.answer(turn).content.split()) == 20
    assert [bill[:2] for bill in desk.bills(turn)] == [(1, "estimated"), (2, "provider")]
    assert row.output_tokens == sum(output for _, _, output in desk.bills(turn))


def test_after_the_third_attempt_the_turn_fails_with_the_providers_fault_and_keeps_its_last_text(desk):
    turn = desk.queue("[[tokens=20 eof=5]]")
    row = desk.run(turn)
    assert (row.status, row.attempt, row.error["code"]) == ("failed", 3, "provider_protocol")
    assert desk.kinds(turn).count("message_reset") == 2
    assert desk.answer(turn).content == desk.shown(turn)
    assert len(desk.shown(turn).split()) == 5
    assert [bill[0] for bill in desk.bills(turn)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("tokens=5 tool_call=1", "tool_call_unsupported"),
        ("tokens=20 garbage=5", "provider_protocol"),
        ("tokens=20 error_after=5 error_type=invalid_request_error", "provider_rejected"),
    ],
)
def test_what_would_go_wrong_again_is_not_tried_again_after_text(desk, script, code):
    turn = desk.queue(f"[[{script}]]")
    row = desk.run(turn)
    assert (row.status, row.attempt, row.error["code"]) == ("failed", 1, code)
    assert desk.answer(turn).content == desk.shown(turn) != ""


def test_a_provider_that_keeps_failing_is_not_called_for_a_while(start):
    desk = start(PROVIDER_BREAKER_SECONDS="300")
    failing = []
    for number in range(7):
        desk.begin_session()
        failing.append(desk.queue(f"[[status=503]] {number}"))  # three calls each
        desk.ring(failing[-1])
    for turn in failing:
        assert desk.ended(turn).status == "failed"
    turn = desk.queue("[[tokens=5]] a question that is never sent")
    row = desk.run(turn)
    assert (row.status, row.error["code"], row.cost_usd) == ("failed", "provider_overloaded", 0)
    assert 0 < row.error["retry_after_ms"] <= 300_000
    assert not desk.requests("never sent")


@pytest.mark.usefixtures("one_day")
def test_a_text_that_broke_off_is_kept_when_nobody_pays_for_another_attempt(desk, organization, as_owner):
    as_owner("update turnkeeper.organizations set daily_usd = 0.0275 where id = :o", o=organization)
    turn = desk.queue("[[tokens=20 eof=5]]")
    desk.sql("select turnkeeper.take_hold(:o, :t, 1, 0.02, 0.000015, 16, 500)", o=organization, t=turn)
    row = desk.run(turn)
    assert (row.status, row.stop_reason, row.attempt) == ("stopped", "budget", 1)
    assert desk.kinds(turn)[3:] == ["message_start", "stop_requested", "done"]
    assert [event["seq"] for event in desk.told(turn)] == list(range(1, row.last_seq + 1))
    assert len(desk.shown(turn).split()) == 5
    assert desk.answer(turn).content == desk.shown(turn)
    assert [bill[0] for bill in desk.bills(turn)] == [1]
    (spend,) = desk.sql("select held_usd, spent_usd from turnkeeper.spend where period = 'day'")
    assert (spend.held_usd, spend.spent_usd) == (0, row.cost_usd)
    assert not desk.sql("select 1 as left from turnkeeper.holds")


# Continued


@pytest.mark.parametrize("break_off", ["cut=10 rate=100", "eof=10", "hang=10", "error_after=10"])
def test_a_text_that_broke_off_is_continued_and_no_reader_notices(continuing, silence, break_off):
    whole = continuing.text_of("tokens=40 seed=5")
    silence.append(2.0)
    turn = continuing.queue(f"[[tokens=40 seed=5 {break_off} fail_times=1]] and go on {break_off}")
    assert continuing.run(turn).attempt == 2
    continuing.is_whole(turn, whole)
    assert continuing.shown(turn) == whole
    assert continuing.kinds(turn)[2:] == [
        "turn_started", "message_start", "turn_started", "message_end", "done",
    ]  # fmt: skip
    first, second = continuing.requests(f"and go on {break_off}")
    assert (first["continues"], second["continues"]) == (False, True)
    assert first["text"] + second["text"] == whole
    assert [bill[:2] for bill in continuing.bills(turn)] == [(1, "estimated"), (2, "provider")]
    assert continuing.bills(turn)[1][2] == 30  # the second is billed what it added


def test_a_text_is_continued_after_its_worker_died(continuing):
    whole = continuing.text_of("tokens=40 seed=6")
    turn = continuing.queue("[[tokens=40 seed=6]]")
    continuing.dead_after(turn, whole[:33])
    assert continuing.ended_after_rings(turn).attempt == 2
    continuing.is_whole(turn, whole)
    events = continuing.told(turn)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert continuing.shown(turn) == whole
    assert "message_reset" not in continuing.kinds(turn)
    assert [bill[:2] for bill in continuing.bills(turn)] == [(1, "estimated"), (2, "provider")]


def test_a_text_that_was_whole_when_its_worker_died_is_completed_as_it_is(continuing):
    whole = continuing.text_of("tokens=12 seed=7")
    turn = continuing.queue("[[tokens=12 seed=7]]")
    continuing.dead_after(turn, whole)
    continuing.ended_after_rings(turn)
    continuing.is_whole(turn, whole)


def test_a_text_whose_end_was_told_is_not_continued(continuing):
    turn = continuing.queue("[[tokens=12 seed=7]]")
    continuing.dead_after(turn, "ended", is_ended=True)
    continuing.ended_after_rings(turn)
    assert continuing.kinds(turn)[4:6] == ["message_end", "message_reset"]
    continuing.is_whole(turn, continuing.shown(turn))


def test_a_continuation_whose_worker_dies_is_continued_and_what_was_billed_is_not_billed_again(continuing):
    whole = continuing.text_of("tokens=40 seed=8")
    turn = continuing.queue("[[tokens=40 seed=8 eof=10 fail_times=1]]")
    continuing.waits_again(turn)
    continuing.claimed_elsewhere(turn)
    continuing.lapse(turn)
    until(lambda: continuing.row(turn).status == "queued")
    assert continuing.ended_after_rings(turn).attempt == 3
    continuing.is_whole(turn, whole)
    assert continuing.shown(turn) == whole
    assert [bill[0] for bill in continuing.bills(turn)] == [1, 3]


def test_a_draining_worker_hands_its_text_over_to_be_continued(continuing):
    whole = continuing.text_of("tokens=100 seed=9")
    turn = continuing.queue("[[tokens=100 seed=9 rate=100]]")
    continuing.ring(turn)
    until(lambda: continuing.is_streaming(turn))
    continuing.worker._leases.hand_back_all()
    continuing.threads[-1].join()
    row = continuing.row(turn)
    assert (row.status, row.handed_back) == ("queued", 1)
    assert continuing.log(turn)[-1]["seq"] == row.last_seq
    continuing.ended_after_rings(turn)
    continuing.is_whole(turn, whole)
    assert continuing.shown(turn) == whole


def test_a_log_that_is_lost_between_two_attempts_begins_again_with_the_text_to_continue(continuing):
    whole = continuing.text_of("tokens=40 seed=10")
    turn = continuing.queue("[[tokens=40 seed=10 eof=10 fail_times=1]]")
    waiting = continuing.waits_again(turn)
    continuing.redis.delete(log_key(continuing.session, turn))
    continuing.ended_after_rings(turn)
    continuing.is_whole(turn, whole)
    events = continuing.told(turn)
    (snapshot,) = [event for event in events if event["type"] == "snapshot"]
    assert snapshot["seq"] == waiting.last_seq + 1  # no reader has it, so each is told
    after = [event["delta"] for event in events if event["type"] == "content_delta"]
    assert snapshot["content"] + "".join(after) == whole


def test_a_text_of_which_readers_may_have_more_is_void(continuing):
    turn = continuing.queue("[[text=whole]]")
    continuing.claimed_elsewhere(turn)
    continuing.sql(
        "insert into turnkeeper.checkpoints (organization_id, turn_id, attempt, seq, called, content, reasoning)"
        " values (:o, :t, 1, 5, true, 'wh', '')",
        t=turn,
    )
    continuing.lapse(turn)
    until(lambda: continuing.row(turn).status == "queued")
    continuing.ended_after_rings(turn)
    continuing.is_whole(turn, "whole")
    assert "message_reset" in continuing.kinds(turn)
    assert not continuing.requests("text=whole")[-1]["continues"]


def test_a_log_with_a_hole_is_not_continued(continuing):
    turn = continuing.queue("[[tokens=40 seed=11]]")
    dead = continuing.claimed_elsewhere(turn)
    for seq, delta in ((1, "The "), (3, "end")):
        encoded = json.dumps({"type": "content_delta", "delta": delta, "session_id": "s", "turn_id": "t",
                              "seq": seq, "attempt": 1, "message_id": str(dead.turn.answer_id)})  # fmt: skip
        continuing.redis.xadd(log_key(continuing.session, turn), {"e": encoded}, id=f"1-{seq}")
    continuing.lapse(turn)
    until(lambda: continuing.row(turn).status == "queued")
    continuing.ended_after_rings(turn)
    assert "message_reset" in continuing.kinds(turn)


def test_a_text_with_reasoning_is_begun_again(continuing):
    turn = continuing.queue("[[reasoning=5 tokens=20 eof=12 fail_times=1]]")
    assert continuing.run(turn).attempt == 2
    assert "message_reset" in continuing.kinds(turn)
    continuing.is_whole(turn, continuing.shown(turn))


def test_a_worker_whose_provider_cannot_continue_declares_the_text_void(continuing, monkeypatch):
    turn = continuing.queue("[[tokens=20 eof=10 fail_times=1]]")
    continuing.waits_again(turn)
    monkeypatch.setattr(continuing.worker._choices.first.provider, "capabilities", Capabilities())
    continuing.ended_after_rings(turn)
    assert continuing.kinds(turn)[3:6] == ["message_start", "message_reset", "turn_started"]
    continuing.is_whole(turn, continuing.shown(turn))


def test_a_turn_that_expires_before_it_is_continued_says_that_its_text_is_void(continuing):
    turn = continuing.queue("[[tokens=20 eof=10]]")
    continuing.waits_again(turn)
    continuing.sql(
        "update turnkeeper.turns set claimable_at = now() - interval '1 day' where id = :t", t=turn
    )
    row = continuing.ended(turn)
    assert row.status == "expired"
    assert continuing.kinds(turn)[-2:] == ["message_reset", "done"]
    events = continuing.told(turn)
    assert [event["seq"] for event in events] == list(range(1, row.last_seq + 1))
    assert continuing.answer(turn) is None
    assert not continuing.sql("select 1 as left from turnkeeper.checkpoints where turn_id = :t", t=turn)
