"""Turns whose workers die, stall or are replaced (rows W of the fault matrix)."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.failpoints import Failpoint
from tests.e2e.protocol_client import wait_until
from tests.faults.proxy import Moment
from tests.faults.world import END_SECONDS, Asked, World, await_seconds, kill, stopped

CLAIM = b"turnkeeper.claim_"
SETTLE = b"insert into turnkeeper.ledger"
COMMIT = b"COMMIT"


def ledger(world: World, asked: Asked) -> list[dict]:
    return world.rows("select * from turnkeeper.ledger where turn_id = %s order by attempt", asked.turn_id)


def test_w1_doorbells_that_die_with_idle_workers_are_rung_again(world: World):
    pids = world.service.pids("worker")
    with stopped(*pids):
        asked = [world.ask("tokens=3") for _ in range(3)]
        # Each of the two takes one doorbell at most: its process is what waits at the list.
        wait_until(lambda: world.redis().llen("turns:turns"), "a doorbell that nobody took", END_SECONDS)
        for pid in pids:
            kill(pid)
    world.await_replaced("worker", pids)
    for each in asked:
        turn = each.check()
        assert (turn["status"], turn["attempt"]) == ("completed", 1)
        assert len(each.requests()) == len(ledger(world, each)) == 1


def test_w2_a_worker_killed_between_claim_and_call_leaves_no_trace_in_the_stream(world: World):
    with world.failing(Failpoint.AFTER_CLAIM) as await_death:
        asked = world.ask("tokens=5")
        await_death()
    turn = asked.check()
    assert (turn["status"], turn["attempt"]) == ("completed", 2)
    assert asked.reader.reading.resets == 0
    assert len(asked.requests()) == len(ledger(world, asked)) == 1


def test_w3_a_worker_killed_as_its_call_was_sent_is_followed_by_another_call(world: World):
    with world.failing(Failpoint.AFTER_SENT) as await_death:
        asked = world.ask("tokens=5")
        await_death()
    turn = asked.check(unnoted=1)
    assert (turn["status"], turn["attempt"], asked.reader.reading.resets) == ("completed", 2, 0)
    assert 1 <= len(ledger(world, asked)) <= len(asked.requests()) <= 2


def test_w3_a_worker_killed_before_the_first_token_is_billed_its_input_and_called_again(world: World):
    asked = world.ask("first=60 tokens=5")
    wait_until(
        lambda: world.rows(
            "select 1 as x from turnkeeper.checkpoints where turn_id = %s and called", asked.turn_id
        ),
        "the call to be noted",
    )
    kill(asked.worker())
    # The second call is as silent as the first.
    wait_until(lambda: len(asked.requests()) == 2, "the second call", END_SECONDS)
    assert world.api.stop(asked.turn_id).status_code in {200, 202}
    turn = asked.check()
    assert (turn["status"], turn["attempt"]) == ("stopped", 2)
    first, second = ledger(world, asked)
    assert first["input_tokens"] > 0
    assert second["input_tokens"] > 0
    assert first["output_tokens"] == second["output_tokens"] == 0


@pytest.mark.parametrize("recovery", ["restart", "fail"])
def test_w4_a_worker_killed_in_mid_stream_loses_nothing_that_was_shown(world: World, recovery: str):
    # The call that is to be cut off does not end before it is; the next one does.
    several = [world.ask("tokens=80 rate=80 hang=40 fail_times=1", recovery=recovery) for _ in range(3)]
    for each, characters in zip(several, (1, 40, 90), strict=True):
        each.reader.await_text(characters)
    shown = {each.turn_id: each.reader.reading.text for each in several}
    for pid in {each.worker() for each in several}:
        kill(pid)
    for each in several:
        turn = each.check()
        reading = each.reader.reading
        if recovery == "restart":
            assert (turn["status"], turn["attempt"], reading.resets) == ("completed", 2, 1)
        else:
            assert (turn["status"], turn["attempt"], reading.resets) == ("failed", 2, 0)
            assert turn["error"]["code"] == "worker_lost"
            assert reading.text.startswith(shown[each.turn_id])
            assert ledger(world, each)[0]["output_tokens"] > 0


@pytest.mark.parametrize("recovery", ["restart", "fail"])
def test_w5_a_worker_killed_between_the_last_delta_and_the_settlement(world: World, recovery: str):
    with world.failing(Failpoint.BEFORE_SETTLE) as await_death:
        asked = world.ask("tokens=8", recovery=recovery)
        await_death()
    turn = asked.check()
    # What had reached the log and what had not when it died differs; what was shown is not lost.
    if turn["status"] == "completed":
        assert turn["attempt"] == 2
        assert len(asked.requests()) == 2
    else:
        assert (recovery, turn["error"]["code"]) == ("fail", "worker_lost")
        assert len(ledger(world, asked)) == 1


@pytest.mark.parametrize("recovery", ["restart", "fail"])
def test_w5_a_worker_killed_when_all_was_shown_and_the_settlement_is_on_its_way(world: World, recovery: str):
    with world.postgres_proxy.trap(SETTLE, Moment.BEFORE, pids=world.pids("worker")) as settling:
        asked = world.ask("tokens=8", recovery=recovery)
        settling.await_sprung()
        asked.reader.await_type("message_end")
        whole = asked.reader.reading.text
        world.kill_held(settling, "worker")
    turn = asked.check()
    if recovery == "restart":
        assert (turn["status"], turn["attempt"], asked.reader.reading.resets) == ("completed", 2, 1)
        assert len(ledger(world, asked)) == 2
    else:
        assert (turn["status"], turn["error"]["code"]) == ("failed", "worker_lost")
        assert asked.reader.reading.text == whole
        assert len(ledger(world, asked)) == 1


def test_w6_a_worker_killed_between_settlement_and_done_is_ended_by_the_row(world: World):
    with world.failing(Failpoint.AFTER_SETTLE) as await_death:
        asked = world.ask("tokens=8")
        await_death()
    turn = asked.check()
    assert (turn["status"], turn["attempt"]) == ("completed", 1)
    assert asked.outcomes() == ["completed"]


def test_w7_a_worker_that_wakes_after_its_lease_writes_nothing_anywhere(world: World):
    asked = world.streaming("tokens=400 rate=40")
    zombie = asked.worker()
    failing = [world.streaming("tokens=400 rate=40", recovery="fail") for _ in range(4)]
    failing = [each for each in failing if each.worker() == zombie]
    with stopped(zombie):
        asked.reader.await_type("message_reset")
        wait_until(lambda: asked.reader.reading.text, "the next attempt", END_SECONDS)
        ended = [(each, each.check()) for each in failing]
        before = [
            world.rows("select * from turnkeeper.turns where id = %s", each.turn_id) for each in failing
        ]
        logs = [world.redis().xlen(log_of(each)) for each in failing]
    # It closes its connections to the provider when it finds that it was fenced.
    first = wait_until(
        lambda: [record for record in asked.requests()[:1] if record["outcome"] != "running"],
        "the zombie to give up",
        END_SECONDS,
    )
    assert first[0]["outcome"] == "client_disconnected"
    assert world.api.stop(asked.turn_id).status_code in {200, 202}
    turn = asked.check()
    assert (turn["status"], turn["attempt"]) == ("stopped", 2)
    assert [row["attempt"] for row in ledger(world, asked)] == [1, 2]
    for (each, _), row, entries in zip(ended, before, logs, strict=True):
        assert world.rows("select * from turnkeeper.turns where id = %s", each.turn_id) == row
        assert world.redis().xlen(log_of(each)) == entries
        assert len(ledger(world, each)) == 1


def log_of(asked: Asked) -> str:
    return f"tk:{{{asked.session_id}}}:log:{asked.turn_id}"


def test_w7_a_settlement_that_arrives_after_its_lease_is_void(world: World):
    with world.postgres_proxy.trap(SETTLE, Moment.BEFORE, pids=world.pids("worker")) as settling:
        asked = world.ask("tokens=8", recovery="fail")
        settling.await_sprung()
        zombie = world.pid_of(settling.held[-1].port, "worker")
        with stopped(zombie):
            turn = asked.check()
            before = world.rows("select * from turnkeeper.turns where id = %s", asked.turn_id)
            world.postgres_proxy.let_go(settling)
            wait_until(lambda: not is_busy(world, "given as"), "the late statement", END_SECONDS)
    assert turn["status"] == "failed"
    # What it finds when it wakes is another's turn.
    asked.check()
    assert world.rows("select * from turnkeeper.turns where id = %s", asked.turn_id) == before
    assert len(ledger(world, asked)) == 1


def is_busy(world: World, words: str) -> bool:
    return bool(
        world.rows(
            "select 1 as x from pg_stat_activity where state = 'active' and ltrim(query, E' \\n') like %s",
            f"with {words}%",
        )
    )


def test_w8_a_worker_that_stands_still_for_less_than_its_lease_goes_on(world: World):
    asked = world.streaming("tokens=120 rate=40")
    with stopped(asked.worker()):
        await_seconds(1.0)
    turn = asked.check()
    assert (turn["status"], turn["attempt"], asked.reader.reading.resets) == ("completed", 1, 0)
    assert asked.outcomes() == ["completed"]


def test_w9_all_workers_killed_at_once_end_no_turn(world: World):
    pids = world.service.pids("worker")
    scripts = ("tokens=3", "tokens=60 rate=40", "first=1 tokens=5", "delay=1 tokens=5")
    asked = [world.ask(script) for script in scripts * 3]
    asked[1].reader.await_text(20)
    for pid in pids:
        kill(pid)
    for each in asked:
        assert each.check()["status"] == "completed"
    world.await_replaced("worker", pids)


def test_w10_a_turn_that_kills_every_worker_fails_after_three_attempts(world: World):
    with world.postgres_proxy.trap(
        COMMIT, Moment.AFTER, after=CLAIM, pids=world.pids("worker"), times=3
    ) as claimed:
        asked = world.ask("tokens=5")
        for times in (1, 2, 3):
            claimed.await_sprung(times)
            world.kill_held(claimed, "worker")
        turn = asked.check()
    assert (turn["status"], turn["attempt"], turn["error"]["code"]) == ("failed", 4, "worker_lost")
    assert asked.requests() == ledger(world, asked) == []
    assert world.api.expect(200, "GET", f"/v1/sessions/{asked.session_id}")["turn_count"] == 0


def test_w11_a_draining_worker_hands_back_what_does_not_end_in_time(world: World):
    short = [world.streaming("tokens=30 rate=40", 1) for _ in range(4)]
    long = [world.streaming("tokens=200 rate=40", 1) for _ in range(4)]
    pids = world.service.pids("worker")
    handed_back = [each for each in long if each.worker() == pids[0]]
    os.kill(pids[0], signal.SIGTERM)
    for each in short:
        turn = each.check()
        assert (turn["status"], turn["attempt"], each.reader.reading.resets) == ("completed", 1, 0)
    for each in long:
        turn = each.check()
        back = int(each in handed_back)
        assert (turn["status"], turn["attempt"]) == ("completed", 1 + back)
        assert each.reader.reading.resets == back
        (row,) = world.rows("select handed_back from turnkeeper.turns where id = %s", each.turn_id)
        assert row["handed_back"] == back
    world.await_replaced("worker", pids[:1])


def test_w11_a_rolling_restart_of_everything_fails_no_short_turn(world: World):
    over = threading.Event()

    def keep_asking(_: int) -> list[Asked]:
        api, asked = world.service.api(), []
        while not over.is_set():
            each = world.ask("tokens=20 rate=40", api=api)
            each.reader.until_done()
            asked.append(each)
        return asked

    with ThreadPoolExecutor(3) as pool:
        askers = [pool.submit(keep_asking, number) for number in range(3)]
        try:
            for kind in ("worker", "relay", "web"):
                for pid in world.service.pids(kind):
                    os.kill(pid, signal.SIGTERM)
                    world.await_replaced(kind, [pid])
        finally:
            over.set()
        asked = [each for asker in askers for each in asker.result(END_SECONDS)]
    assert len(asked) > 8
    for each in asked:
        turn = each.check()
        assert (turn["status"], each.reader.reading.resets) == ("completed", 0)
