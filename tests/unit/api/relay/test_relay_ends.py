"""How a connection ends: what is written last, and what becomes of its socket."""

from uuid import UUID

import pytest

from api.caller import Caller
from api.relay.connection import Connection, Phase
from api.relay.event_stream import BareEventStream, EventStream, chunk
from api.relay.face import FaceKind, Farewell, Parting
from api.relay.frames import CloseCode
from api.relay.places import Reader
from shared.turn.replay import Outgoing

CALLER = Caller(UUID(int=3), UUID(int=4), "service", None, None)


class Wire:
    """A socket that takes as many bytes as it is told to."""

    def __init__(self):
        self.taken, self.room, self.options, self.is_shut_down = b"", 0, [], False

    def send(self, data):
        part = bytes(data[: self.room])
        if not part:
            raise BlockingIOError
        self.room -= len(part)
        self.taken += part
        return len(part)

    def shutdown(self, how):
        self.is_shut_down = True

    def setsockopt(self, *option):
        self.options.append(option)

    def close(self):
        pass


class Timer:
    def cancel(self):
        pass


class Loop:
    """Calls a writer when it is asked to."""

    def __init__(self):
        self.write = None

    def time(self):
        return 0.0

    def add_reader(self, sock, call):
        pass

    def remove_reader(self, sock):
        pass

    def add_writer(self, sock, call):
        self.write = call

    def remove_writer(self, sock):
        self.write = None

    def call_later(self, seconds, call):
        return Timer()


class Face:
    kind = FaceKind.EVENT_STREAM

    def __init__(self, parting=Parting.GIVE_BACK):
        self.parting = parting

    def farewell(self, code, reason):
        return Farewell(b"LAST" if code is CloseCode.NORMAL else b"", self.parting)

    def stop(self):
        pass


def opened(face):
    given = []
    connection = Connection(
        Loop(),
        Wire(),
        Reader(CALLER),
        heartbeat_seconds=15.0,
        most_age_seconds=60.0,
        on_closing=lambda _: None,
        on_closed=lambda _: None,
        on_overflow=lambda: None,
        on_given_back=given.append,
    )
    connection.open(face)
    return connection, connection._sock, given


def test_a_slow_reader_gets_all_before_the_end_is_said():
    connection, wire, given = opened(Face())
    for part in (b"one ", b"two ", b"done "):
        connection.send(part)
    connection.ends_when_flushed = True
    connection.flush()
    assert connection.is_open()
    wire.room = 5
    connection._loop.write()
    assert (wire.taken, given) == (b"one t", [])
    wire.room = 100
    connection._loop.write()
    assert (wire.taken, given) == (b"one two done LAST", [wire])
    assert connection.phase is Phase.CLOSED
    assert not wire.is_shut_down


def test_a_reader_that_is_given_up_before_its_end_is_not_told_it():
    connection, wire, given = opened(Face(Parting.HANG_UP))
    connection.send(b"one ")
    connection.send(b"done ")
    connection.ends_when_flushed = True
    connection.flush()
    connection.close(CloseCode.TOO_SLOW)
    wire.room = 100
    connection._loop.write()
    assert (wire.taken, given, wire.is_shut_down) == (b"one ", [], True)


def test_a_stream_without_framing_is_reset():
    connection, wire, given = opened(Face(Parting.RESET))
    connection.close(CloseCode.RESTART)
    assert (connection.phase, given, len(wire.options)) == (Phase.CLOSED, [], 1)


@pytest.mark.parametrize("seq", [None, 7, 123456])
@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_an_event_is_one_chunk_with_its_exact_size(seq, size):
    encoded = b'{"type":"content_delta","delta":"%b"}' % (b"x" * size)
    bare = BareEventStream.event(None, Outgoing(encoded, seq))
    framed = EventStream.event(None, Outgoing(encoded, seq))
    assert framed == chunk(bare) == b"%x\r\n%b\r\n" % (len(bare), bare)
    assert bare == (b"id: %d\n" % seq if seq else b"") + b"event: content_delta\ndata: %b\n\n" % encoded
