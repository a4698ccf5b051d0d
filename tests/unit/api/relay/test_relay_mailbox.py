"""A mailbox against a socket that takes what it likes (I8); no socket is opened."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.relay.mailbox import MOST_BYTES, MOST_FRAMES, Mailbox


class Timer:
    def __init__(self):
        self.is_cancelled = False

    def cancel(self):
        self.is_cancelled = True


class Loop:
    def __init__(self):
        self.writer = None
        self.timers = []

    def add_writer(self, sock, call):
        self.writer = call

    def remove_writer(self, sock):
        self.writer = None

    def call_later(self, seconds, call):
        self.timers.append((seconds, call, timer := Timer()))
        return timer

    def stall(self):
        """Let the running deadline pass."""
        [call] = [call for _, call, timer in self.timers if not timer.is_cancelled]
        call()


class Socket:
    """Takes at most `room` bytes until it is given more."""

    def __init__(self, room=0):
        self.room = room
        self.taken = b""
        self.error = None

    def send(self, data):
        if self.error:
            raise self.error
        if not self.room:
            raise BlockingIOError
        size = min(self.room, len(data))
        self.room -= size
        self.taken += bytes(data[:size])
        return size


class Box:
    def __init__(self, room=0):
        self.loop, self.socket, self.said = Loop(), Socket(room), []
        self.mailbox = Mailbox(
            self.loop,
            self.socket,
            on_overflow=lambda: self.said.append("overflow"),
            on_lost=lambda: self.said.append("lost"),
        )

    def room(self, size):
        self.socket.room = size
        if self.loop.writer is not None:
            self.loop.writer()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), max_size=20),
    st.lists(st.integers(1, 100), max_size=60),
)
def test_whatever_the_socket_takes_the_bytes_are_whole_and_in_order(batches, rooms):
    box = Box()
    rooms = iter(rooms)
    for frames in batches:
        box.socket.room = next(rooms, 0)
        box.mailbox.send(frames)
        box.room(next(rooms, 0))
    while box.loop.writer is not None:
        box.room(7)
    assert box.socket.taken == b"".join(frame for frames in batches for frame in frames)
    assert box.mailbox.buffered() == 0
    assert box.said == []


def test_a_reader_that_takes_nothing_overflows_by_bytes():
    box = Box(room=1)
    box.mailbox.send([b"x" * 100])
    box.mailbox.send([b"y" * MOST_BYTES])
    assert box.said == []
    box.mailbox.send([b"z"])
    assert box.said == ["overflow"]


def test_a_reader_that_takes_nothing_overflows_by_frames():
    box = Box(room=1)
    box.mailbox.send([b"xy"])
    box.mailbox.send([b"z"] * MOST_FRAMES)
    assert box.said == []
    box.mailbox.send([b"z"])
    assert box.said == ["overflow"]


def test_one_frame_larger_than_the_bound_is_no_overflow():
    box = Box(room=10)
    box.mailbox.send([b"x" * (MOST_BYTES * 4)])
    box.mailbox.send([b"y"])
    assert box.said == []


def test_the_last_frame_comes_behind_the_rest_of_the_one_that_had_begun():
    box = Box(room=3)
    box.mailbox.send([b"first!"])
    box.mailbox.send([b"second"])
    box.mailbox.finish(b"BYE", lambda: box.said.append("finished"))
    box.room(100)
    assert box.socket.taken == b"first!BYE"
    assert box.said == ["finished"]
    box.mailbox.send([b"more"])
    assert box.socket.taken == b"first!BYE"


def test_a_farewell_that_does_not_leave_is_given_up():
    box = Box(room=3)
    box.mailbox.send([b"first!"])
    box.mailbox.finish(b"BYE", lambda: box.said.append("finished"))
    box.loop.stall()
    assert box.said == ["finished"]
    assert box.loop.writer is None


def test_a_peer_that_takes_no_byte_for_too_long_is_lost():
    box = Box(room=1)
    box.mailbox.send([b"xy"])
    box.loop.stall()
    assert box.said == ["lost"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_connection_that_breaks_is_lost_once(at_once):
    box = Box(room=0 if at_once else 1)
    if not at_once:
        box.mailbox.send([b"xy"])
    box.socket.error = BrokenPipeError()
    box.mailbox.send([b"xy"]) if at_once else box.loop.writer()
    box.mailbox.send([b"z"])
    assert box.said == ["lost"]


def test_whoever_waits_for_room_is_told_when_all_is_gone():
    box = Box(room=1)
    box.mailbox.send([b"xyz"])
    box.mailbox.when_drained(lambda: box.said.append("drained"))
    box.room(1)
    assert box.said == []
    box.room(9)
    assert box.said == ["drained"]


def test_each_of_several_replays_on_a_socket_is_told_that_it_is_drained():
    box = Box(room=1)
    box.mailbox.send([b"ab"])
    for name in ("first", "second"):
        box.mailbox.when_drained(lambda name=name: box.said.append(name))
    box.room(10)
    assert box.said == ["first", "second"]
