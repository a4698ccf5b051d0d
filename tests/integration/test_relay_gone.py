"""Readers of a turn or a session whose row a failover has lost are refused: no stream waits for ever."""

from http.client import HTTPConnection

import pytest

from tests.integration.relay_world import LIMIT_SECONDS, Service, Worker, read_until, receive, subscribe


@pytest.fixture(scope="module")
def service(redis_server, tmp_path_factory):
    service = Service(redis_server.url, tmp_path_factory.mktemp("relay"), RECHECK="0.2")
    yield service
    service.close()


@pytest.fixture
def worker(service, redis_server):
    return Worker(service.rows, redis_server.url).accept().begin()


def lose(worker):
    (worker.rows.folder / f"{worker.turn_id}.turn").unlink()


def refusal(worker, **ids):
    return {
        "type": "refused",
        "op": "subscribe",
        "session_id": str(worker.session_id),
        **ids,
        "code": "not_found",
    }


@pytest.mark.parametrize("has_log", [True, False])
def test_a_websocket_whose_turn_is_gone_is_refused_and_serves_other_sessions(
    service, worker, redis_server, has_log
):
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        lose(worker)
        if not has_log:
            worker.redis.delete(worker.keys[0])
        assert receive(ws) == refusal(worker, turn_id=str(worker.turn_id))
        other = Worker(service.rows, redis_server.url).accept().begin()
        subscribe(ws, other)
        read_until(ws, "caught_up")


def test_an_event_stream_whose_turn_is_gone_ends_with_a_refusal(service, worker):
    connection = HTTPConnection("127.0.0.1", service.port, timeout=LIMIT_SECONDS)
    connection.request("GET", f"/v1/turns/{worker.turn_id}/events")
    response = connection.getresponse()
    lose(worker)
    lines = []
    while line := response.readline():
        lines.append(line)
    connection.close()
    assert b"event: refused\n" in lines
    assert b'"code":"not_found"' in lines[-2]
    assert not any(b"done" in line for line in lines)


def test_a_reader_that_comes_as_the_row_is_lost_is_refused(service, worker):
    with service.socket() as ws:
        subscribe(ws, worker, turn_id=str(worker.turn_id), after=worker.text.seq)
        lose(worker)
        assert read_until(ws, "refused")[-1] == refusal(worker, turn_id=str(worker.turn_id))


def test_a_session_that_vanished_is_refused_though_nothing_runs_in_it(service, worker):
    worker.finish()
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        (service.rows.folder / f"{worker.session_id}.session").unlink()
        assert receive(ws) == refusal(worker)


def test_a_database_that_is_down_loses_nobody(service, worker):
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        with service.rows.flag("down"):
            lose(worker)
            worker.deltas(3)
            assert [receive(ws)["type"] for _ in range(3)] == ["content_delta"] * 3
            worker.save()
        worker.finish()
        assert read_until(ws, "done")[-1]["type"] == "done"
