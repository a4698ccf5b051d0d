"""Turns while Redis answers and refuses, and while nobody can be rung for (rows R13 to R15)."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.protocol_client import wait_until
from tests.faults.world import END_SECONDS, Asked, World, await_seconds
from tests.refusing_redis import REFUSING, SAYING, saying

SHOWN_SECONDS = 10.0
"""Five, and the time that a busy test machine takes to ask."""
STARTS_SECONDS = 5.0
"""Within this time a turn starts, during a refusal and after it."""
LONG = "tokens=2000 rate=40"
"""Outlasts every refusal here: a worker that waited for it would be deaf."""
SHORT = "tokens=5"


@pytest.fixture(scope="module")
def more_environment() -> dict[str, str]:
    return {"LEASE_SECONDS": "20", "LEASE_TRUST_SECONDS": "15"}


@pytest.fixture(autouse=True)
def service_is_ready(world: World):
    world.await_ready()


@contextmanager
def refused(world: World, reply: str) -> Iterator[None]:
    """Have Redis refuse, by a real server's state or, where there is none, by another server at its address."""
    if reply in REFUSING:
        with world.redis() as server, REFUSING[reply](server):
            yield
        return
    said = next(each for each in SAYING if each.startswith(reply))
    with saying(said) as port:
        real, world.redis_proxy.target = world.redis_proxy.target, port
        world.redis_proxy.cut()
        try:
            yield
        finally:
            world.redis_proxy.target = real
            world.redis_proxy.cut()


def started(asked: Asked) -> float:
    """Return the seconds from now until the turn runs, or has run."""
    began_at = time.monotonic()
    asked.world.await_status(asked.turn_id, "running", "completed")
    return time.monotonic() - began_at


@pytest.mark.parametrize("reply", [*REFUSING, *(each.partition(" ")[0] for each in SAYING)])
def test_r13_a_redis_that_refuses_keeps_no_turn_waiting(world: World, reply: str):
    workers = set(world.service.pids("worker"))
    running = [world.streaming(LONG) for _ in range(2)]
    with refused(world, reply):
        during = ask(world)
        assert started(during) < STARTS_SECONDS
        # Long enough for whoever gives up to have done so.
        await_seconds(3)
        later = ask(world)
        assert started(later) < STARTS_SECONDS
    after = ask(world)
    assert started(after) < STARTS_SECONDS
    for each in running:
        world.api.stop(each.turn_id)
    for each in (during, later, after):
        turn = each.check()
        assert (turn["status"], turn["attempt"]) == ("completed", 1)
    for each in running:
        assert each.check()["status"] == "stopped"
    assert set(world.service.pids("worker")) == workers


def test_r14_turns_start_and_end_while_redis_is_away(world: World):
    with world.redis_proxy.refusing():
        asked = [ask(world) for _ in range(6)]
        for each in asked:
            world.await_status(each.turn_id, "completed")
    for each in asked:
        assert each.check()["attempt"] == 1


def test_r14_readiness_says_within_seconds_that_workers_ask(world: World):
    with world.redis_proxy.refusing():
        wait_until(lambda: checks_that_fail(world) == {"redis", "worker"}, "the checks", SHOWN_SECONDS)
        assert world.api.call("GET", "/readyz").status_code == 200
    world.await_ready()


def test_r14_a_worker_that_is_told_to_end_ends_while_redis_is_away(world: World):
    told = world.service.pids("worker")[0]
    with world.redis_proxy.refusing():
        wait_until(lambda: "redis" in checks_that_fail(world), "the outage to be noticed", SHOWN_SECONDS)
        os.kill(told, signal.SIGTERM)
        wait_until(lambda: told not in world.service.pids("worker"), "the worker's end", END_SECONDS)
    world.await_replaced("worker", [told])


def test_r15_workers_that_hear_nothing_ask_although_others_ring(world: World):
    with world.redis_proxy.refusing(world.pids("worker")):
        asked = [ask(world) for _ in range(6)]
        for each in asked:
            world.await_status(each.turn_id, "completed")
    for each in asked:
        assert each.check()["attempt"] == 1


def checks_that_fail(world: World) -> set[str]:
    checks = world.api.call("GET", "/readyz").json()["checks"]
    return {name for name, check in checks.items() if not check["ok"]}


def ask(world: World) -> Asked:
    return world.ask(SHORT)
