"""One client's connection: its requests are answered one after another."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from turnkeeper.scripted.app import App
from turnkeeper.scripted.framing import head_bytes
from turnkeeper.scripted.http import RequestError, RequestReader
from turnkeeper.scripted.link import Link
from turnkeeper.scripted.oracle import Outcome
from turnkeeper.scripted.pacer import Pacer
from turnkeeper.scripted.performance import Part, Performance
from turnkeeper.scripted.steps import Head

KEEP_ALIVE_SECONDS: Final = 75.0
"""How long a client may take to send its next request, or to finish sending one."""


class Connection:
    """A link, the requests read from it and the responses performed on it.

    Args:
        sock: Accepted, non-blocking.
        loop: Drives it.
        pacer: Shared by all connections.
        app: Answers the requests.
        closed: Called once, when the link is closed.
        keep_alive_seconds: How long to wait for a request.
    """

    __slots__ = (
        "_app",
        "_closed",
        "_idle",
        "_link",
        "_loop",
        "_pacer",
        "_performance",
        "_reader",
        "_seconds",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        pacer: Pacer,
        app: App,
        closed: Callable[["Connection"], None],
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self._loop = loop
        self._pacer = pacer
        self._app = app
        self._closed = closed
        self._seconds = keep_alive_seconds
        self._performance: Performance | None = None
        self._link = Link(loop, sock, self)
        self._reader = RequestReader(self._link.write)
        self._idle: asyncio.TimerHandle | None = loop.call_later(self._seconds, self._close)

    def received(self, chunk: bytes) -> None:
        """Process received bytes."""
        try:
            self._reader.feed(chunk)
        except RequestError as error:
            head = Head(error.status, "text/plain", len(str(error)))
            self._link.write(head_bytes(head, "-", chunked=False, close=True) + str(error).encode())
            self._close()
            return
        self._answer_next()

    def drained(self) -> None:
        """Continue the performance."""
        if self._performance is not None:
            self._performance.drained()

    def gone(self) -> None:
        """Note at once that the client left."""
        self._finish(Outcome.CLIENT_DISCONNECTED)

    def stop(self) -> None:
        """End the current performance and close."""
        self._link.reset()
        self._finish(Outcome.SERVER_STOPPED)

    def _answer_next(self) -> None:
        while self._performance is None and not self._link.closed:
            request = self._reader.next()
            if request is None:
                if self._idle is None:
                    self._idle = self._loop.call_later(self._seconds, self._close)
                return
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None
            part = self._app.answer(request)

            def ended(outcome: Outcome, keep: bool, part: Part = part) -> None:
                self._app.ended(part, outcome)
                self._performance = None
                if not keep:
                    self._close()
                elif not self._link.closed:
                    # Not from inside the performance that just ended: the stack would grow with each request.
                    self._loop.call_soon(self._answer_next)

            self._performance = Performance(part, self._link, self._loop, self._pacer, ended)
            self._performance.start()
            return

    def _close(self) -> None:
        self._link.close()
        self._finish(Outcome.CLIENT_DISCONNECTED)

    def _finish(self, outcome: Outcome) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._performance is not None:
            self._performance.abandon(outcome)
        self._closed(self)
