"""One reader's connection in the loop: its socket, its mailbox, its heartbeat and its end.

Its `Face` decides what is written on it: websocket frames or server-sent events.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Final
from uuid import UUID

from api.relay.face import Face, Parting
from api.relay.frames import CloseCode
from api.relay.handover import NO_LINGER
from api.relay.mailbox import Mailbox
from api.relay.places import Reader

_PEER_CLOSE_SECONDS: Final = 2.0
"""How long the peer has to answer a close frame; RFC 6455 section 7.1.1 lets a server close first."""
_receive_buffer: Final = bytearray(1 << 16)
"""One buffer for all connections: the loop's thread reads one at a time, and copies what it keeps."""


class Phase(Enum):
    """Where a connection stands."""

    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


class Connection:
    """A connection; all methods belong to the loop's thread."""

    __slots__ = (
        "_heartbeat_seconds",
        "_loop",
        "_mailbox",
        "_on_closed",
        "_on_closing",
        "_on_given_back",
        "_on_overflow",
        "_sock",
        "beat_at",
        "caller",
        "ends_at",
        "ends_when_flushed",
        "face",
        "kind",
        "phase",
        "reader",
        "release",
        "sessions",
        "unsent",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        reader: Reader,
        *,
        heartbeat_seconds: float,
        most_age_seconds: float,
        on_closing: Callable[["Connection"], None],
        on_closed: Callable[["Connection"], None],
        on_overflow: Callable[[], None],
        on_given_back: Callable[[socket.socket], None] = socket.socket.close,
    ) -> None:
        """Own `sock`, which does not block.

        Args:
            loop: Runs the connection.
            sock: Closed at the end.
            reader: Who reads on it.
            heartbeat_seconds: Between two heartbeats.
            most_age_seconds: How long the connection may stay open.
            on_closing: Called when nothing more is to be delivered.
            on_closed: Called when the socket is closed.
            on_overflow: Called when the connection is closed because its reader is too slow.
            on_given_back: Takes the socket over if the client may send its next request on it.
        """
        self._loop = loop
        self._sock = sock
        self._on_closing = on_closing
        self._on_closed = on_closed
        self._on_overflow = on_overflow
        self._on_given_back = on_given_back
        self._mailbox = Mailbox(loop, sock, on_overflow=self._overflow, on_lost=self.drop)
        self.reader = reader
        self.caller = reader.caller
        self.face: Face
        self.kind: int
        self.release: Callable[[], None] = _nothing
        """Gives the connection's place back; called once, when it is closing."""
        self.unsent: list[bytes] = []
        self.phase = Phase.OPEN
        self.sessions: set[UUID] = set()
        self.ends_when_flushed = False
        self._heartbeat_seconds = heartbeat_seconds
        self.beat_at = loop.time() + heartbeat_seconds
        self.ends_at = loop.time() + most_age_seconds

    def open(self, face: Face) -> None:
        """Start to read; `face` handles the bytes received."""
        self.face = face
        self.kind = int(face.kind)  # a plain int: it indexes the frames of every event
        self._loop.add_reader(self._sock, self._read)

    def is_open(self) -> bool:
        """Return whether anything may still be delivered."""
        return self.phase is Phase.OPEN

    def send(self, frame: bytes) -> None:
        """Write one frame after those that are unsent."""
        self.unsent.append(frame)
        self.flush()

    def flush(self) -> None:
        """Write all unsent frames in one go."""
        frames = self.unsent
        if frames:
            self.unsent = []
            self._mailbox.send(frames)
        if self.ends_when_flushed:
            # Only then: closing drops what a slow reader has not taken yet, and the end would be none.
            self._mailbox.when_drained(self._end)

    def _end(self) -> None:
        self.close(CloseCode.NORMAL)

    async def drained(self) -> bool:
        """Wait until the socket has taken everything; False if the connection is closing.

        A peer that takes nothing is given up after `STALL_SECONDS`, and the waiting task is cancelled.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._mailbox.when_drained(lambda: None if waiter.done() else waiter.set_result(None))
        await waiter
        return self.phase is Phase.OPEN

    def beat(self, now: float) -> None:
        """Send a heartbeat, or give up a peer that answers none."""
        self.beat_at = now + self._heartbeat_seconds
        frame = self.face.heartbeat()
        if frame is None:
            self.close(CloseCode.INTERNAL_ERROR, "no pong")
        else:
            self.send(frame)

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Send the reason and close; the peer has two seconds to answer."""
        if self.phase is not Phase.OPEN:
            return
        self._leave()
        farewell = self.face.farewell(code, reason)
        match farewell.parting:
            case Parting.LINGER:
                then = self._linger
            case Parting.HANG_UP:
                then = self._hang_up
            case Parting.RESET:
                then = self._reset
            case Parting.GIVE_BACK:
                then = self._give_back
        self._mailbox.finish(farewell.last, then)

    def answer_close(self, frame: bytes) -> None:
        """Answer the peer's close frame and be the first to close the socket, as RFC 6455 section 7.1.1 requires."""
        if self.phase is Phase.OPEN:
            self._leave()
            self._mailbox.finish(frame, self.drop)

    def drop(self) -> None:
        """Close the socket without a farewell."""
        if self.phase is Phase.CLOSED:
            return
        if self.phase is Phase.OPEN:
            self._leave()
        self.phase = Phase.CLOSED
        self._mailbox.close()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._on_closed(self)

    def _leave(self) -> None:
        self.phase = Phase.CLOSING
        self.unsent = []
        self.face.stop()
        self._on_closing(self)

    def _hang_up(self) -> None:
        """End our side: if the face's last bytes do not say the end, or say it is none, only this tells the peer."""
        if self.phase is Phase.CLOSING:
            with suppress(OSError):  # the peer has closed already
                self._sock.shutdown(socket.SHUT_WR)
        self._linger()

    def _reset(self) -> None:
        if self.phase is Phase.CLOSING:
            with suppress(OSError):  # a socket of another kind: its end is noticed by other means
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self.drop()

    def _give_back(self) -> None:
        """Let the server have the socket again, blocking or not as it likes."""
        if self.phase is Phase.CLOSING:
            self.phase = Phase.CLOSED
            self._mailbox.close()
            self._loop.remove_reader(self._sock)
            self._on_closed(self)
            self._on_given_back(self._sock)

    def _linger(self) -> None:
        """Wait for the peer to close: closing over its unread bytes would send a reset and lose our last bytes."""
        if self.phase is Phase.CLOSING:
            self._loop.call_later(_PEER_CLOSE_SECONDS, self.drop)

    def _overflow(self) -> None:
        self._on_overflow()
        self.close(CloseCode.TOO_SLOW, "too slow")

    def _read(self) -> None:
        try:
            size = self._sock.recv_into(_receive_buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if not size:
            self.drop()
            return
        with memoryview(_receive_buffer)[:size] as data:
            if self.phase is Phase.OPEN:
                self.face.receive(data)
            elif self.face.peer_has_closed(data):
                self.drop()


def _nothing() -> None:
    """Give back no place."""
