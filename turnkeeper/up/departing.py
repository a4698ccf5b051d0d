"""A socket that keeps what a client does not read, so that the thread that answers need not wait for it.

What the kernel does not take at once is kept and sent by the process's loop. Only above a limit does the thread wait,
which a download of many parts reaches and an answer of the API does not.
"""

import select
import socket
import time
from typing import Final

KEPT_BYTES: Final = 8 * 1024 * 1024
"""Of one connection, more than the longest page of a list has."""
ALL_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of all connections of a process; above it the loop closes those that have not read for the longest time."""
SEND_SECONDS: Final = 30.0
"""How long a thread waits above this limit for a client that reads nothing, if no other time is set."""
BYTES_A_SECOND: Final = 8 * 1024
"""The slowest that a client may read, and send a body."""


class Departing(socket.socket):
    """A connection whose `sendall` does not wait for the client."""

    # Written by one thread at a time: that of the request, then the loop. The sum may be wrong by what two threads
    # add at once, which a limit of memory can bear.
    all_kept = 0
    unsent: bytearray | None = None
    is_alone = False
    """Whether nothing of a next request has been read, so that the connection may go on elsewhere after this one."""

    def sendall(self, data: bytes | bytearray | memoryview, flags: int = 0, /) -> None:  # type: ignore[override]
        """Send what the client takes and keep the rest.

        Raises:
            OSError: The connection is closed, or the client does not read what is above the limit fast enough.
        """
        view = memoryview(data).cast("B")
        if not self.unsent:
            view = view[self._send(view, flags) :]
        if not view:
            return
        unsent = self.unsent = self.unsent or bytearray()
        unsent += view
        Departing.all_kept += len(view)
        if len(unsent) > KEPT_BYTES:
            self._wait_until_sent(unsent)

    def flush(self) -> bool:
        """Send more of what is kept; return whether all of it is sent.

        Raises:
            OSError: The connection is closed.
        """
        while self.unsent:
            sent = self._send(memoryview(bytes(self.unsent[: 256 * 1024])), 0)
            if not sent:
                return False
            del self.unsent[:sent]
            Departing.all_kept -= sent
        return True

    def forget(self) -> None:
        """Drop what is kept: the connection ends."""
        if self.unsent:
            Departing.all_kept -= len(self.unsent)
            self.unsent = None

    def _send(self, view: memoryview, flags: int) -> int:
        try:
            return self.send(view, flags | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _wait_until_sent(self, unsent: bytearray) -> None:
        """Wait until no more is kept than may be.

        Raises:
            TimeoutError: The client reads too slowly.
        """
        ready = select.poll()
        ready.register(self, select.POLLOUT)
        began_at, before = time.monotonic(), len(unsent)
        patience = self.gettimeout() or SEND_SECONDS
        while len(unsent) > KEPT_BYTES:
            waits_until = began_at + patience + (before - len(unsent)) / BYTES_A_SECOND
            left = waits_until - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                raise TimeoutError("a client reads too slowly")
            self.flush()
