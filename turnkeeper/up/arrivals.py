"""Holds the connections of a process that no thread serves: those that send a request, read an answer, rest or end.

All of it happens in the loop that accepts, without waiting. Each of these states has a limit of time, and all together
one of memory and of number: above it the oldest of the address that has most makes room.
"""

import fcntl
import selectors
import socket
import struct
import termios
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import Unreader
from gunicorn.workers.gthread import TConn

from shared.errors import ProblemCode
from turnkeeper.up.arriving import Arriving, Unserved, Whole
from turnkeeper.up.departing import ALL_KEPT_BYTES, BYTES_A_SECOND, Departing
from turnkeeper.up.malformed_requests import refusal

HEAD_SECONDS: Final = 10.0
"""From a connection's first moment, or a later request's first byte, to the end of the head."""
BODY_SECONDS: Final = 10.0
"""For a body that does not come at all; what has come adds to it."""
WHOLE_SECONDS: Final = 120.0
"""For a body in all. An answer has no such limit: it holds no thread, and has a bound of memory."""
IDLE_SECONDS: Final = 75.0
"""Between two requests: longer than proxies keep their connections (nginx: 60)."""
LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 16 * 1024 * 1024
"""What is read after a refusal, so that the client sees the refusal and not a reset (RFC 9112 section 9.6)."""
BUFFERED_BYTES: Final = 64 * 1024 * 1024
"""Of all requests that are arriving."""
_PART_BYTES: Final = 64 * 1024
_LOOK_SECONDS: Final = 0.25
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class State(Enum):
    """What a connection does while it has no thread."""

    SERVED = auto()
    """It has one, or waits for one."""
    ARRIVING = auto()
    DEPARTING = auto()
    LINGERING = auto()


class Arrived(Unreader):  # type: ignore[misc]
    """Gives gunicorn's parser the bytes of one request and then an end: no thread reads from a socket."""

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the end."""
        del size_hint
        return b""


class Connection(TConn):  # type: ignore[misc]
    """A connection with what it has sent and what it has not read yet."""

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, Departing(sock.family, sock.type, sock.proto, sock.detach()), client, server)
        self.initialized = self.data_ready = True
        self.arriving = Arriving()
        self.state = State.SERVED
        self.began_at = 0.0
        self.moved = 0
        """Bytes of the body, or of the answer, since `began_at`."""
        self.in_kernel = 0
        """Bytes of the answer that the client had not taken from the kernel at `began_at`."""
        self.is_kept = False
        """Whether it goes on when its answer has been read."""
        self.tenant: Any = None
        self.request_bytes = 0
        """Of the request that has or awaits a thread."""

    def read_from(self, encoded: bytes) -> None:
        """Let the next thread parse these bytes, and nothing else."""
        self.parser = RequestParser(self.cfg, self.sock, self.client)
        self.parser.unreader = Arrived()
        self.parser.unreader.unread(encoded)

    @property
    def address(self) -> Any:
        """The address that it is counted for."""
        return self.client[0] if isinstance(self.client, tuple) and self.client else ""

    def close(self, graceful: bool = False) -> None:
        """Close it at once; `Arrivals.end` is the graceful way."""
        del graceful
        self.sock.forget()
        with suppress(OSError):
            self.sock.close()


class Arrivals:
    """Reads requests and hands them on whole.

    Args:
        poller: Of the loop.
        whole: Takes a connection with its next request.
        closed: Told of each connection that was closed here.
        unserved: Told of each request that was refused here.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        whole: Callable[[Connection, Whole], None],
        closed: Callable[[], None],
        unserved: Callable[[ProblemCode], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poller = poller
        self._whole = whole
        self._closed = closed
        self._unserved = unserved
        self._clock = clock
        self._held: dict[Connection, float] = {}
        """Each connection with the moment by which it must have moved on, the oldest first."""
        self._buffered = 0
        self._look_at = 0.0
        self._idle_until = float("inf")

    def __len__(self) -> int:
        """Return how many connections are held."""
        return len(self._held)

    def enter(self, connection: Connection, *, is_new: bool = False) -> None:
        """Wait for a connection's next request, of which a part may have been sent already."""
        now = self._clock()
        idle = HEAD_SECONDS if is_new else IDLE_SECONDS
        connection.began_at = now
        connection.state = State.ARRIVING
        connection.sock.setblocking(False)
        deadline = now + (HEAD_SECONDS if connection.arriving.has_begun else idle)
        if self._hold(connection, min(deadline, self._idle_until), selectors.EVENT_READ):
            self._buffered += len(connection.arriving)
            self._advance(connection)

    def answered(self, connection: Connection, *, is_kept: bool) -> None:
        """Go on with a connection whose thread has answered: send the rest, then wait for its next request or end."""
        connection.is_kept = is_kept
        try:
            connection.sock.setblocking(False)
            is_sent = connection.sock.flush()
        except OSError:
            self._close(connection)
            return
        if is_sent:
            self._after_answer(connection)
            return
        connection.state = State.DEPARTING
        connection.began_at = self._clock()
        connection.moved = 0
        connection.in_kernel = _in_kernel(connection.sock)
        self._hold(connection, connection.began_at + BODY_SECONDS, selectors.EVENT_WRITE)
        while Departing.all_kept > ALL_KEPT_BYTES and self._drop_slowest_reader():
            pass

    def refuse(self, connection: Connection, unserved: Unserved) -> None:
        """Answer with a problem and end a connection that has no thread."""
        self._release(connection)
        self._unserved(unserved.code)
        with suppress(OSError):
            connection.sock.setblocking(False)
            connection.sock.send(refusal(unserved.code, unserved.detail))
        self.end(connection)

    def end(self, connection: Connection) -> None:
        """End our side and read for a moment what is still coming, so that the answer is not lost to a reset."""
        try:
            connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(connection)
            return
        connection.state = State.LINGERING
        connection.moved = 0
        self._hold(connection, self._clock() + LINGER_SECONDS, selectors.EVENT_READ)

    def make_room(self) -> bool:
        """Close the connection that can be missed most; False if there is none."""
        if not self._held:
            return False
        counts = Counter(connection.address for connection in self._held)
        most = max(counts.values())
        candidates = [one for one in self._held if counts[one.address] == most]
        # Behind a proxy all have one address: an answer that is being read is not cut off for one that rests.
        self._close(next((one for one in candidates if one.state is not State.DEPARTING), candidates[0]))
        return True

    def expire(self, *, by_force: bool = False) -> None:
        """End what has had its time."""
        now = self._clock()
        if now < self._look_at and not by_force:
            return
        self._look_at = now + _LOOK_SECONDS
        for connection in [one for one, deadline in self._held.items() if deadline <= now or by_force]:
            if connection.state is State.DEPARTING and not by_force:
                # The kernel holds megabytes and asks for more only when much of that has gone.
                self._held[connection] = self._deadline(connection)
                if self._held[connection] > now:
                    continue
            if connection.state is State.ARRIVING and connection.arriving.has_begun:
                what = "body" if connection.arriving.has_head else "head"
                self.refuse(
                    connection,
                    Unserved(ProblemCode.REQUEST_TIMEOUT, f"the request's {what} came too slowly"),
                )
            else:
                self._close(connection)
        if by_force:
            for connection in list(self._held):
                self._close(connection)

    def hurry(self, deadline: float) -> None:
        """End by `deadline` at the latest what waits for a request: the process is stopping."""
        self._idle_until = deadline
        for connection, before in self._held.items():
            if connection.state is State.ARRIVING:
                self._held[connection] = min(before, deadline)

    def _drop_slowest_reader(self) -> bool:
        """Close the connection that is nearest to the end of its time to read; False if there is none."""
        departing = (one for one in self._held if one.state is State.DEPARTING)
        slowest = min(departing, key=self._deadline, default=None)
        if slowest is None:
            return False
        self._close(slowest)
        return True

    def _hold(self, connection: Connection, deadline: float, events: int) -> bool:
        try:
            self._poller.register(connection.sock, events, partial(self._moved, connection))
        except (OSError, ValueError, KeyError):
            self._close(connection)
            return False
        self._held[connection] = deadline
        return True

    def _release(self, connection: Connection) -> None:
        """Stop holding a connection, without closing it."""
        if self._held.pop(connection, None) is None:
            return
        if connection.state is State.ARRIVING:
            self._buffered -= len(connection.arriving)
        connection.state = State.SERVED
        with suppress(OSError, ValueError, KeyError):
            self._poller.unregister(connection.sock)

    def _close(self, connection: Connection) -> None:
        self._release(connection)
        connection.close()
        self._closed()

    def _moved(self, connection: Connection, _: Any) -> None:
        """Go on with a connection whose socket can be read or written."""
        if connection not in self._held:
            return  # closed by what another event of the same round did
        try:
            match connection.state:
                case State.ARRIVING:
                    self._read(connection)
                case State.DEPARTING:
                    self._send(connection)
                case State.LINGERING:
                    self._drain(connection)
                case State.SERVED:
                    raise AssertionError("a connection that has a thread is not held")
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)

    def _read(self, connection: Connection) -> None:
        data = connection.sock.recv(_PART_BYTES)
        if not data:
            self._close(connection)
            return
        arriving = connection.arriving
        if not arriving.has_begun:
            connection.began_at = self._clock()
            self._held[connection] = min(connection.began_at + HEAD_SECONDS, self._idle_until)
        elif arriving.has_head:
            connection.moved += len(data)
            self._held[connection] = self._deadline(connection)
        before = len(arriving)
        arriving.feed(data)
        self._buffered += len(arriving) - before
        self._advance(connection)
        if self._buffered > BUFFERED_BYTES and self._held:
            largest = max(self._held, key=lambda one: len(one.arriving))
            self.refuse(
                largest, Unserved(ProblemCode.UNAVAILABLE, "too many bodies arrive at once: try again")
            )

    def _advance(self, connection: Connection) -> None:
        """Look whether a request is whole."""
        arriving, before = connection.arriving, len(connection.arriving)
        had_head = arriving.has_head
        taken = arriving.take()
        self._buffered += len(arriving) - before
        match taken:
            case Whole():
                self._release(connection)
                self._whole(connection, taken)
            case Unserved():
                self.refuse(connection, taken)
            case None:
                if arriving.has_head and not had_head:
                    connection.began_at, connection.moved = self._clock(), 0
                    self._held[connection] = self._deadline(connection)
                if arriving.wants_continue:
                    arriving.wants_continue = False
                    self._invite(connection)

    def _invite(self, connection: Connection) -> None:
        """Tell a client to send its body; one that reads nothing sends it unasked or never."""
        try:
            connection.sock.send(_CONTINUE)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)

    def _deadline(self, connection: Connection) -> float:
        if connection.state is State.ARRIVING:
            seconds = min(BODY_SECONDS + connection.moved / BYTES_A_SECOND, WHOLE_SECONDS)
        else:
            taken = connection.in_kernel + connection.moved - _in_kernel(connection.sock)
            seconds = BODY_SECONDS + max(0, taken) / BYTES_A_SECOND
        return connection.began_at + seconds

    def _send(self, connection: Connection) -> None:
        before = len(connection.sock.unsent or b"")
        if connection.sock.flush():
            self._release(connection)
            self._after_answer(connection)
            return
        connection.moved += before - len(connection.sock.unsent or b"")
        self._held[connection] = self._deadline(connection)

    def _after_answer(self, connection: Connection) -> None:
        if connection.is_kept:
            self.enter(connection)
        else:
            self.end(connection)

    def _drain(self, connection: Connection) -> None:
        data = connection.sock.recv(_PART_BYTES)
        connection.moved += len(data)
        if not data or connection.moved > LINGER_BYTES:
            self._close(connection)


def _in_kernel(sock: socket.socket) -> int:
    """Return how many bytes were sent that the other side has not taken yet; 0 where the system does not say."""
    try:
        said = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", said)[0])
