"""A database that lost its last commits: what readers were told stands, and nothing runs twice."""

import pytest

from shared.redis.names import log_key
from tests.integration.conftest import until
from tests.integration.test_recovery import RecoveringDesk, silence, start
from tests.integration.test_worker import patience, provider

__all__ = ["patience", "provider", "silence", "start"]

SHOWN = (
    *("status", "finish_reason", "stop_reason", "error", "usage_source", "cost_usd"),
    *("input_tokens", "output_tokens", "attempt", "last_seq"),
)
COUNTS = (
    "input_tokens = 0, cache_read_tokens = 0, cache_write_tokens = 0, output_tokens = 0, reasoning_tokens = 0"
)


@pytest.fixture
def desk(start) -> RecoveringDesk:
    return start()


@pytest.fixture
def take_back(as_owner, desk):
    """Take a turn's settlement back, and its claim too, as a failover to a server that was behind does."""

    def take(turn, *, with_claim):
        to = (
            "'queued', attempt = 0, started_at = null, worker_id = null, rung_at = to_timestamp(0)"
            if with_claim
            else "'running', lease_expires_at = now() - interval '1 s'"
        )
        for table in ("messages where role = 'assistant' and", "ledger where"):
            as_owner(f"delete from turnkeeper.{table} turn_id = :t", t=turn)
        as_owner("delete from turnkeeper.spend")
        as_owner(
            f"update turnkeeper.turns set finished_at = null, message_id = null, finish_reason = null, {COUNTS},"
            f" usage_source = null, cost_usd = 0, error = null, last_seq = 2, status = {to} where id = :t",
            t=turn,
        )

    return take


def shown(row):
    """Return what clients see of a turn."""
    return {name: getattr(row, name) for name in SHOWN}


SCRIPTS = {
    "completed": "[[tokens=30]]",
    "thinking": "[[reasoning=5 tokens=10]]",
    "failed": "[[status=400]]",
}


@pytest.mark.parametrize("with_claim", [False, True], ids=["settlement", "claim and settlement"])
@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_a_turn_whose_end_was_told_is_settled_as_it_was_told(desk, take_back, script, with_claim):
    turn = desk.queue(f"{script} {with_claim} as told")
    before = desk.run(turn)
    told, answer, bills = desk.told(turn), desk.answer(turn), desk.bills(turn) if before.cost_usd else []
    take_back(turn, with_claim=with_claim)
    if with_claim:
        desk.ring(turn)
    after = desk.ended(turn)
    assert shown(after) == shown(before)
    assert abs(after.finished_at - before.finished_at).total_seconds() < 0.001
    assert desk.answer(turn) == answer
    assert (desk.bills(turn) if before.cost_usd else []) == bills
    assert desk.log(turn) == told
    assert len(desk.requests(f"{script} {with_claim} as told")) == 1


def test_a_text_of_which_only_the_end_is_left_is_not_called_whole(desk, take_back):
    turn = desk.queue("[[tokens=30 rate=300]] half of it")
    before = desk.run(turn)
    desk.told(turn)
    desk.redis.xtrim(log_key(desk.session, turn), maxlen=2, approximate=False)
    take_back(turn, with_claim=True)
    desk.ring(turn)
    after = desk.ended(turn)
    assert (after.status, after.error["code"]) == ("failed", "worker_lost")
    assert after.cost_usd == before.cost_usd
    assert len(desk.requests("half of it")) == 1


@pytest.mark.parametrize("is_running", [False, True])
def test_a_log_of_later_attempts_than_the_row_knows_does_not_keep_the_turn_from_its_end(
    desk, as_owner, is_running
):
    turn = desk.queue("[[text=whole]] later attempts")
    desk.dead_after(turn, "void text", attempt=1)
    # The text in the log is of attempt 3; of the row's claims only the first is known.
    key = log_key(desk.session, turn)
    entries = desk.redis.xrange(key)
    desk.redis.delete(key)
    for entry_id, fields in entries:
        attempt, seq = entry_id.decode().split("-")
        attempt = "3" if attempt != "0" else "0"
        event = next(iter(fields.values())).replace(b'"attempt": 1', b'"attempt": 3')
        desk.redis.xadd(key, {"e": event}, id=f"{attempt}-{seq}")
    as_owner("delete from turnkeeper.ledger where turn_id = :t", t=turn)
    as_owner(
        f"update turnkeeper.turns set attempt = 1, last_seq = 2, {COUNTS}, usage_source = null, cost_usd = 0"
        " where id = :t",
        t=turn,
    )
    if is_running:
        desk.claimed_elsewhere(turn)
        desk.lapse(turn)
    row = desk.ended_after_rings(turn)
    assert row.attempt > 3
    assert row.handed_back >= 2
    desk.is_whole(turn, "whole")
    assert desk.shown(turn) == desk.answer(turn).content
    seqs = [event["seq"] for event in desk.log(turn)]
    assert seqs == sorted(set(seqs))


def test_a_claim_that_is_made_again_by_the_same_worker_ends_the_attempt_that_was_forgotten(desk):
    turn = desk.queue("[[tokens=400 rate=20]] forgotten claim")
    desk.ring(turn)
    until(lambda: desk.is_streaming(turn))
    desk.sql(
        "update turnkeeper.turns set status = 'queued', attempt = 0, worker_id = null, started_at = null where id = :t",
        t=turn,
    )
    desk.ring(turn)
    until(lambda: desk.row(turn).attempt > 1)
    desk.ring(turn)
    until(lambda: desk.row(turn).status == "running")
    desk.ask_to_stop(turn)
    row = desk.ended_after_rings(turn)
    assert row.status == "stopped"
    assert desk.told(turn)[-1]["type"] == "done"
    attempts = [event["attempt"] for event in desk.log(turn)]
    assert attempts == sorted(attempts)
