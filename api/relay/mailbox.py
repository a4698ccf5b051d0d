"""A bounded queue of what a socket did not take at once; a reader that is too slow loses only its own connection (I8).

A frame that was partly sent is kept apart from those that were not. When a slow reader is given up, the rest of such a
frame is still sent before the close frame, so the last thing that the reader receives is the reason.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

MOST_BYTES: Final = 1 << 20
"""A whole answer and more. 1,000 slow readers could hold at most 1 GiB, which is never reached because a
reader that takes nothing for `STALL_SECONDS` is closed earlier."""
MOST_FRAMES: Final = 10_000
"""A frame in a deque costs some 100 bytes besides its text, so the number of tiny ones is bounded as well."""
STALL_SECONDS: Final = 20.0
"""A peer that takes no byte for this long is given up."""
_MOST_AT_ONCE: Final = 1 << 16
"""Bytes of one send; more than a socket usually takes at once."""
_FAREWELL_SECONDS: Final = 5.0
"""How long sending a close frame may take."""


class Mailbox:
    """Writes frames to one non-blocking socket: at once as much as it takes, the rest when it can.

    All methods belong to the loop's thread.
    """

    __slots__ = (
        "_is_last",
        "_loop",
        "_on_drained",
        "_on_lost",
        "_on_overflow",
        "_queue",
        "_size",
        "_sock",
        "_stall",
        "_torn",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        on_overflow: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Write to `sock`.

        Args:
            loop: Watches the socket.
            sock: Non-blocking; its owner closes it.
            on_overflow: Called once if the reader is too slow; it must call `finish`.
            on_lost: Called once if the socket failed or took nothing for too long.
        """
        self._loop = loop
        self._sock = sock
        self._on_overflow = on_overflow
        self._on_lost = on_lost
        self._on_drained: list[Callable[[], None]] = []
        self._torn: memoryview | None = None
        # Made on first use: an empty deque takes 600 bytes, and most sockets never need one.
        self._queue: deque[bytes] | None = None
        self._size = 0
        self._stall: asyncio.TimerHandle | None = None
        self._is_last = False

    def send(self, frames: Sequence[bytes]) -> None:
        """Write `frames` in order, now or later.

        One frame, such as a snapshot, may be larger than the bound: the bound applies to what waits behind it.
        """
        if self._is_last:
            return
        if self._torn is not None:
            self._keep(frames)
            return
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        try:
            taken = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError:
            self._lose()
            return
        if taken < len(data):
            self._torn = memoryview(data)[taken:]
            self._loop.add_writer(self._sock, self._write_on)
            self._watch(STALL_SECONDS)

    def buffered(self) -> int:
        """Return how many bytes are waiting here."""
        return self._size + len(self._torn or b"")

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call `call` once, as soon as nothing is waiting here.

        Each session that is replayed on the socket may wait separately.
        """
        if self._torn is None:
            call()
        else:
            self._on_drained.append(call)

    def finish(self, farewell: bytes, then: Callable[[], None]) -> None:
        """Drop the frames not yet begun, write `farewell` last and call `then`, at most five seconds later."""
        if self._is_last:
            return
        self._on_drained = []
        self._queue = None
        self._size = 0
        if farewell:
            self.send([farewell])
        self._is_last = True
        self._on_lost = then
        if self._torn is None:
            then()
            return
        self._on_drained = [then]
        self._watch(_FAREWELL_SECONDS)

    def close(self) -> None:
        """Forget everything; nothing is called any more."""
        self._is_last = True
        self._unwatch()
        self._torn, self._on_drained = None, []
        self._queue = None
        self._size = 0

    def _keep(self, frames: Sequence[bytes]) -> None:
        queue = self._queue = self._queue or deque()
        queue.extend(frames)
        self._size += sum(map(len, frames))
        if self._size > MOST_BYTES or len(queue) > MOST_FRAMES:
            self._on_overflow()

    def _write_on(self) -> None:
        while (torn := self._torn) is not None:
            try:
                taken = self._sock.send(torn)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._lose()
                return
            self._torn = torn[taken:] if taken < len(torn) else self._next()
            if not self._is_last:
                self._watch(STALL_SECONDS)
        self._unwatch()
        calls, self._on_drained = self._on_drained, []
        for call in calls:
            call()

    def _next(self) -> memoryview | None:
        """Take the bytes for one send: many small frames together, a large one alone."""
        queue, taken, size = self._queue, [], 0
        while queue and size < _MOST_AT_ONCE:
            taken.append(queue.popleft())
            size += len(taken[-1])
        self._size -= size
        return memoryview(b"".join(taken)) if taken else None

    def _watch(self, seconds: float) -> None:
        if self._stall is not None:
            self._stall.cancel()
        self._stall = self._loop.call_later(seconds, self._lose)

    def _unwatch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
            self._loop.remove_writer(self._sock)

    def _lose(self) -> None:
        call = self._on_lost
        self.close()
        call()
