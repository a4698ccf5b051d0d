"""Readers and stops that strain a service, and a dead relay (rows C of the fault matrix)."""

import json
import random
import socket
import struct
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.protocol_client import TERMINAL, Reading, wait_until, websocket
from tests.faults.world import END_SECONDS, World, kill

SLOW = "tokens=80 rate=40"
"""Answers in two seconds."""


def test_c1_readers_of_a_killed_relay_come_back_and_miss_nothing(world: World):
    asked = [world.streaming(SLOW, 1) for _ in range(4)]
    readers = [world.read(each.session_id) for each in asked for _ in range(5)]
    pids = world.service.pids("relay")
    for pid in pids:
        kill(pid)
    for each in asked:
        assert each.check()["attempt"] == 1
    for reader in readers:
        reading = reader.until_done()
        assert reading.is_whole
        assert reading.snapshots == []
    assert sum(reader.connections for reader in readers) > len(readers)
    world.await_replaced("relay", pids)


def test_c2_a_reader_that_does_not_read_is_closed_and_delays_nobody(world: World):
    session = world.api.session(user="alice")
    reader = world.read(session)
    address = urlsplit(world.service.url)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((address.hostname, address.port))
        open_websocket(world, lazy)
        lazy.sendall(frame(json.dumps({"op": "subscribe", "session_id": session}).encode()))
        turn_id = world.api.turn(session, "[[tokens=600 rate=300 pad=6000]] flood")
        reading = reader.until_done()
        assert reading.is_whole
        turn = world.api.final(turn_id)
        assert turn["status"] == "completed"
        lags = sorted(
            at - reader.times[0][0] - (position / len(reader.times)) * 2
            for position, (at, _) in enumerate(reader.times)
        )
        assert lags[len(lags) // 2] < 5
        lazy.settimeout(END_SECONDS)
        received = b""
        while part := recv_or_nothing(lazy):
            received = (received + part)[-64:]
        # 4409 as the payload of a close frame, or a connection that was simply dropped with it unsent.
        assert len(received) < 64 or struct.pack(">H", 4409) in received or not received.endswith(b"}")


def recv_or_nothing(connection: socket.socket, what: str = "") -> bytes:
    try:
        return connection.recv(65536)
    except TimeoutError as late:
        raise AssertionError(f"the socket stays open: {what}") from late
    except ConnectionError:
        return b""


def upgrade(world: World) -> bytes:
    address = urlsplit(world.service.url)
    return (
        f"GET /v1/stream HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: turnkeeper.v1\r\nAuthorization: Bearer {world.service.key()}\r\n\r\n"
    ).encode()


def open_websocket(world: World, connection: socket.socket) -> None:
    """Shake hands, byte by byte, so that nothing behind the handshake is read."""
    connection.sendall(upgrade(world))
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1) or b"\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 101"), answer


def frame(payload: bytes, opcode: int = 1, *, is_masked: bool = True, is_last: bool = True) -> bytes:
    """Return a client's websocket frame, or one that no client may send."""
    head = bytes([(0x80 if is_last else 0) | opcode])
    bit = 0x80 if is_masked else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([bit | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", len(payload))
    return head + (b"\0\0\0\0" if is_masked else b"") + payload


def test_c3_a_turn_that_nobody_watches_is_answered_and_kept(world: World):
    marker = uuid.uuid4().hex
    turn_id = world.api.turn(world.api.session(user="alice"), f"[[tokens=20 rate=40]] {marker}")
    world.await_status(turn_id, "completed")
    assert world.check(turn_id, marker, world.api.read(turn_id))["status"] == "completed"


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_c4_a_storm_of_readers_that_come_back_is_answered(world: World):
    asked = world.streaming("tokens=3000 rate=5", 1)  # until it is stopped
    with ThreadPoolExecutor(60) as pool:
        readers = list(pool.map(lambda _: world.read(asked.session_id), range(300)))
    for pid in world.service.pids("relay"):
        kill(pid)
    began = time.monotonic()
    assert world.api.call("GET", f"/v1/turns/{asked.turn_id}").status_code == 200
    assert time.monotonic() - began < 5
    wait_until(lambda: all(reader.connections > 1 for reader in readers), "all to be back", END_SECONDS)
    assert world.api.stop(asked.turn_id).status_code in {200, 202}
    for reader in readers:
        assert reader.until_done().is_whole
    assert asked.check()["status"] == "stopped"


def test_c5_whoever_comes_before_during_or_after_and_from_any_event_ends_with_the_same_text(world: World):
    asked = world.streaming("tokens=30 rate=30", 1)
    during = world.read(asked.session_id)
    turn = asked.check()
    texts = {asked.reader.reading.text, during.until_done().text}
    events = world.api.page(turn["id"])["data"]
    assert len(events) == turn["last_seq"]
    for after in range(turn["last_seq"] + 1):
        reading = Reading(turn["id"], turn["session_id"])
        for event in events[:after]:
            reading.take(event)
        if reading.done is None:
            with world.api.stream("GET", f"/v1/turns/{turn['id']}/events?after={after}") as rest:
                for event in rest:
                    reading.take(event)
        assert reading.is_whole
        texts.add(reading.text)
    world.redis().flushall()  # as long after the end
    reading = world.api.read(turn["id"])
    assert len(reading.snapshots) == 1
    assert reading.is_whole
    assert texts == {reading.text}


def test_c6_cursors_and_ids_that_mean_nothing_show_nothing_foreign(world: World):
    asked = world.streaming(SLOW, 1)
    dice = random.Random(6)
    strange = ["x", "", "0", str(uuid.uuid4()), "../..", "\u0000", asked.turn_id + "0", asked.turn_id.upper()]
    with websocket(world.service.url, world.service.key()) as ws:
        for name in strange:
            ws.send("subscribe", session_id=name)
            assert ws.receive()["type"] == "refused"
            ws.send("subscribe", session_id=asked.session_id, turn_id=name)
            assert ws.receive()["type"] == "refused"
        for after in (10**6, 10**12, dice.randint(200, 10**5)):
            # Nothing was ever told by that number: the text so far, and on from there.
            reading = Reading(asked.turn_id, asked.session_id)
            ws.send("subscribe", session_id=asked.session_id, turn_id=asked.turn_id, after=after)
            while (event := ws.receive())["type"] != "caught_up":
                if event["type"] in {"gap", "snapshot"}:
                    assert event.get("seq", 0) <= after
            del reading
    with websocket(world.service.url, world.service.key()) as ws:
        ws.connection.send('{"op":"subscribe","session_id":1}')
        with pytest.raises(ConnectionClosed) as closed:
            ws.until(lambda _: False)
        assert closed.value.rcvd.code == 4400
    asked.check()


def test_c7_frames_that_no_client_may_send_close_their_own_socket_only(world: World):
    asked = world.streaming(SLOW, 1)
    address = urlsplit(world.service.url)
    wrong = {
        "too large": frame(b"x" * 20_000),
        "binary": frame(b"\0\1\2", opcode=2),
        "unmasked": frame(b'{"op":"ping"}', is_masked=False),
        "reserved": frame(b"", opcode=5),
        "no text": frame(b"\xff\xfe\xfd"),
        "not json": frame(b"hello"),
        "deep": frame(b"[" * 10_000),
        "endless fragments": frame(b"x" * 9_000, is_last=False)
        + frame(b"x" * 9_000, opcode=0, is_last=False),
    }
    for what, sent in wrong.items():
        with socket.create_connection(
            (address.hostname, address.port), timeout=END_SECONDS / 4
        ) as connection:
            open_websocket(world, connection)
            connection.sendall(sent)
            received = b""
            # A close frame, or the end of the connection.
            while b"\x88" not in received and (part := recv_or_nothing(connection, what)):
                received += part
    half_open = [socket.create_connection((address.hostname, address.port)) for _ in range(20)]
    for connection in half_open:
        connection.sendall(upgrade(world))
        connection.close()
    asked.check()


def test_c8_a_stop_in_any_phase_ends_the_turn_once(world: World):
    phases = [
        world.ask("hang_headers=1"),
        world.ask("first=60 tokens=5"),
        world.streaming("tokens=5000 rate=40"),
        world.streaming("tokens=50 hang=5", 1),
        world.ask("status=503 retry_after=30"),
    ]
    wait_until(lambda: all(each.requests() for each in phases), "all calls", END_SECONDS)
    for each in phases:
        assert world.api.stop(each.turn_id).status_code in {200, 202}
        assert world.api.stop(each.turn_id).status_code in {200, 202}
    for each in phases:
        turn = each.check()
        assert (turn["status"], turn["stop_reason"]) == ("stopped", "user")
        assert world.api.stop(each.turn_id).status_code == 200
        (outcome,) = each.outcomes()
        assert outcome in {"client_disconnected", "refused"}


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(40, id="40"),
        pytest.param(1000, id="1000", marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
def test_c8_a_stop_that_meets_the_end_is_either(world: World, rounds: int):
    dice = random.Random(8)

    def race(_: int) -> str:
        api = world.service.api()
        session, marker = api.session(user="alice"), uuid.uuid4().hex
        turn_id = api.turn(session, f"[[tokens=4 rate=200]] {marker}")
        threading.Event().wait(dice.uniform(0.0, 0.06))
        answer = api.stop(turn_id)
        assert answer.status_code in {200, 202}
        was_over = answer.json()["status"] if answer.status_code == 200 else None
        turn = api.final(turn_id)
        assert turn["status"] in {"completed", "stopped"}
        assert was_over in {None, turn["status"]}
        reading = api.read(turn_id)
        world.check(turn_id, marker, reading)
        # A late stop does not hit the next turn.
        later = api.ask("[[tokens=2]] next", session)
        assert later["status"] == "completed"
        api.close()
        return turn["status"]

    with ThreadPoolExecutor(4) as pool:
        ends = set(pool.map(race, range(rounds)))
    assert ends <= TERMINAL


def test_c9_deleting_a_session_in_mid_stream_stops_its_turn_and_keeps_the_ledger(world: World):
    asked = world.streaming("tokens=5000 rate=40")
    assert world.api.call("DELETE", f"/v1/sessions/{asked.session_id}").status_code == 204
    reading = asked.reader.until_done()
    assert (reading.done["status"], reading.done["stop_reason"]) == ("stopped", "session_closed")
    assert asked.outcomes()[0] == "client_disconnected"
    assert world.rows("select 1 as x from turnkeeper.ledger where turn_id = %s", asked.turn_id)
