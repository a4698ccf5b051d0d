"""One HTTP/1.1 connection, parsed in C by llhttp; it carries one exchange at a time.

Chunks of a body are collected between two reads, so any number that arrive together cost one wake-up. A
response that cannot be parsed raises the exception that httpx's own transport would raise.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias, cast

import httptools
import httpx

Headers: TypeAlias = list[tuple[bytes, bytes]]

MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 64 * 1024
"""Ten times what a provider sends; also the most that may come between two pieces of a body."""
MAX_BUFFERED_BYTES: Final = 256 * 1024
"""Above this the socket is not read until the reader has caught up; one more read may be on its way."""

_HAS_NO_BODY: Final = frozenset({204, 304})


class Http1Connection(asyncio.Protocol):
    """A connection to one origin. All methods belong to the loop's thread and to one task at a time.

    Args:
        on_lost: Called once when the connection is gone, whichever side ended it.
    """

    __slots__ = (
        "_body_bytes",
        "_buffered",
        "_chunks",
        "_ends_with_connection",
        "_error",
        "_has_head",
        "_head_bytes",
        "_is_complete",
        "_is_lost",
        "_is_paused",
        "_is_write_paused",
        "_loop",
        "_may_reuse",
        "_on_lost",
        "_parser",
        "_silent_bytes",
        "_transport",
        "_waiter",
        "headers",
        "status",
    )

    def __init__(self, on_lost: Callable[["Http1Connection"], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_lost = False
        self._is_write_paused = False
        self._begin(parser=None)

    def _begin(self, parser: httptools.HttpResponseParser | None) -> None:
        self._parser = parser
        self.status = 0
        self.headers: Headers = []
        self._head_bytes = 0
        self._has_head = False
        self._ends_with_connection = False
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._body_bytes = 0
        self._silent_bytes = 0
        self._is_paused = False
        self._is_complete = False
        self._may_reuse = False
        self._error: httpx.TransportError | None = None

    # Called by the transport.

    async def send(self, message: bytes, timeout_seconds: float | None) -> None:
        """Write a whole request and wait until the kernel has accepted it.

        Returns early if the server answers before it has read everything.

        Raises:
            httpx.WriteTimeout: The server does not read.
            httpx.WriteError: The connection broke.
        """
        self._begin(parser=httptools.HttpResponseParser(self))
        if self._transport is None or self._is_lost:
            raise httpx.WriteError("the connection is closed")
        self._transport.write(message)
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._is_write_paused and self._error is None and not self._has_head:
                    await self._changed()
        except TimeoutError as exc:
            raise httpx.WriteTimeout("the server does not read the request") from exc
        if self._error is not None and not self._has_head and self._is_write_paused:
            raise httpx.WriteError(str(self._error)) from self._error

    async def read_head(self, timeout_seconds: float | None) -> None:
        """Wait for the response's status and headers.

        Raises:
            httpx.ReadTimeout: It took too long.
            httpx.ReadError: The connection broke.
            httpx.RemoteProtocolError: The response is not valid HTTP, or exceeds a limit.
        """
        while not self._has_head:
            await self._more(timeout_seconds)

    async def read(self, timeout_seconds: float | None) -> bytes:
        """Return the body bytes received so far, waiting for the first; empty at the body's end.

        Raises:
            httpx.ReadTimeout: It took too long.
            httpx.ReadError: The connection broke.
            httpx.RemoteProtocolError: The body broke off, or cannot be parsed.
        """
        while not self._chunks:
            if self._is_complete:
                return b""
            await self._more(timeout_seconds)
        chunks, self._chunks = self._chunks, []
        self._buffered = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def may_reuse(self) -> bool:
        """Return whether the response was read to its end and another request may follow."""
        return self._is_complete and self._may_reuse and not self._chunks and not self._is_lost

    def rest(self) -> None:
        """Expect no response; any data that comes now closes the connection."""
        self._begin(parser=None)

    def abort(self) -> None:
        """Close the socket at once: no TLS closure, and pending writes are dropped."""
        # I7
        if self._transport is not None:
            self._transport.abort()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        self._transport = cast("asyncio.Transport", transport)
        # At zero, `send` returns once the kernel has taken the last byte: that is what "sent" means.
        self._transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        """Note that the kernel has not accepted everything."""
        self._is_write_paused = True

    def resume_writing(self) -> None:
        """Note that the kernel has accepted everything."""
        self._is_write_paused = False
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Parse received data."""
        if self._parser is None:
            self.abort()  # unsolicited: it could not be told from the next request's response
            return
        before = self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("the server changed the protocol unasked"))
        except httptools.HttpParserError as exc:
            self._fail(httpx.RemoteProtocolError(f"the response is not HTTP/1.1: {exc}"))
        if self._body_bytes != before:
            self._silent_bytes = 0
        else:
            # An endless head, trailer or chunk extension never reaches a callback.
            self._silent_bytes += len(data)
            if self._silent_bytes > MAX_HEAD_BYTES:
                self._fail(httpx.RemoteProtocolError(f"headers have more than {MAX_HEAD_BYTES} bytes"))
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response: complete if closing the connection is its end mark."""
        self._is_lost = True
        if exc is not None:
            self._fail(httpx.ReadError(f"the connection broke: {type(exc).__name__}"))
        elif not self._has_head:
            self._fail(httpx.RemoteProtocolError("server disconnected without sending a response"))
        elif self._ends_with_connection and self._error is None:
            self._is_complete = True
        else:
            self._fail(httpx.RemoteProtocolError("peer closed the connection within the body"))
        self._wake()
        self._on_lost(self)

    # Called by the parser. It would only wrap an exception, so failures are stored instead.

    def on_message_begin(self) -> None:
        """Note that a response begins."""
        self._may_reuse = False  # also for a second response, which nobody requested

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are only counted."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            self._fail(
                httpx.RemoteProtocolError(
                    f"more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them"
                )
            )
        elif not self._has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Note that the head is complete."""
        if self._has_head or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()  # an interim response; the real one follows
            return
        names = {name.lower(): value.lower() for name, value in self.headers}
        coding = names.get(b"transfer-encoding")
        if coding not in {None, b"chunked"}:
            self._fail(httpx.RemoteProtocolError("the body has a transfer coding that nobody asked for"))
            return
        self.status = status
        self._has_head = True
        self._ends_with_connection = (
            coding is None and b"content-length" not in names and status not in _HAS_NO_BODY
        )

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        if self._is_complete or self._error is not None or self._transport is None:
            return
        self._chunks.append(body)
        self._body_bytes += len(body)
        self._buffered += len(body)
        if self._buffered > MAX_BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Note that the body is complete."""
        if self._has_head and not self._is_complete and self._parser is not None:
            self._is_complete = True
            self._may_reuse = self._parser.should_keep_alive()

    # Waiting.

    async def _more(self, timeout_seconds: float | None) -> None:
        """Wait for more from the server; what arrived before an error is delivered first."""
        if self._error is not None:
            raise self._error
        if timeout_seconds is None:
            await self._changed()
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._changed()
        except TimeoutError as exc:
            raise httpx.ReadTimeout("the server is silent") from exc

    async def _changed(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: httpx.TransportError) -> None:
        """End the response unless it is complete; close the connection in any case."""
        self._may_reuse = False
        if not self._is_complete and self._error is None:
            self._error = error
        if not self._is_lost:
            self.abort()
