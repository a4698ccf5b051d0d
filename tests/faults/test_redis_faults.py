"""Turns and their readers while Redis dies, loses data, fills up, hangs or lies (rows R)."""

import time

import pytest

from tests.e2e.protocol_client import wait_until
from tests.faults.proxy import Moment
from tests.faults.world import END_SECONDS, Asked, World, await_seconds, kill, stopped

SLOW = "tokens=80 rate=40"
"""Answers in two seconds."""
ACCEPT_SECONDS = 0.3
"""Median time within which a post must be answered while Redis is down: test machines are slow."""


@pytest.fixture(scope="module")
def more_environment() -> dict[str, str]:
    """A lease that no slow machine loses: here nothing waits for one to run out but the row with a dead worker."""
    return {"LEASE_SECONDS": "20", "LEASE_TRUST_SECONDS": "15"}


def restart_redis(world: World) -> None:
    """Kill Redis and restart it, empty, at the same address."""
    kill(world.redis_server.pid)
    wait_until(lambda: not world.redis_server.pid, "the end of Redis")
    world.redis_server.stop()
    world.redis_server.start()


@pytest.fixture(autouse=True)
def redis_is_back(world: World):
    """A test leaves Redis as it should be, and begins with a service that has noticed."""
    if not world.redis_server.pid:
        world.redis_server.start()
    world.redis().config_set("maxmemory", 0)
    world.await_ready()


def completed(asked: list[Asked]) -> None:
    """Every turn ended at its first attempt, and its reader has all of it without a reset."""
    for each in asked:
        turn = each.check()
        assert (turn["status"], turn["attempt"]) == ("completed", 1)
        assert each.reader.reading.resets == 0


def test_r1_turns_that_waited_while_redis_was_restarted_are_rung_again(world: World):
    with stopped(*world.service.pids("worker")):
        asked = [world.ask("tokens=3") for _ in range(5)]
        restart_redis(world)
    completed(asked)


def test_r2_a_redis_that_is_restarted_in_mid_stream_costs_no_text(world: World):
    asked = [world.streaming(SLOW, characters) for characters in (1, 60, 120)]
    restart_redis(world)
    completed(asked)


def test_r3_a_flush_in_mid_stream_is_a_gap_and_a_snapshot_at_most(world: World):
    asked = [world.streaming(SLOW, characters) for characters in (1, 60, 120)]
    for _ in range(3):
        world.redis().flushall()
        await_seconds(0.2)
    late = world.read(asked[0].session_id)  # joins where the log no longer begins
    completed(asked)
    assert late.until_done().is_whole


def test_r3_a_flush_and_a_dead_worker_together_lose_only_what_a_reset_takes_back(world: World):
    asked = world.streaming(SLOW, 60)
    worker = asked.worker()
    with stopped(worker):
        world.redis().flushall()
        kill(worker)
    turn = asked.check(unnoted=1)  # with its log went what the last renewal had not noted
    assert (turn["status"], turn["attempt"]) == ("completed", 2)
    world.await_replaced("worker", [worker])


def test_r4_a_full_redis_stops_no_turn_and_no_stop(world: World):
    ending, stopping = world.streaming(SLOW), world.streaming("tokens=2000 rate=40")
    world.redis().config_set("maxmemory", 1)
    asked_at = time.monotonic()
    assert world.api.stop(stopping.turn_id).status_code in {200, 202}
    world.await_status(stopping.turn_id, "stopped")
    # By the renewal of the lease, since the abort flag cannot be set.
    assert time.monotonic() - asked_at < 10
    for each in (ending, stopping):
        each.reader.until_done()
    world.redis().config_set("maxmemory", 0)
    assert stopping.check()["status"] == "stopped"
    completed([ending])


def test_r4_a_turn_that_was_asked_for_while_redis_was_full_reaches_its_reader(world: World):
    running = world.streaming(SLOW)
    world.redis().config_set("maxmemory", 1)
    # No doorbell can be rung: the worker takes it when it has ended another.
    asked = world.ask("tokens=3")
    running.reader.until_done()
    world.await_status(asked.turn_id, "queued", "completed")
    world.redis().config_set("maxmemory", 0)
    completed([asked])


@pytest.mark.parametrize("how", ["refusing", "holding"])
def test_r5_workers_cut_off_from_redis_finish_their_turns(world: World, how: str):
    asked = [world.streaming(SLOW) for _ in range(3)]
    with getattr(world.redis_proxy, how)(world.pids("worker")):
        for each in asked:
            world.await_status(each.turn_id, "completed")
            each.reader.until_done()  # told by the row
    completed(asked)


@pytest.mark.parametrize("how", ["refusing", "holding"])
def test_r6_readers_behind_relays_cut_off_from_redis_end_with_the_whole_text(world: World, how: str):
    asked = [world.streaming(SLOW) for _ in range(3)]
    with getattr(world.redis_proxy, how)(world.pids("relay")):
        for each in asked:
            each.reader.until_done()
    completed(asked)


def hang_redis(world: World, seconds: float) -> None:
    """Let Redis hang while turns run, are asked for and end."""
    running = [world.streaming(SLOW) for _ in range(3)]
    api = world.service.api()
    sessions = [api.session(user="alice") for _ in range(20)]
    took = []
    with stopped(world.redis_server.pid):
        hung_at = time.monotonic()
        posted = []
        for session in sessions:
            began = time.monotonic()
            posted.append(api.turn(session, "[[tokens=3]] while it hangs"))
            took.append(time.monotonic() - began)
        for each in running:
            world.await_status(each.turn_id, "completed")
        await_seconds(max(0.0, seconds - (time.monotonic() - hung_at)))
    assert sorted(took)[len(took) // 2] < ACCEPT_SECONDS, took
    completed(running)
    for turn_id in posted:
        world.await_status(turn_id, "completed")
        assert api.read(turn_id).is_whole


def test_r7_a_redis_that_hangs_delays_no_answer_to_a_post_and_ends_no_turn(world: World):
    hang_redis(world, 8)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_r7_a_redis_that_hangs_for_a_minute_changes_nothing(world: World):
    hang_redis(world, 60)


def test_r8_a_slow_redis_makes_larger_deltas_and_no_slower_answers(world: World):
    with world.redis_proxy.delaying(0.2):
        asked = [world.streaming("tokens=200 rate=200", 1) for _ in range(2)]
        completed(asked)
    for each in asked:
        (record,) = each.requests()
        # The provider was read at its own pace of a second.
        assert (record["finished_ns"] - record["first_token_ns"]) / 1e9 < 3
        assert each.reader.reading.types.count("content_delta") < 60


def test_r9_connections_that_are_killed_again_and_again_lose_and_double_nothing(world: World):
    ending = [world.streaming(SLOW, 1) for _ in range(3)]
    going_on = [world.streaming("tokens=100000 rate=40", 1) for _ in range(3)]
    client = world.redis()
    rounds = 0
    while any(each.reader.reading.done is None for each in (*ending, *going_on)):
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await_seconds(0.1)
        rounds += 1
        if rounds == 20:
            for each in going_on:
                assert world.api.stop(each.turn_id).status_code in {200, 202}
        assert rounds < 10 * END_SECONDS, "no end"
    completed(ending)
    for each in going_on:
        turn = each.check()
        assert (turn["status"], turn["attempt"], each.reader.reading.resets) == ("stopped", 1, 0)
    for each in (*ending, *going_on):
        assert each.reader.reading.snapshots == []


def test_r10_an_append_whose_reply_is_lost_is_not_shown_twice(world: World):
    with world.redis_proxy.trap(
        b"EVALSHA", Moment.AFTER, pids=world.pids("worker"), times=7, cuts=True
    ) as lost:
        asked = [world.streaming(SLOW, 1) for _ in range(3)]
        lost.await_sprung(7)
    completed(asked)
    for each in asked:
        assert each.reader.reading.snapshots == []


def test_r12_a_relay_whose_subscription_overflowed_reads_the_log(world: World):
    client = world.redis()
    before = client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    client.config_set("client-output-buffer-limit", "pubsub 65536 65536 1")
    try:
        asked = [world.streaming("tokens=300 rate=200 pad=12000", 1) for _ in range(5)]
        kills = client.info("stats").get("client_output_buffer_limit_disconnections", 0)
        with stopped(*world.service.pids("relay")):
            for each in asked:
                world.await_status(each.turn_id, "completed")
        completed(asked)
        assert client.info("stats").get("client_output_buffer_limit_disconnections", 1) > kills
    finally:
        client.config_set("client-output-buffer-limit", before)
