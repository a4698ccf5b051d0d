"""Requests that wait for a turn's end: they hold no thread, and have a share for each organization and user (C11)."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from shared.postgres.accounts import create_key, create_organization
from tests.e2e.conftest import Service, running_service, temporary_folder
from tests.e2e.protocol_client import LIMIT_SECONDS, Api, wait_until
from turnkeeper.up.embedded import temporary_postgres, temporary_redis

THREADS = 4
MOST_WAITS = 80
OF_ORGANIZATION = MOST_WAITS // 2
OF_USER = OF_ORGANIZATION // 4
LONG = "[[tokens=100000 rate=20]] a turn without end"


@pytest.fixture(scope="module")
def world(openai_compatible: dict[str, str]) -> Iterator[tuple[Service, str, str]]:
    """A service with few threads, the owner's address and the id of a second organization."""
    with ExitStack() as stack:
        postgres = stack.enter_context(temporary_postgres())
        redis = stack.enter_context(temporary_redis())
        folder = stack.enter_context(temporary_folder())
        servers = {
            "DATABASE_URL": postgres.app_url,
            "DATABASE_OWNER_URL": postgres.owner_url,
            "REDIS_URL": redis.url,
            "WEB_THREADS": str(THREADS),
            "MAX_WAITS": str(MOST_WAITS),
        }
        service = stack.enter_context(running_service(folder, **openai_compatible, **servers))
        yield service, postgres.owner_url, create_organization(postgres.owner_url, "Globex")


class Waiter:
    """A connection on which one request waits."""

    def __init__(self, url: str, key: str, turn_id: str, wait: float = 60) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=LIMIT_SECONDS)
        self.key, self.host = key, address.netloc
        self.ask("/healthz")
        assert self.answer()[0] == 200  # a process has the connection
        self.ask(f"/v1/turns/{turn_id}?wait={wait}")

    def ask(self, target: str) -> None:
        lines = [f"GET {target} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.key}", "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def answer(self) -> tuple[int, dict[str, str], dict]:
        """Read one response: status, headers and body."""
        with self.socket.makefile("rb", buffering=0) as read:
            status = int(read.readline().split()[1])
            headers = {}
            while line := read.readline().strip().decode():
                name, _, value = line.partition(": ")
                headers[name.lower()] = value
            body = b""
            while len(body) < int(headers["content-length"]):
                body += read.read(int(headers["content-length"]) - len(body))
            return status, headers, json.loads(body)

    def has_answer(self) -> bool:
        """Return whether anything has arrived, without waiting."""
        self.socket.setblocking(False)
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(LIMIT_SECONDS)


@contextmanager
def waiters(url: str, key: str, turn_id: str, number: int) -> Iterator[list[Waiter]]:
    made = [Waiter(url, key, turn_id) for _ in range(number)]
    try:
        yield made
    finally:
        for each in made:
            each.socket.close()


@contextmanager
def running(api: Api, user: str = "alice") -> Iterator[str]:
    """A turn that runs until it is left."""
    turn_id = api.turn(api.session(user=user), LONG)
    try:
        wait_until(lambda: api.get_turn(turn_id)["status"] == "running", "the turn to run")
        yield turn_id
    finally:
        api.stop(turn_id)


def test_many_wait_without_a_thread_and_are_answered_at_the_end(world):
    service, _, _ = world
    api = service.api()
    # One place is left for the stop.
    with running(api) as turn, waiters(service.url, service.key(), turn, OF_ORGANIZATION - 1) as waiting:
        # Ten times as many as there are threads; every other request is served meanwhile.
        for _ in range(3 * THREADS):
            assert api.get_turn(turn)["status"] == "running"
        assert not any(each.has_answer() for each in waiting)
        assert api.stopped(turn)["status"] == "stopped"
        for each in waiting:
            status, headers, body = each.answer()
            assert (status, body["id"], body["status"]) == (200, turn, "stopped")
            assert headers["content-type"] == "application/json"
            assert headers["cache-control"] == "no-store"
            assert headers["x-request-id"]
            assert "connection" not in headers
        # The connection serves the next request, of either kind.
        waiting[0].ask(f"/v1/turns/{turn}?wait=60")
        assert waiting[0].answer()[2]["status"] == "stopped"
        waiting[0].ask("/healthz")
        assert waiting[0].answer()[0] == 200


def test_a_hostile_organization_leaves_a_second_one_its_places_and_threads(world):
    service, owner_url, other = world
    hostile, victim = service.api(), Api(service.url, create_key(owner_url, other, "service"))
    with (
        running(hostile) as theirs,
        running(victim) as ours,
        waiters(service.url, service.key(), theirs, 25 * THREADS) as waiting,
    ):
        wait_until(
            lambda: sum(each.has_answer() for each in waiting) == len(waiting) - OF_ORGANIZATION,
            "all but the organization's share to be refused",
        )
        refused = [each for each in waiting if each.has_answer()]
        status, headers, body = refused[0].answer()
        assert (status, body["code"], body["scope"]) == (429, "rate_limited", "waits")
        assert int(headers["retry-after"]) > 0
        # The other's requests wait, are answered, and stop, as if nobody else were there.
        for _ in range(2 * THREADS):
            assert victim.get_turn(ours)["status"] == "running"
        answer = victim.expect(200, "GET", f"/v1/turns/{ours}?wait=0.1")
        assert answer["status"] == "running"
        assert victim.stop(ours, wait_ms=30_000).status_code == 200
        # A stop is made even without a place to wait for its effect.
        stop = hostile.stop(theirs, wait_ms=30_000)
        assert (stop.status_code, int(stop.headers["retry-after"])) == (202, 5)
        assert stop.json()["status"] in {"stopping", "stopped"}
    victim.close()


def test_a_user_leaves_another_of_its_organization_places(world):
    service, owner_url, other = world
    alice, bob = (create_key(owner_url, other, "user", user=name) for name in ("alice", "bob"))
    back_end = Api(service.url, create_key(owner_url, other, "service"))
    with (
        running(back_end, "alice") as hers,
        running(back_end, "bob") as his,
        waiters(service.url, alice, hers, OF_USER + 3) as waiting,
    ):
        wait_until(lambda: sum(each.has_answer() for each in waiting) == 3, "her fourth to be refused")
        with waiters(service.url, bob, his, 1) as one:
            assert back_end.get_turn(his)["status"] == "running"
            assert not one[0].has_answer()
    back_end.close()


def test_a_client_that_leaves_gives_its_place_back(world):
    service, _, _ = world
    api = service.api()
    with running(api) as turn:
        for _ in range(3):
            with waiters(service.url, service.key(), turn, OF_ORGANIZATION) as waiting:
                assert api.get_turn(turn)["status"] == "running"
                assert not any(each.has_answer() for each in waiting)
            # All of them have left: there is room for one again.
            wait_until(
                lambda: api.call("GET", f"/v1/turns/{turn}?wait=0.05").status_code == 200, "a free place"
            )


def test_a_process_that_stops_answers_those_who_wait(world):
    service, _, _ = world
    api = service.api()
    pids = service.pids("web")
    with running(api) as turn, waiters(service.url, service.key(), turn, 10) as waiting:
        for _ in range(3 * THREADS):  # what was sent before them has been taken
            assert api.get_turn(turn)["status"] == "running"
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for each in waiting:
            status, headers, body = each.answer()
            assert (status, body["id"], headers["connection"]) == (200, turn, "close")
        service.await_pids("web", gone=pids)
