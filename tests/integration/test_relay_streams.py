"""Streams as a client sees them, over real sockets, gunicorn and Redis, with faults in the middle (I4, I8)."""

import json
import os
import signal
import socket
import threading
from contextlib import ExitStack
from http.client import HTTPConnection
from uuid import uuid4

import pytest
import redis
from websockets.exceptions import ConnectionClosed

from shared.turn.events import ContentDelta, TurnQueued
from tests.integration.relay_world import (
    LIMIT_SECONDS,
    Service,
    Text,
    Worker,
    eventually,
    read_until,
    receive,
    send,
    subscribe,
)
from turnkeeper.up.embedded import temporary_redis


@pytest.fixture(scope="module")
def service(redis_server, tmp_path_factory):
    service = Service(redis_server.url, tmp_path_factory.mktemp("relay"))
    yield service
    service.close()


@pytest.fixture
def rows(service):
    return service.rows


@pytest.fixture
def worker(service, redis_server):
    return Worker(service.rows, redis_server.url).accept()


MOST_TEXT = 32 << 20
"""More than a kernel holds for a socket that nobody reads, and the relay itself."""


def kill_subscriptions(client):
    for connection in client.client_list():
        if connection["name"] == "tk-relay-events":
            client.client_kill_filter(_id=connection["id"])


def test_a_subscriber_gets_replay_caught_up_and_live_events_in_order(service, worker):
    worker.begin().deltas(3)
    with service.socket() as ws:
        frame = subscribe(ws, worker)
        assert frame["turn_id"] == str(worker.turn_id)
        replay = read_until(ws, "caught_up")
        assert [one.get("seq") for one in replay] == [1, 2, 3, 4, 5, 6, None]
        worker.deltas(200)
        worker.finish()
        text = Text(6, "<3><4><5>").read(ws)
    assert text.content == worker.text.content
    assert text.seq == 207


@pytest.mark.parametrize("after", [0, 1, 5, 50, 99, 100, 103, 104])
def test_a_resume_gets_exactly_what_it_lacks(service, worker, after):
    worker.begin().deltas(100)
    worker.finish()
    with service.socket() as ws:
        subscribe(ws, worker, turn_id=str(worker.turn_id), after=after)
        frames = read_until(ws, "caught_up")
    assert [one["seq"] for one in frames[:-1]] == (list(range(after + 1, 105)) or [104])
    assert frames[-2]["type"] == "done"


def test_subscriptions_of_one_session_on_one_socket_repeat_nothing_of_each_other(service, redis_server):
    """Turn A streams while B, C and D of its session are subscribed; each replay is long enough to be interrupted."""
    for _ in range(10):
        session_id = service.rows.session()
        turns = [Worker(service.rows, redis_server.url, session_id).accept().begin() for _ in range(4)]
        for turn in turns:
            turn.append([turn.encode(ContentDelta("x" * 400)) for _ in range(200)])
        with service.socket() as ws:
            for turn in turns:
                send(ws, "subscribe", session_id=str(session_id), turn_id=str(turn.turn_id))
                turns[0].deltas(3)
            send(
                ws, "subscribe", session_id=str(session_id), turn_id=str(uuid4())
            )  # refused: takes nothing away
            for turn in turns:
                turn.deltas(5)
                turn.finish()
            texts = {}
            while len(texts) < len(turns) or not all(text.is_over for text in texts.values()):
                frame = receive(ws)
                if (turn_id := frame.get("turn_id")) is None:
                    continue  # caught up, or refused
                # Its own subscription sets a turn's cursor anew, and no other one does.
                if frame["type"] == "subscribed":
                    texts[turn_id] = Text()
                else:
                    texts.setdefault(turn_id, Text()).take(frame)
        for turn in turns:
            text = texts[str(turn.turn_id)]
            assert (text.content, text.gaps) == (turn.text.content, 0)


def test_killed_subscriptions_lose_and_repeat_nothing(service, worker, redis_server):
    """R9 of the fault matrix: plain pub/sub lost 13 % of the deltas and a dozen ends."""
    worker.begin()
    others = [Worker(service.rows, redis_server.url).accept().begin() for _ in range(3)]
    with ExitStack() as stack, redis.Redis.from_url(redis_server.url) as client:
        readers = []
        for one in [worker, *others]:
            ws = stack.enter_context(service.socket())
            subscribe(ws, one)
            readers.append((one, ws))
        for _ in range(10):
            for one, _ws in readers:
                one.deltas(10)
            kill_subscriptions(client)
        for one, _ws in readers:
            one.deltas(5)
            one.finish()
        for one, ws in readers:
            text = Text().read(ws)
            assert (text.content, text.gaps) == (one.text.content, 0)


def test_a_flush_is_said_and_the_text_is_whole(service, worker, redis_server):
    """R3 of the fault matrix."""
    before = service.health()["occurred"]
    worker.begin().deltas(20)
    with service.socket() as ws, redis.Redis.from_url(redis_server.url) as client:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        client.flushall()
        worker.deltas(20)
        client.flushall()
        kill_subscriptions(client)
        worker.deltas(20)
        worker.finish()
        text = Text(23, "".join(f"<{seq}>" for seq in range(3, 23))).read(ws)
        occurred = service.health()["occurred"]
    assert text.content == worker.text.content
    assert occurred["gaps"] - before["gaps"] == text.gaps > 0
    assert occurred["replays"] - before["replays"] >= 1


def test_an_end_that_was_never_said_comes_from_the_row(service, worker):
    """The worker died between its commit and `done` (W6 of the fault matrix)."""
    worker.begin().deltas(5)
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        worker.settle()
        assert receive(ws)["type"] == "done"


def test_a_turn_that_no_worker_ever_ran_ends_for_its_readers(service, worker):
    worker.attempt = 0
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        worker.settle()
        assert receive(ws)["type"] == "done"


def test_without_redis_the_text_and_the_end_come_from_the_row(tmp_path):
    """R6 and R7 of the fault matrix: Redis is gone for good; the sockets stay open."""
    with temporary_redis() as server:
        service = Service(server.url, tmp_path)
        try:
            worker = Worker(service.rows, server.url).accept().begin()
            with service.socket() as ws:
                subscribe(ws, worker)
                frames = read_until(ws, "caught_up")
                text = Text()
                for frame in frames[:-1]:
                    text.take(frame)
                server.stop()
                worker.encode(ContentDelta("said to nobody"))
                worker.save()
                while "snapshot" not in text.types:
                    text.take(receive(ws))
                assert text.content == "said to nobody"
                worker.settle()
                assert text.read(ws).content == "said to nobody"
                with service.socket() as late:
                    subscribe(late, worker, turn_id=str(worker.turn_id))
                    assert Text().read(late).content == "said to nobody"
        finally:
            service.close()


def test_turns_that_came_and_went_unheard_are_delivered(service, worker, redis_server):
    """A broken subscription may miss a whole turn."""
    worker.begin().finish()
    with service.socket() as ws, redis.Redis.from_url(redis_server.url) as client:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        unheard = Worker(service.rows, redis_server.url, worker.session_id)
        unheard.encode(TurnQueued(), attempt=0)
        unheard.encode(ContentDelta("unheard"))
        unheard.settle()
        kill_subscriptions(client)
        frames = read_until(ws, "done")
    assert {frame["turn_id"] for frame in frames} == {str(unheard.turn_id)}
    assert [frame["type"] for frame in frames] == ["gap", "snapshot", "done"]


def test_a_turn_that_begins_later_is_followed_from_its_start(service, worker, redis_server):
    worker.finish()
    with service.socket() as ws:
        frame = subscribe(ws, worker)
        assert (frame["turn_id"], frame["last_seq"]) == (None, 0)
        assert receive(ws)["type"] == "caught_up"
        later = Worker(service.rows, redis_server.url, worker.session_id).accept().begin()
        later.deltas(5)
        later.finish()
        assert Text().read(ws).content == later.text.content


def test_an_unknown_turn_in_the_middle_is_read_from_its_start(service, worker, redis_server):
    worker.finish()
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        later = Worker(service.rows, redis_server.url, worker.session_id)
        channel, later.keys[1] = later.keys[1], "elsewhere"
        later.accept().begin()
        later.keys[1] = channel
        later.deltas(2)
        later.finish()
        assert Text().read(ws).content == later.text.content


def test_a_snapshot_of_a_turn_that_is_over_is_followed_by_done(service, worker):
    worker.begin().deltas(10)
    worker.finish()
    worker.settle()
    with service.socket() as ws:
        subscribe(ws, worker, turn_id=str(worker.turn_id), replay="snapshot")
        frames = read_until(ws, "caught_up")
    assert [frame["type"] for frame in frames] == ["snapshot", "done", "caught_up"]
    assert frames[0]["content"] == worker.text.content


def test_a_snapshot_stands_for_the_replay_when_it_is_asked_for(service, worker):
    worker.begin().deltas(10)
    with service.socket() as ws:
        subscribe(ws, worker, replay="snapshot")
        frames = read_until(ws, "caught_up")
        assert [frame["type"] for frame in frames] == ["snapshot", "caught_up"]
        assert (frames[0]["seq"], frames[0]["content"]) == (13, worker.text.content)
        worker.deltas(3)
        worker.finish()
        text = Text(13, frames[0]["content"]).read(ws)
    assert text.content == worker.text.content


@pytest.mark.parametrize("cursor", [999, 10**15])
def test_a_cursor_from_the_future_is_reset(service, worker, cursor):
    """C6 of the fault matrix."""
    worker.begin().deltas(3)
    with service.socket() as ws:
        subscribe(ws, worker, after=cursor)
        frames = read_until(ws, "caught_up")
        assert [frame["type"] for frame in frames] == ["gap", "snapshot", "caught_up"]
        worker.finish()
        assert Text(frames[1]["seq"], frames[1]["content"]).read(ws).content == worker.text.content


def test_large_messages_arrive_whole(service, worker):
    """simple-websocket #45: a frame larger than the socket's buffer was cut."""
    worker.begin().deltas(60, size=100_000)
    with service.socket() as ws:
        subscribe(ws, worker, replay="snapshot")
        snapshot = receive(ws)
        assert snapshot["content"] == worker.text.content
        worker.finish()
    with service.socket() as ws:
        subscribe(ws, worker, turn_id=str(worker.turn_id))
        assert Text().read(ws).content == worker.text.content


def test_a_slow_reader_is_closed_and_costs_nobody_else_anything(service, worker):
    """I8, C2 of the fault matrix."""
    worker.begin()
    before = service.health()["occurred"]
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    narrow.connect(("127.0.0.1", service.port))
    with service.socket(sock=narrow) as slow, service.socket() as quick:
        for ws in (slow, quick):
            subscribe(ws, worker)
            read_until(ws, "caught_up")
        text = Text(3)
        reading = threading.Thread(target=lambda: text.read(quick))
        reading.start()
        while service.health()["occurred"]["overflows"] == before["overflows"]:
            assert len(worker.text.content) < MOST_TEXT
            worker.deltas(5, size=40_000)
            eventually(lambda: text.seq == worker.text.seq)  # quick is who keeps up
        worker.finish()
        reading.join(LIMIT_SECONDS)
        assert text.content == worker.text.content
        with pytest.raises(ConnectionClosed) as closed:
            read_until(slow, "done")  # what was on its way still arrives
        assert closed.value.rcvd.code == 4409
    after = service.health()["occurred"]
    assert (after["overflows"] - before["overflows"], after["websockets"] - before["websockets"]) == (1, 2)
    with service.socket() as again:
        subscribe(again, worker, turn_id=str(worker.turn_id), after=3)
        assert Text(3).read(again).content == worker.text.content


def test_streams_hold_no_threads(service, worker):
    """Four websockets on four threads starved HTTP completely."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(service.socket()) for _ in range(30)]
        for ws in sockets:
            subscribe(ws, worker)
        assert service.health()["websockets"] >= 30
        worker.begin().finish()
        for ws in sockets:
            read_until(ws, "done")
    eventually(lambda: service.health()["websockets"] == 0)


def test_what_cannot_be_done_for_one_session_leaves_the_socket_open(service, worker, rows):
    with service.socket() as ws:
        for session_id in (str(uuid4()), "no-id", str(worker.session_id).upper()):
            send(ws, "subscribe", session_id=session_id)
            assert receive(ws) == {
                "type": "refused",
                "op": "subscribe",
                "session_id": session_id,
                "code": "not_found",
            }
        send(ws, "subscribe", session_id=str(worker.session_id), turn_id=str(uuid4()))
        assert receive(ws)["code"] == "not_found"
        send(ws, "stop", turn_id=str(uuid4()))
        assert receive(ws)["code"] == "not_found"
        with rows.flag("down"):
            send(ws, "subscribe", session_id=str(worker.session_id))
            assert receive(ws)["code"] == "unavailable"
        subscribe(ws, worker)
        send(ws, "stop", turn_id=str(worker.turn_id))
        eventually((rows.folder / f"{worker.turn_id}.stop").exists)


def test_a_mistake_of_ours_closes_the_socket_and_the_next_is_served(service, worker, rows):
    with service.socket() as ws, rows.flag("broken"):
        send(ws, "subscribe", session_id=str(worker.session_id))
        with pytest.raises(ConnectionClosed) as closed:
            receive(ws)
    assert closed.value.rcvd.code == 1011
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")


def test_a_turn_of_another_session_is_not_found_under_this_one(service, worker, redis_server):
    other = Worker(service.rows, redis_server.url).accept()
    with service.socket() as ws:
        send(ws, "subscribe", session_id=str(worker.session_id), turn_id=str(other.turn_id))
        assert receive(ws)["code"] == "not_found"


def test_a_ticket_reads_its_own_session_and_no_other(service, worker, redis_server):
    other = Worker(service.rows, redis_server.url).accept()
    with service.socket(key=None, subprotocols=("turnkeeper.v1", f"ticket.for-{worker.session_id}")) as ws:
        assert ws.subprotocol == "turnkeeper.v1"
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        send(ws, "subscribe", session_id=str(other.session_id))
        assert receive(ws)["code"] == "not_found"


def test_an_unsubscribed_session_is_silent(service, worker, redis_server):
    other = Worker(service.rows, redis_server.url).accept()
    with service.socket() as ws:
        for one in (worker, other):
            subscribe(ws, one)
            read_until(ws, "caught_up")
        send(ws, "unsubscribe", session_id=str(worker.session_id))
        send(ws, "subscribe", session_id=str(other.session_id), after=1)
        read_until(ws, "caught_up")
        worker.begin().finish()
        other.begin().finish()
        frames = read_until(ws, "done")
    assert {frame["session_id"] for frame in frames} == {str(other.session_id)}


def test_subscribing_again_repeats_nothing_of_the_other_turns(service, worker, redis_server):
    worker.begin()
    other = Worker(service.rows, redis_server.url, worker.session_id).accept()
    with service.socket() as ws:
        subscribe(ws, worker)
        seen = read_until(ws, "caught_up")
        other.begin()
        seen += read_until(ws, "message_start")
        subscribe(ws, worker, turn_id=str(worker.turn_id), after=worker.text.seq)
        seen += read_until(ws, "caught_up")
        other.finish()
        seen += read_until(ws, "done")
    assert [frame["seq"] for frame in seen if frame.get("turn_id") == str(other.turn_id)] == [1, 2, 3, 4]


# Server-sent events


def open_stream(service, worker, headers=None, query="", method="GET"):
    connection = HTTPConnection("127.0.0.1", service.port, timeout=LIMIT_SECONDS)
    connection.request(method, f"/v1/turns/{worker.turn_id}/events{query}", headers=headers or {})
    return connection, connection.getresponse()


def read_stream(response):
    """Return the events until the end of the stream."""
    events, event = [], {}
    for line in response:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            event[name] = value
        elif "data" in event:
            events.append((event.get("id"), event["event"], json.loads(event["data"])))
            event = {}
        else:
            event = {}
    return events


def test_an_event_stream_carries_the_turn_and_ends_after_done(service, worker):
    worker.begin().deltas(5)
    connection, response = open_stream(service, worker)
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["X-Request-Id"] == "r-1"
    assert response.readline() == b"retry: 1000\n"
    worker.deltas(5)
    worker.finish()
    events = read_stream(response)
    connection.close()
    assert [event[0] for event in events] == [str(seq) for seq in range(1, 15)]
    assert events[-1][1] == "done"
    assert "".join(event[2].get("delta", "") for event in events) == worker.text.content


@pytest.mark.parametrize(
    ("headers", "query", "first"),
    [({"Last-Event-ID": "7"}, "", 8), ({}, "?after=7", 8), ({"Last-Event-ID": "garbage"}, "", 1)],
)
def test_an_event_stream_resumes(service, worker, headers, query, first):
    worker.begin().deltas(10)
    worker.finish()
    connection, response = open_stream(service, worker, headers, query)
    events = read_stream(response)
    connection.close()
    assert [int(event[0]) for event in events] == list(range(first, 15))


def test_an_event_stream_of_a_lost_log_is_a_gap_a_snapshot_and_the_end(service, worker, redis_server):
    worker.begin().deltas(10)
    worker.finish()
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    connection, response = open_stream(service, worker, {"Last-Event-ID": "4"})
    events = read_stream(response)
    connection.close()
    assert [(event[0], event[1]) for event in events] == [(None, "gap"), ("13", "snapshot"), ("14", "done")]


def test_a_client_that_leaves_an_event_stream_is_noticed(service, worker):
    connection, response = open_stream(service, worker)
    response.readline()
    eventually(lambda: service.health()["event_streams"] == 1)  # those of earlier tests have gone
    response.close()
    connection.close()
    eventually(lambda: service.health()["event_streams"] == 0)


def test_head_gives_the_headers_of_an_event_stream(service, worker):
    connection, response = open_stream(service, worker, method="HEAD")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.read() == b""
    connection.close()


# The service's own life


@pytest.fixture
def own(redis_server, tmp_path):
    services = []

    def start(**environment):
        services.append(Service(redis_server.url, tmp_path, **environment))
        return services[-1]

    yield start
    for service in services:
        service.close()


def test_a_restart_closes_with_1012_and_the_next_process_resumes(own, redis_server):
    service = own()
    worker = Worker(service.rows, redis_server.url).accept().begin()
    with service.socket() as ws:
        subscribe(ws, worker)
        read_until(ws, "caught_up")
        service.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=LIMIT_SECONDS)
        assert closed.value.rcvd.code == 1012
    assert service.process.wait(LIMIT_SECONDS) == 0
    worker.deltas(5)
    worker.finish()
    with own().socket() as ws:
        subscribe(ws, worker, turn_id=str(worker.turn_id), after=3)
        assert Text(3).read(ws).content == worker.text.content


def test_a_revoked_key_reads_no_longer(own, redis_server):
    service = own(RECHECK="0.2")
    with service.socket() as ws, service.rows.flag("revoked"):
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=LIMIT_SECONDS)
        assert closed.value.rcvd.code == 4401


def test_one_socket_too_many_is_told_so(own):
    service = own(MOST_SOCKETS="2")
    with service.socket(), service.socket():
        eventually(lambda: service.health()["websockets"] == 2)
        with service.socket() as third:
            with pytest.raises(ConnectionClosed) as closed:
                third.recv(timeout=LIMIT_SECONDS)
            assert closed.value.rcvd.code == 4429


def test_an_organizations_sockets_are_counted_over_all_its_keys(own):
    service = own(MOST_OF_ORGANIZATION="2")
    ticket = f"ticket.for-{service.rows.session()}"
    with service.socket(), service.socket(key=None, subprotocols=["turnkeeper.v1", ticket]):
        eventually(lambda: service.health()["websockets"] == 2)
        with service.socket() as third:
            with pytest.raises(ConnectionClosed) as closed:
                third.recv(timeout=LIMIT_SECONDS)
            assert closed.value.rcvd.code == 4429
    eventually(lambda: service.health()["websockets"] == 0)
    with service.socket() as fourth:  # whoever leaves makes room
        send(fourth, "ping")
        assert receive(fourth) == {"type": "pong"}


def test_streams_are_counted_for_each_address(own, redis_server):
    service = own(MOST_OF_ADDRESS="2")
    with service.socket(), service.socket():
        eventually(lambda: service.health()["websockets"] == 2)
        with service.socket() as third:
            with pytest.raises(ConnectionClosed) as closed:
                third.recv(timeout=LIMIT_SECONDS)
            assert closed.value.rcvd.code == 4429
        eventually(lambda: service.health()["websockets"] == 2)
        connection, response = open_stream(service, Worker(service.rows, redis_server.url).accept())
        assert (response.status, json.loads(response.read())["code"]) == (429, "rate_limited")
        connection.close()
        elsewhere = socket.create_connection(("127.0.0.1", service.port), LIMIT_SECONDS, ("127.0.0.2", 0))
        with service.socket(sock=elsewhere) as fourth:
            send(fourth, "ping")
            assert receive(fourth) == {"type": "pong"}
    eventually(lambda: service.health()["websockets"] == 0)
    with service.socket() as fifth:  # whoever leaves makes room
        send(fifth, "ping")
        assert receive(fifth) == {"type": "pong"}


def test_a_websocket_that_grew_old_is_told_to_come_back(own):
    service = own(MOST_AGE="0.5")
    with service.socket() as ws:
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=LIMIT_SECONDS)
        assert closed.value.rcvd.code == 1012


def test_a_peer_that_answers_no_ping_is_closed(own):
    service = own(HEARTBEAT="3")
    with service.socket() as alive:
        raw = socket.create_connection(("127.0.0.1", service.port), LIMIT_SECONDS)
        raw.sendall(
            b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Authorization: Bearer good-key\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        with raw, raw.makefile("rb") as answer:
            assert answer.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
            assert answer.read()  # to the end: it was closed
        eventually(lambda: service.health()["websockets"] == 1)
        assert json.loads(alive.recv(timeout=LIMIT_SECONDS)) == {"type": "ping"}


def test_a_relay_that_is_killed_loses_nothing(own, redis_server):
    """C1 of the fault matrix."""
    first = own()
    worker = Worker(first.rows, redis_server.url).accept().begin()
    text = Text()
    with first.socket() as ws:
        subscribe(ws, worker)
        worker.deltas(10)
        while text.seq < 8:
            frame = receive(ws)
            text.take(frame)
        for pid in [first.health()["pid"], first.process.pid]:
            os.kill(pid, signal.SIGKILL)
    worker.deltas(10)
    worker.finish()
    with own().socket() as ws:
        subscribe(ws, worker, turn_id=str(worker.turn_id), after=text.seq)
        assert text.read(ws).content == worker.text.content
