"""A hostile organization at its worst, and another whose turns start, stream and replay as ever (A11 to A14)."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.postgres.accounts import create_organization
from shared.redis.names import log_key
from tests.conftest import Keys, _keys
from tests.e2e.protocol_client import TERMINAL, Api, wait_until
from tests.faults.world import END_SECONDS, World

LIMIT_BYTES = 32 << 20
LARGE = "tokens=200 pad=4000"
"""An answer of 800 kB, of which forty do not fit into Redis."""
SLOTS = 8


@pytest.fixture(scope="module")
def more_environment() -> dict[str, str]:
    # A turn that hangs for minutes is told apart by its order, not by its time.
    return {"WORKER_TURNS": str(SLOTS), "QUEUE_FULL_SECONDS": "10"}


def ended(turn: dict) -> dict | None:
    return turn if turn["status"] in TERMINAL else None


class Hostile:
    """An organization that asks for a lot at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.keys: Keys = _keys(
            world.postgres.owner_url, create_organization(world.postgres.owner_url, "Hostile")
        )
        self._apis: list[Api] = []

    def api(self) -> Api:
        self._apis.append(Api(self._world.service.url, self.keys.service))
        return self._apis[-1]

    def asks(self, script: str, times: int) -> list[str]:
        """Ask for turns, each in a session of its own."""
        api = self.api()
        return [api.turn(api.session(user="mallory"), f"[[{script}]] {n}") for n in range(times)]

    def runs(self, script: str, times: int) -> list[dict]:
        """Run turns, many at a time, and return them."""

        def run(_: int) -> dict:
            api = self.api()
            turn = api.turn(api.session(user="mallory"), f"[[{script}]]")
            # Many wait at once, and only some of them find a place to: the others are answered early.
            return wait_until(
                lambda: ended(api.call("GET", f"/v1/turns/{turn}?wait=5").json()), "its end", END_SECONDS
            )

        with ThreadPoolExecutor(12) as threads:
            return list(threads.map(run, range(times)))

    def close(self) -> None:
        for api in self._apis:
            api.close()


@pytest.fixture
def hostile(world: World):
    world.redis().config_set("maxmemory", LIMIT_BYTES)
    world.redis().config_resetstat()
    world.await_ready()
    hostile = Hostile(world)
    yield hostile
    running = world.rows(
        "select id from turnkeeper.turns where status in ('queued', 'running', 'stopping')"
        " and user_name = 'mallory'"
    )
    api = hostile.api()
    for row in running:
        api.stop(str(row["id"]))
    for row in running:
        world.await_status(str(row["id"]), "stopped", "completed", "failed")
    hostile.close()
    world.redis().config_set("maxmemory", 0)


def is_untroubled(asked) -> None:
    turn = asked.check()
    assert (turn["status"], turn["attempt"]) == ("completed", 1)
    assert asked.reader.reading.resets == 0
    assert asked.reader.connections == 1


def test_a11_large_answers_of_one_organization_do_not_fill_redis_for_another(world: World, hostile: Hostile):
    before = world.ask("tokens=50")
    is_untroubled(before)
    with ThreadPoolExecutor(1) as beside:
        flood = beside.submit(hostile.runs, LARGE, 60)
        while not flood.done():
            asked = world.ask("tokens=50 rate=200")
            is_untroubled(asked)
            assert not asked.reader.reading.snapshots
        answers = flood.result()
    assert {turn["status"] for turn in answers} == {"completed"}
    stats = world.redis().info("errorstats")
    assert "errorstat_OOM" not in stats, stats
    # What ended before the flood is replayed event by event.
    page = world.api.expect(200, "GET", f"/v1/turns/{before.turn_id}/events?limit=100")
    assert [event["seq"] for event in page["data"]] == list(range(1, page["last_seq"] + 1))
    # What the hostile one's logs no longer hold, its rows do.
    assert not all(world.redis().exists(log_key(turn["session_id"], turn["id"])) for turn in answers)
    for turn in answers[::12]:
        reading = hostile.api().read(turn["id"])
        assert reading.is_whole
        assert len(reading.text) >= 800_000


def test_a12_turns_of_minutes_of_one_organization_leave_slots_for_another(world: World, hostile: Hostile):
    asked = hostile.asks("tokens=3 first=300", 4 * SLOTS)
    running = "select count(*) as n from turnkeeper.turns where status = 'running' and id = any(%s)"
    wait_until(
        lambda: world.rows(running, asked)[0]["n"] == 2 * (SLOTS - 1),
        "all slots but one of each worker",
        END_SECONDS,
    )
    for _ in range(3):
        is_untroubled(world.ask("tokens=20"))
    assert world.rows(running, asked)[0]["n"] == 2 * (SLOTS - 1)


def test_a13_prompts_of_one_organization_that_fail_do_not_keep_the_provider_from_another(
    world: World, hostile: Hostile
):
    failed = hostile.runs("status=500", 60)
    assert {turn["error"]["code"] for turn in failed} == {"provider_overloaded"}
    assert any("again and again" in turn["error"]["detail"] for turn in failed), (
        "its own breaker did not open"
    )
    for _ in range(5):
        is_untroubled(world.ask("tokens=20"))


def test_a14_a_queue_that_one_organization_fills_is_full_for_that_one_alone(world: World, hostile: Hostile):
    asked = hostile.asks("tokens=3 first=300", 4 * SLOTS)
    wait_until(
        lambda: world.rows(
            "update turnkeeper.turns set claimable_at = now() - interval '70 seconds'"
            " where status = 'queued' and id = any(%s) returning 1",
            asked,
        ),
        "turns that wait",
        END_SECONDS,
    )
    api = hostile.api()
    session = api.session(user="mallory")

    def refusal():
        answer = api.call("POST", f"/v1/sessions/{session}/turns", json={"content": "[[tokens=1]]"})
        return answer if answer.status_code == 503 else None

    refused = wait_until(refusal, "a full queue", END_SECONDS)
    assert refused.json()["code"] == "queue_full"
    for _ in range(3):
        is_untroubled(world.ask("tokens=5"))
