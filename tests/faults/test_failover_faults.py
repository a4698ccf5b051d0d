"""Turns when PostgreSQL fails over to a server that was behind (rows P4 and P11 to P13)."""

from collections.abc import Iterator

import pytest

from tests.e2e.protocol_client import websocket
from tests.faults.conftest import SHARED, running_world
from tests.faults.world import END_SECONDS, World, stopped
from tests.standby import Pair, replicated


@pytest.fixture
def pair() -> Iterator[World]:
    SHARED.end()
    with running_world({}, replicated) as world:
        yield world
        for reader in world.readers:
            reader.wants_end.set()


def servers(world: World) -> Pair:
    assert isinstance(world.postgres, Pair)
    return world.postgres


def ledger(world: World, turn_id: str) -> list[dict]:
    return world.rows("select * from turnkeeper.ledger where turn_id = %s", turn_id)


def test_p4_what_was_lost_was_never_accepted_for_a_client_that_asks_again_with_its_key(pair: World):
    session = pair.api.session(user="alice")
    path, body = f"/v1/sessions/{session}/turns", {"content": "[[tokens=3]] with a key"}
    headers = {"Idempotency-Key": "p4"}
    servers(pair).catch_up()
    with servers(pair).behind():
        lost = pair.api.call("POST", path, json=body, headers=headers)
        assert lost.status_code == 202
        servers(pair).fail_over(pair.postgres_proxy)
    pair.await_ready()
    again = pair.api.call("POST", path, json=body, headers=headers)
    assert again.status_code == 202
    assert "idempotency-replayed" not in again.headers
    assert again.json()["id"] != lost.json()["id"]
    assert pair.api.read(again.json()["id"]).is_whole


def test_p11_a_turn_whose_end_was_told_does_not_run_again_when_the_end_is_lost(pair: World):
    asked = pair.streaming("tokens=40 rate=40", 1)
    servers(pair).catch_up()
    with servers(pair).behind():
        told = asked.reader.until_done().done
        servers(pair).fail_over(pair.postgres_proxy)
    turn = asked.check()
    assert (turn["status"], turn["attempt"]) == ("completed", 1)
    assert turn["cost_usd"] == told["cost_usd"]
    assert len(ledger(pair, asked.turn_id)) == len(asked.requests()) == 1
    assert pair.ask("tokens=3").check()["status"] == "completed"


def test_p12_nor_does_it_when_its_claim_is_lost_as_well(pair: World):
    with stopped(*pair.service.pids("worker")):
        asked = pair.ask("tokens=20")
        servers(pair).catch_up()
        link = servers(pair).behind()
        link.__enter__()
    try:
        asked.reader.until_done()
        servers(pair).fail_over(pair.postgres_proxy)
    finally:
        link.__exit__(None, None, None)
    turn = asked.check()
    assert turn["status"] == "completed"
    assert len(ledger(pair, asked.turn_id)) == len(asked.requests()) == 1


def test_p13_a_reader_of_a_turn_that_is_lost_is_refused_and_its_session_goes_on(pair: World):
    session = pair.api.session(user="alice")
    servers(pair).catch_up()
    with servers(pair).behind():
        lost = pair.api.turn(session, "[[tokens=2000 rate=20]] this turn is lost")
        with websocket(pair.service.url, pair.service.key()) as socket:
            socket.send("subscribe", session_id=session, turn_id=lost)
            while socket.receive(END_SECONDS)["type"] != "content_delta":
                pass
            servers(pair).fail_over(pair.postgres_proxy)
            while (frame := socket.receive(END_SECONDS))["type"] != "refused":
                assert frame["type"] != "done"
            assert (frame["turn_id"], frame["code"]) == (lost, "not_found")
    pair.await_ready()
    assert pair.api.call("GET", f"/v1/turns/{lost}").status_code == 404
    again = pair.api.turn(session, "[[tokens=3]] asked again")
    assert pair.api.read(again).is_whole
