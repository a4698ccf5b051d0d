"""Open streams have a share for each organization and each of its users (C11 of the fault matrix)."""

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from shared.postgres.accounts import create_key, create_organization
from tests.e2e.conftest import Service, running_service, temporary_folder
from tests.e2e.protocol_client import LIMIT_SECONDS, SUBPROTOCOL, Api, websocket
from turnkeeper.up.embedded import temporary_postgres, temporary_redis

MOST = 32
OF_ORGANIZATION = MOST // 2
OF_USER = OF_ORGANIZATION // 4


@pytest.fixture(scope="module")
def world(openai_compatible: dict[str, str]) -> Iterator[tuple[Service, str]]:
    with ExitStack() as stack:
        postgres = stack.enter_context(temporary_postgres())
        redis = stack.enter_context(temporary_redis())
        folder = stack.enter_context(temporary_folder())
        servers = {
            "DATABASE_URL": postgres.app_url,
            "DATABASE_OWNER_URL": postgres.owner_url,
            "REDIS_URL": redis.url,
            "MAX_SOCKETS": str(MOST),
        }
        service = stack.enter_context(running_service(folder, **openai_compatible, **servers))
        yield service, postgres.owner_url


@pytest.fixture
def keys(world: tuple[Service, str], request: pytest.FixtureRequest) -> dict[str, str]:
    """Keys of an organization of the test's own."""
    _, owner_url = world
    organization = create_organization(owner_url, request.node.name)
    users = {name: create_key(owner_url, organization, "user", user=name) for name in ("alice", "bob")}
    return {"service": create_key(owner_url, organization, "service"), **users}


def close_code(service: Service, key: str | None, *subprotocols: str) -> int | None:
    """Open a websocket; return the code with which it is closed at once, None if it stays open."""
    with websocket(service.url, key, *subprotocols) as opened:
        try:
            opened.send("ping")
            assert opened.receive() == {"type": "pong"}
        except ConnectionClosed as closed:
            return closed.rcvd and closed.rcvd.code
    return None


def test_a_user_at_its_limit_leaves_another_of_its_organization_room(world, keys):
    service, _ = world
    back_end = Api(service.url, keys["service"])
    session = back_end.session(user="alice")
    with ExitStack() as stack:
        for _ in range(OF_USER - 1):
            stack.enter_context(websocket(service.url, keys["alice"])).send("ping")
        # A ticket that a back end asks for is the session's user's.
        ticket = back_end.expect(201, "POST", "/v1/tickets", json={"session_id": session})["ticket"]
        opened = stack.enter_context(websocket(service.url, None, SUBPROTOCOL, f"ticket.{ticket}"))
        opened.send("ping")
        assert opened.receive() == {"type": "pong"}
        assert close_code(service, keys["alice"]) == 4429
        turn = back_end.turn(session, "[[tokens=100000 rate=20]] a turn without end")
        answer = httpx.get(
            f"{service.url}/v1/turns/{turn}/events",
            headers={"Authorization": f"Bearer {keys['alice']}", "Accept": "text/event-stream"},
            timeout=LIMIT_SECONDS,
            trust_env=False,
        )
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["scope"]) == (429, "rate_limited", "streams")
        assert int(answer.headers["Retry-After"]) > 0
        assert close_code(service, keys["bob"]) is None
        assert close_code(service, keys["service"]) is None
        back_end.stop(turn)
    back_end.close()


def test_an_organization_at_its_limit_leaves_another_room(world, keys):
    service, _ = world
    with ExitStack() as stack:
        for _ in range(OF_ORGANIZATION):
            opened = stack.enter_context(websocket(service.url, keys["service"]))
            opened.send("ping")
            assert opened.receive() == {"type": "pong"}
        assert close_code(service, keys["service"]) == 4429
        assert close_code(service, keys["bob"]) == 4429
        assert close_code(service, service.key()) is None
