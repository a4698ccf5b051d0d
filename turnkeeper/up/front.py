"""One address for web and relay, without a proxy: connections are handed over, not copied.

The front looks at a request's first bytes without consuming them (MSG_PEEK), picks a process by path and
hands it the connection itself (SCM_RIGHTS). From then on client and process talk directly, so the front costs
a delta nothing. Every process serves every path, so a kept-alive connection that later asks for another path
is answered too.
"""

import asyncio
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from shared import open_files

HEAD_LIMIT_SECONDS: Final = 10.0
"""How long a client may take to send the head of its request."""
PLACE_LIMIT_SECONDS: Final = 10.0
"""How long a request waits while every process is being restarted: longer than a start takes."""
PENDING_LIMIT: Final = 1000
"""Connections whose head has not arrived; the oldest is dropped for a new one, so silent ones cannot fill it."""
PENDING_SHARE: Final = 2
"""At most one in this many open files of the process is such a connection."""
HEAD_LIMIT_BYTES: Final = 16 * 1024
"""How much of a head is examined: its first lines decide."""
PEEK_INTERVAL_SECONDS: Final = 0.02
"""A socket with half a head stays readable, so waiting until it is readable would spin."""
BACKLOG: Final = 1024
CLOSE_LIMIT_SECONDS: Final = 5.0
UNAVAILABLE_ANSWER: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: 178\r\n\r\n"
    b'{"type":"urn:turnkeeper:error:unavailable","title":"Service unavailable","status":503,'
    b'"code":"unavailable","retryable":true,"detail":"no process takes requests at the moment"}   '
)


class Kind(StrEnum):
    """The two kinds of process behind the front."""

    WEB = "web"
    RELAY = "relay"


Backends: TypeAlias = Mapping[Kind, Sequence[Path]]


def route(head: bytes) -> Kind | None:
    """Return the kind that serves the request that begins with `head`; None if the head is too short to tell."""
    request_line, ended, rest = head.partition(b"\n")
    if not ended:
        return Kind.WEB if len(head) >= HEAD_LIMIT_BYTES else None
    method, _, target = request_line.rstrip(b"\r").partition(b" ")
    path = target.split(b" ")[0].split(b"?")[0]
    if path == b"/v1/stream" or (path.startswith(b"/v1/turns/") and path.endswith(b"/events")):
        return Kind.RELAY
    if method == b"POST" and path.startswith(b"/v1/sessions/") and path.endswith(b"/turns"):
        return route_new_turn(rest, is_full=len(head) >= HEAD_LIMIT_BYTES)
    return Kind.WEB


def route_new_turn(fields: bytes, *, is_full: bool) -> Kind | None:
    """Return the kind that takes a new turn: the relay if the response is the turn's events."""
    *lines, _unfinished = fields.split(b"\n")
    for line in lines:
        if not line.strip():
            return Kind.WEB  # the head's end
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"accept" and b"text/event-stream" in value.lower():
            return Kind.RELAY
    return Kind.WEB if is_full else None


class Front:
    """Accepts on `listener` and hands every connection to one of the backends.

    Args:
        listener: A bound TCP socket; the front listens on it and closes it.
        backends: For each kind, the Unix sockets on which its processes take connections over.
    """

    def __init__(self, listener: socket.socket, backends: Backends) -> None:
        self._listener = listener
        self._backends = MappingProxyType({kind: tuple(paths) for kind, paths in backends.items()})
        self._turns = {kind: count() for kind in Kind}
        self._pending: dict[socket.socket, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def start(self) -> None:
        """Start accepting, in a thread of its own."""
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._thread.start()

    def close(self) -> None:
        """Stop accepting and drop what has not been handed over; connections that have been are not touched."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # the loop may end between the check and the call
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(CLOSE_LIMIT_SECONDS)
        self._listener.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._accept_until_closed())

    async def _accept_until_closed(self) -> None:
        accepting = asyncio.create_task(self._accept())
        closing = asyncio.create_task(self._closing.wait())
        await asyncio.wait({accepting, closing}, return_when=asyncio.FIRST_COMPLETED)
        tasks = [accepting, closing, *self._pending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._listener)
            except OSError:
                # Out of descriptors, or the client is already gone: give the others a moment.
                await asyncio.sleep(PEEK_INTERVAL_SECONDS)
                continue
            if len(self._pending) >= min(PENDING_LIMIT, open_files.share(PENDING_SHARE)):
                oldest = next(iter(self._pending))
                self._pending.pop(oldest).cancel()
            task = asyncio.create_task(self._pass_on(connection))
            # Not the task's job: a task that is cancelled before its first step does nothing at all.
            task.add_done_callback(partial(let_go, connection))
            self._pending[connection] = task

    async def _pass_on(self, connection: socket.socket) -> None:
        """Hand one connection over; our side of it is closed when this ends, however it ends."""
        try:
            with suppress(OSError, TimeoutError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                kind = await asyncio.wait_for(self._kind_of(connection), HEAD_LIMIT_SECONDS)
                if kind is not None:
                    await self._place(connection, kind)
        finally:
            self._pending.pop(connection, None)

    async def _kind_of(self, connection: socket.socket) -> Kind | None:
        """Peek at the head until its kind is known; None if the client left."""
        while True:
            try:
                head = connection.recv(HEAD_LIMIT_BYTES, socket.MSG_PEEK)
            except BlockingIOError:
                await self._readable(connection)
                continue
            if not head:
                return None
            kind = route(head)
            if kind is not None:
                return kind
            await asyncio.sleep(PEEK_INTERVAL_SECONDS)

    async def _readable(self, connection: socket.socket) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(connection, settle, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(connection)

    async def _place(self, connection: socket.socket, kind: Kind) -> None:
        """Give the connection to a process of its kind, else of the other, else to the next one that comes up."""
        give_up_at = self._loop.time() + PLACE_LIMIT_SECONDS
        other = Kind.WEB if kind is Kind.RELAY else Kind.RELAY
        while not (self._hand_over(connection, kind) or self._hand_over(connection, other)):
            if self._loop.time() >= give_up_at:
                connection.send(UNAVAILABLE_ANSWER)
                return
            await asyncio.sleep(PEEK_INTERVAL_SECONDS)

    def _hand_over(self, connection: socket.socket, kind: Kind) -> bool:
        """Try each process of a kind once, starting with the next in turn."""
        paths = self._backends.get(kind, ())
        if not paths:
            return False
        first = next(self._turns[kind])
        return any(hand_over(connection, paths[(first + step) % len(paths)]) for step in range(len(paths)))


def let_go(connection: socket.socket, _: asyncio.Task[None]) -> None:
    """Close our side of a connection; the process that took it over has its own."""
    connection.close()


def settle(ready: asyncio.Future[None]) -> None:
    """Note, once, that a socket has something to read."""
    if not ready.done():
        ready.set_result(None)


def hand_over(connection: socket.socket, path: Path) -> bool:
    """Pass a connection to the process that listens on `path`; False if it does not accept it now."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.setblocking(False)  # a full backlog or a dead process answers at once
            link.connect(str(path))
            socket.send_fds(link, [b"c"], [connection.fileno()])
    except OSError:
        return False
    return True


def take_over(listener: socket.socket, limit_seconds: float) -> tuple[socket.socket, tuple[str, int]]:
    """Take over a connection that was handed over; return it with the client's address.

    Raises:
        BlockingIOError: There is none.
        ConnectionAbortedError: The front or the client left in the meantime.
    """
    link, _ = listener.accept()
    with link:
        link.settimeout(limit_seconds)
        try:
            _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
        except TimeoutError as late:
            raise ConnectionAbortedError("nothing was handed over in time") from late
    if not descriptors:
        raise ConnectionAbortedError("the front left before it handed over")
    connection = socket.socket(fileno=descriptors[0])
    try:
        return connection, connection.getpeername()[:2]
    except OSError as gone:
        connection.close()
        raise ConnectionAbortedError("the client left before it was served") from gone
