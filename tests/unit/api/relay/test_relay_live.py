"""The fast path: one event to many readers, each with a face of its own; no socket is opened."""

import asyncio
from collections import Counter
from uuid import UUID

import pytest

from api.caller import Caller
from api.relay.connection import Connection, Phase
from api.relay.face import FaceKind, Farewell, Parting
from api.relay.feed import Audience
from api.relay.live import Live
from api.relay.places import Reader

SESSION, TURN = UUID(int=1), UUID(int=2)
EVENT = '{"type":"%s","session_id":"%s","turn_id":"%s","seq":%d,"attempt":1}'
FIRST = (EVENT % ("turn_started", SESSION, TURN, 1)).encode()
DONE = (EVENT % ("done", SESSION, TURN, 2)).encode()
CALLER = Caller(UUID(int=3), UUID(int=4), "service", None, None)
READERS = 5


class Wire:
    """A socket that takes everything."""

    def __init__(self):
        self.taken = b""
        self.is_shut_down = False

    def send(self, data):
        self.taken += data
        return len(data)

    def shutdown(self, how):
        self.is_shut_down = True


class Face:
    """Says an event as its name and its bytes."""

    def __init__(self, framed):
        self.framed = framed

    def event(self, outgoing):
        self.framed[self.kind] += 1
        return b"%b %b\n" % (type(self).__name__.encode(), outgoing.encoded)

    def farewell(self, code, reason):
        return Farewell(b"", Parting.HANG_UP)

    def stop(self):
        pass


class Frames(Face):
    kind, ends_with_turn = FaceKind.WEBSOCKET, False


class Stream(Face):
    kind, ends_with_turn = FaceKind.EVENT_STREAM, True


class Third(Face):
    """A face that the relay does not know."""

    kind, ends_with_turn = len(FaceKind), True


class Loop:
    """Watches nothing."""

    def time(self):
        return 0.0

    def add_reader(self, sock, call):
        pass

    def call_later(self, seconds, call):
        pass


def connection(face):
    one = Connection(
        Loop(),
        Wire(),
        Reader(CALLER),
        heartbeat_seconds=15.0,
        most_age_seconds=60.0,
        on_closing=lambda _: None,
        on_closed=lambda _: None,
        on_overflow=lambda: None,
    )
    one.open(face)
    return one


def test_the_kinds_are_slots():
    assert sorted(FaceKind) == list(range(len(FaceKind)))


@pytest.fixture
def framed():
    return Counter()


@pytest.fixture
def readers(framed):
    return {face: [connection(face(framed)) for _ in range(READERS)] for face in (Frames, Stream, Third)}


def deliver(readers, *events):
    """Have all readers join one turn's feed and its events come by pub/sub, the last one with the turn's end."""

    async def go():
        audience = Audience(SESSION, 0.0)
        live = Live({audience.channel: audience}, None, None, faces=len(FaceKind) + 1)
        audience.feed(TURN, 0.0).joined |= {one for each in readers.values() for one in each}
        for event in events:
            live.receive(audience.channel, event)
        live.flush()

    asyncio.run(go())


def test_an_event_is_framed_once_for_each_kind_of_face_even_a_third(readers, framed):
    deliver(readers, FIRST, DONE)
    assert framed == {Frames.kind: 2, Stream.kind: 2, Third.kind: 2}
    for face, each in readers.items():
        name = face.__name__.encode()
        assert {one._sock.taken for one in each} == {b"%b %b\n%b %b\n" % (name, FIRST, name, DONE)}


def test_a_face_says_whether_its_streams_end_with_the_turn(readers):
    deliver(readers, FIRST)
    assert all(one.phase is Phase.OPEN for each in readers.values() for one in each)
    deliver(readers, FIRST, DONE)
    assert {face: {one.phase for one in each} for face, each in readers.items()} == {
        Frames: {Phase.OPEN},
        Stream: {Phase.CLOSING},
        Third: {Phase.CLOSING},
    }
    assert all(one._sock.is_shut_down for one in (*readers[Stream], *readers[Third])), (
        "nothing else says the end"
    )
