"""What the loop does with connections that no thread serves, with real sockets and a clock of the test."""

import selectors
import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from shared.errors import ProblemCode
from turnkeeper.up import arrivals as arrivals_module
from turnkeeper.up.arrivals import HEAD_SECONDS, IDLE_SECONDS, LINGER_SECONDS, Arrivals, Connection
from turnkeeper.up.arriving import Whole

LIMIT_SECONDS = 60.0
HEAD = b"POST / HTTP/1.1\r\nHost: here\r\n"


class Loop:
    """A loop with its arrivals; `turn` is one of its rounds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.whole: list[tuple[Connection, Whole]] = []
        self.closed = 0
        self.unserved: list[ProblemCode] = []
        self.poller = selectors.DefaultSelector()
        self.arrivals = Arrivals(
            self.poller,
            lambda connection, whole: self.whole.append((connection, whole)),
            self._count,
            self.unserved.append,
            clock=lambda: self.now,
        )
        self.peers: list[socket.socket] = []

    def _count(self) -> None:
        self.closed += 1

    def connect(self, address: str = "10.0.0.1") -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(LIMIT_SECONDS)
        self.peers.append(theirs)
        self.arrivals.enter(Connection(SimpleNamespace(), ours, (address, 1), ("", 0)), is_new=True)
        return theirs

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        for key, _ in self.poller.select(0):
            key.data(key.fileobj)
        self.arrivals.expire()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.arrivals.expire(by_force=True)
    assert len(made.arrivals) == 0
    for connection, _ in made.whole:
        connection.close()
    for peer in made.peers:
        peer.close()
    made.poller.close()


def test_silence_ends_a_new_connection_without_a_word(loop: Loop):
    peer = loop.connect()
    loop.turn(HEAD_SECONDS - 0.1)
    assert loop.closed == 0
    loop.turn(1)
    assert peer.recv(100) == b""
    assert (loop.closed, loop.unserved) == (1, [])


def test_a_connection_between_two_requests_may_rest_and_then_has_the_time_of_a_head(loop: Loop):
    peer = loop.connect()
    peer.sendall(HEAD + b"\r\n")
    loop.turn()
    (connection, _) = loop.whole[0]
    loop.arrivals.answered(connection, is_kept=True)
    loop.turn(IDLE_SECONDS - 1)
    peer.sendall(b"GET")
    loop.turn()
    loop.turn(HEAD_SECONDS - 1)
    assert loop.closed == 0
    loop.turn(2)
    assert peer.recv(100).startswith(b"HTTP/1.1 408 ")
    assert loop.unserved == [ProblemCode.REQUEST_TIMEOUT]


def test_a_body_may_take_the_time_of_its_slowest_rate_and_no_more(loop: Loop):
    peer = loop.connect()
    peer.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    loop.turn()
    for _ in range(30):  # 10 KB/s
        peer.sendall(b"x" * 10_000)
        loop.turn(1)
    assert loop.unserved == []
    for _ in range(60):
        peer.sendall(b"x")
        loop.turn(1)
        if loop.unserved:
            break
    assert loop.unserved == [ProblemCode.REQUEST_TIMEOUT]


def test_a_peer_that_never_ends_its_side_is_let_go(loop: Loop):
    peer = loop.connect()
    peer.sendall(b"\x16\x03\x01")
    loop.turn()
    assert peer.recv(100).startswith(b"HTTP/1.1 400 ")
    peer.sendall(b"more")
    loop.turn()
    assert loop.closed == 0
    loop.turn(LINGER_SECONDS + 1)
    assert loop.closed == 1


def test_room_is_made_by_the_address_that_has_most(loop: Loop):
    one = loop.connect("10.0.0.2")
    many = [loop.connect("10.0.0.1") for _ in range(3)]
    for peer in many[:2]:
        assert loop.arrivals.make_room()
        assert peer.recv(1) == b""
    one.sendall(HEAD + b"\r\n")
    loop.turn()
    assert len(loop.whole) == 1


def test_room_is_made_by_one_that_rests_before_one_that_reads_its_answer(loop: Loop):
    reading = loop.connect()
    reading.sendall(HEAD + b"\r\n")
    loop.turn()
    (connection, _) = loop.whole[0]
    connection.sock.sendall(b"x" * 2_000_000)
    loop.arrivals.answered(connection, is_kept=True)
    resting = loop.connect()
    assert loop.arrivals.make_room()
    assert resting.recv(1) == b""
    assert reading.recv(1) == b"x"
    assert loop.arrivals.make_room()
    assert not loop.arrivals.make_room()


def test_bodies_that_fill_the_memory_are_refused_the_largest_first(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(arrivals_module, "BUFFERED_BYTES", 100_000)
    large, small = loop.connect(), loop.connect()
    small.sendall(HEAD + b"Content-Length: 5\r\n\r\nhell")
    large.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n")
    loop.turn()
    for _ in range(2):
        large.sendall(b"x" * 60_000)
        loop.turn()
    assert large.recv(100).startswith(b"HTTP/1.1 503 ")
    assert loop.unserved == [ProblemCode.UNAVAILABLE]
    small.sendall(b"o")
    loop.turn()
    assert loop.whole[0][1].encoded.endswith(b"hello")


def test_a_client_that_left_while_it_expected_to_be_told_to_go_on_costs_nothing(loop: Loop):
    peer = loop.connect()
    peer.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    peer.shutdown(socket.SHUT_RD)
    peer.close()
    loop.turn()
    loop.turn()
    assert loop.closed == 1


def test_a_stop_waits_neither_for_requests_nor_cuts_answers_that_are_being_read(loop: Loop):
    idle, reading = loop.connect(), loop.connect()
    reading.sendall(HEAD + b"\r\n")
    loop.turn()
    (connection, _) = loop.whole[0]
    connection.sock.sendall(b"x" * 2_000_000)
    loop.arrivals.answered(connection, is_kept=True)
    loop.arrivals.hurry(loop.now + 2.0)
    loop.turn(3)
    assert idle.recv(1) == b""
    read = 0
    while read < 2_000_000:
        read += len(reading.recv(65_536))
        loop.turn()
    loop.turn(1)
    assert loop.closed == 2


def test_who_reads_slowly_what_the_kernel_has_already_taken_is_not_cut_off(loop: Loop):
    reading, resting = loop.connect("10.0.0.2"), loop.connect("10.0.0.3")
    for peer in reading, resting:
        peer.sendall(HEAD + b"\r\n")
    loop.turn()
    for connection, _ in loop.whole:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
        connection.sock.sendall(b"x" * 3_000_000)
        loop.arrivals.answered(connection, is_kept=True)
    for _ in range(12):
        assert len(reading.recv(16_000, socket.MSG_WAITALL)) == 16_000
        loop.now += 1
        loop.arrivals.expire()  # before the socket can be written again
    assert loop.closed == 1
    assert resting.recv(1) == b"x"
    assert [connection.client[0] for connection in loop.arrivals._held] == ["10.0.0.2"]
