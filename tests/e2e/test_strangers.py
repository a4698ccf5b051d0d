"""Streams of another organization, requested by someone who knows every id (I9)."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import get_args

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from api.relay.conversation import Operation
from shared.postgres.accounts import create_key, create_organization
from tests.e2e.conftest import Service, running_service, temporary_folder
from tests.e2e.protocol_client import SUBPROTOCOL, Api, websocket
from turnkeeper.up.embedded import temporary_postgres, temporary_redis

KINDS = {kind.__struct_config__.tag: kind for kind in get_args(Operation)}


@pytest.fixture(scope="module")
def service(openai_compatible: dict[str, str]) -> Iterator[tuple[Service, dict[str, str]]]:
    """A service, and the keys of an organization that is not its first."""
    with ExitStack() as stack:
        postgres = stack.enter_context(temporary_postgres())
        redis = stack.enter_context(temporary_redis())
        folder = stack.enter_context(temporary_folder())
        servers = {
            "DATABASE_URL": postgres.app_url,
            "DATABASE_OWNER_URL": postgres.owner_url,
            "REDIS_URL": redis.url,
        }
        running = stack.enter_context(running_service(folder, **openai_compatible, **servers))
        other = create_organization(postgres.owner_url, "Globex")
        keys = {role: create_key(postgres.owner_url, other, role) for role in ("service", "admin")}
        keys["user"] = create_key(postgres.owner_url, other, "user", user="alice")
        yield running, keys


def test_no_operation_of_the_websocket_reaches_another_organization(service: tuple[Service, dict[str, str]]):
    running, strangers = service
    api = running.api()
    session = api.session(user="alice")
    turn = api.turn(session, "[[tokens=100000 rate=50]] not for strangers")
    ids = {"session_id": session, "turn_id": turn}
    assert {"subscribe", "unsubscribe", "stop", "ping"} <= KINDS.keys()
    for key in strangers.values():
        with websocket(running.url, key) as opened:
            for op, kind in ((op, kind) for op, kind in KINDS.items() if op != "ping"):
                known = {field.name for field in msgspec.structs.fields(kind)}
                for fields in ({name: ids[name] for name in ids if name in known}, {**ids, "after": 0}):
                    if not fields.keys() <= known:
                        continue
                    opened.send(op, **fields)
                    if op != "unsubscribe":  # that answers nothing, whoever asks
                        refusal = opened.receive()
                        assert (refusal["type"], refusal["code"]) == ("refused", "not_found"), op
            opened.send("ping")
            assert opened.receive() == {"type": "pong"}
            with suppress(TimeoutError):
                raise AssertionError(f"a stranger was sent {opened.receive(0.5)}")
    untouched = api.get_turn(turn)
    assert (untouched["stop_requested_at"], untouched["finished_at"]) == (None, None)
    assert api.stopped(turn)["status"] == "stopped"


def test_a_ticket_opens_nothing_beyond_its_session_and_no_stranger_gets_one(
    service: tuple[Service, dict[str, str]],
):
    running, strangers = service
    api = running.api()
    session, another = api.session(user="alice"), api.session(user="alice")
    for role, key in strangers.items():
        stranger = Api(running.url, key)
        stranger.expect(404, "POST", "/v1/tickets", json={"session_id": session})
        own = stranger.session(**({} if role == "user" else {"user": "alice"}))
        ticket = stranger.expect(201, "POST", "/v1/tickets", json={"session_id": own})["ticket"]
        with websocket(running.url, None, SUBPROTOCOL, f"ticket.{ticket}") as opened:
            opened.send("subscribe", session_id=session)
            assert opened.receive()["code"] == "not_found"
            opened.subscribe(own)
        with (
            pytest.raises(InvalidStatus),
            websocket(running.url, None, SUBPROTOCOL, f"ticket.{ticket}"),
        ):
            pass
        stranger.close()
    ticket = api.expect(201, "POST", "/v1/tickets", json={"session_id": session})["ticket"]
    with websocket(running.url, None, SUBPROTOCOL, f"ticket.{ticket}") as opened:
        opened.send("subscribe", session_id=another)
        assert opened.receive()["code"] == "not_found"
        opened.subscribe(session)


def test_no_event_stream_carries_another_organizations_events(service: tuple[Service, dict[str, str]]):
    running, strangers = service
    turn = running.api().ask("[[tokens=3]] not for strangers")
    for key in strangers.values():
        stranger = Api(running.url, key)
        for accept in ("text/event-stream", "application/json"):
            path = f"/v1/turns/{turn['id']}/events"
            assert stranger.call("GET", path, headers={"Accept": accept}).status_code == 404
        stranger.close()
