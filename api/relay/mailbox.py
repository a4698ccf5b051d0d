"""What a socket did not take at once, bounded; a reader that is too slow loses only its own connection (I8).

What has begun is kept apart from what has not: when a slow reader is given up, the rest of a frame that it
has seen the beginning of still goes out before the close frame, so the last thing that it reads is the reason.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

MOST_BYTES: Final = 1 << 20
"""A whole answer and more; with 1,000 slow readers the most that they can hold is 1 GiB, never reached
because a reader that takes nothing for `STALL_SECONDS` goes earlier."""
MOST_FRAMES: Final = 10_000
"""A frame in a deque costs some 100 bytes beside its text: many tiny ones are bounded as well."""
STALL_SECONDS: Final = 20.0
"""A peer that takes no byte for this long is gone or hopeless."""
_MOST_AT_ONCE: Final = 1 << 16
"""Bytes for one send; more than a socket usually takes at once."""
_FAREWELL_SECONDS: Final = 5.0
"""How long a close frame may take to leave."""


class Mailbox:
    """Writes frames to one non-blocking socket: at once what it takes, the rest when it can.

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
            on_overflow: The reader is too slow: called once, to call `finish`.
            on_lost: The socket failed or took nothing for too long: called once.
        """
        self._loop = loop
        self._sock = sock
        self._on_overflow = on_overflow
        self._on_lost = on_lost
        self._on_drained: list[Callable[[], None]] = []
        self._torn: memoryview | None = None
        # Made when first needed: an empty deque is 600 bytes, and most sockets never wait.
        self._queue: deque[bytes] | None = None
        self._size = 0
        self._stall: asyncio.TimerHandle | None = None
        self._is_last = False

    def send(self, frames: Sequence[bytes]) -> None:
        """Write `frames` in order, now or later.

        One frame may be larger than the bound, as a snapshot is: the bound is on what waits behind it.
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
        """Return how many bytes wait here."""
        return self._size + len(self._torn or b"")

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call `call` once, when nothing waits any more; at once if nothing does.

        Each session that is replayed on the socket may wait for itself.
        """
        if self._torn is None:
            call()
        else:
            self._on_drained.append(call)

    def finish(self, farewell: bytes, then: Callable[[], None]) -> None:
        """Drop what has not begun, write `farewell` last and call `then`, at most five seconds later."""
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
        """Take what one send may carry: many small frames together, a large one alone."""
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
