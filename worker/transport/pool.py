"""An httpx transport that spends little on each chunk: asyncio, llhttp, a pool, and nothing else.

httpx's own transport takes three to four times the CPU for each delta. This one speaks HTTP/1.1 over TCP or
TLS to the host in the URL: no proxies, no redirects, no HTTP/2, no environment.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeAlias

import httpx

from worker.transport.egress import Resolver, SystemResolver, first_connection, trust
from worker.transport.http1 import Http1Connection

IDLE_SECONDS: Final = 30.0
"""How long an unused connection is kept: less than the 60 s after which common servers and NATs drop it."""
MAX_IDLE: Final = 64
"""Unused connections kept in all; turns come in bursts, and more would only be idle descriptors."""

_Origin: TypeAlias = tuple[str, str, int]
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_FORBIDDEN: Final = re.compile(rb"[\r\n\0]")


class UpstreamTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 to any origin, keeping connections for later requests. Belongs to one event loop.

    Args:
        ssl_context: The TLS context for https; `trust()` if None.
        resolver: Returns the addresses that a host may be connected to. Its name stays in the `Host` header,
            in SNI and in the certificate check.
        max_idle: Most unused connections.
        idle_seconds: How long an unused one is kept.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
        max_idle: int = MAX_IDLE,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._ssl_context = ssl_context or trust()
        self._ssl_context.set_alpn_protocols(["http/1.1"])
        self._resolver = resolver or SystemResolver()
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._open: set[Http1Connection] = set()
        self._idle: dict[Http1Connection, tuple[_Origin, asyncio.TimerHandle]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; closing the response before its end closes the connection at once.

        Raises:
            httpx.TransportError: As httpx's own transport.
        """
        timeouts = request.extensions.get("timeout", {})
        trace = request.extensions.get("trace")
        message = await _encode(request)
        origin = _origin_of(request.url)
        connection = self._take_idle(origin) or await self._connect(origin, timeouts.get("connect"))
        try:
            await connection.send(message, timeouts.get("write"))
            if trace is not None:
                # httpcore's name for it, so that one callback serves both transports.
                await trace("http11.send_request_body.complete", {})
            await connection.read_head(timeouts.get("read"))
        except BaseException:  # cancellation too: nothing may be left open
            connection.abort()
            raise
        return httpx.Response(
            connection.status,
            headers=connection.headers,
            stream=_Body(connection, timeouts.get("read"), lambda: self._release(connection, origin)),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close every connection, used or not."""
        for connection in tuple(self._open):
            connection.abort()

    async def _connect(self, origin: _Origin, timeout_seconds: float | None) -> Http1Connection:
        scheme, host, port = origin
        try:
            return await first_connection(
                self._resolver,
                host,
                port,
                timeout_seconds,
                lambda address: self._connect_to(address, scheme, host, port),
            )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout(f"no connection within {timeout_seconds} s") from exc
        except OSError as exc:
            raise httpx.ConnectError(f"no connection: {type(exc).__name__}") from exc

    async def _connect_to(self, address: str, scheme: str, host: str, port: int) -> Http1Connection:
        is_tls = scheme == "https"
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Http1Connection(self._forget),
            address,
            port,
            ssl=self._ssl_context if is_tls else None,
            server_hostname=host if is_tls else None,
        )
        self._open.add(connection)
        return connection

    def _take_idle(self, origin: _Origin) -> Http1Connection | None:
        # The youngest first: the others grow old and are closed.
        for connection in reversed(self._idle):
            its_origin, expiry = self._idle[connection]
            if its_origin == origin:
                del self._idle[connection]
                expiry.cancel()
                return connection
        return None

    def _release(self, connection: Http1Connection, origin: _Origin) -> None:
        if not connection.may_reuse() or len(self._idle) >= self._max_idle:
            connection.abort()
            return
        connection.rest()
        expiry = asyncio.get_running_loop().call_later(self._idle_seconds, connection.abort)
        self._idle[connection] = (origin, expiry)

    def _forget(self, connection: Http1Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.pop(connection)[1].cancel()


class _Body(httpx.AsyncByteStream):
    """A response's body as the network delivers it; its own iterator, so that no chunk costs a generator."""

    def __init__(
        self, connection: Http1Connection, timeout_seconds: float | None, release: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._release: Callable[[], None] | None = release

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._release is None:
            raise StopAsyncIteration
        chunk = await self._connection.read(self._timeout_seconds)
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Return the connection to the pool, or close it if the body was not read to its end."""
        if self._release is not None:
            release, self._release = self._release, None
            release()


def _origin_of(url: httpx.URL) -> _Origin:
    if url.scheme not in _DEFAULT_PORTS or not url.host:
        raise httpx.UnsupportedProtocol("the URL must be http or https, with a host")
    return url.scheme, url.raw_host.decode("ascii").strip("[]"), url.port or _DEFAULT_PORTS[url.scheme]


async def _encode(request: httpx.Request) -> bytes:
    """Return the whole request as bytes.

    Raises:
        httpx.LocalProtocolError: It cannot be written as HTTP/1.1 with a body of known length.
    """
    body = await request.aread()
    if "transfer-encoding" in request.headers:
        raise httpx.LocalProtocolError("the length of the request's body must be known")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    if any(_FORBIDDEN.search(line) for line in lines):
        raise httpx.LocalProtocolError("a header holds a line break or NUL")
    return b"\r\n".join([*lines, b"", body])
