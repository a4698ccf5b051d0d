"""One raw connection to Redis, for the path that every delta takes.

A pipeline of redis-py costs 130 µs for a delta; a bare socket with hiredis costs a few. It neither reconnects
nor retries: a lost connection means one thing to a publisher and another to a subscription, so the owner
decides. A server that says that it does not serve us is one that we lost; so a connection is open once it took a
write, which a replica would refuse.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Self, cast

import certifi
import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from shared.errors import UnavailableError
from shared.redis.names import PROBE
from shared.redis.refusals import Refusal, refusal_in

_log = logging.getLogger("turnkeeper.redis")

_MISSING: Final = object()
_KEEPALIVE_IDLE_SECONDS: Final = 15
_KEEPALIVE_INTERVAL_SECONDS: Final = 5
_KEEPALIVE_PROBES: Final = 3
_UNACKNOWLEDGED_MILLISECONDS: Final = 15_000
"""After so long without an acknowledgement the kernel gives the connection up: keepalive, for data in flight."""
_CLOSE_SECONDS: Final = 1.0
"""After `close`, what was written has this long to leave; then the socket is dropped."""


def pack(*arguments: str | bytes | float) -> bytes:
    """Encode one command in RESP; the results may be concatenated and written at once."""
    return cast("bytes", hiredis.pack_command(cast("Any", arguments)))


class Wire(asyncio.Protocol):
    """One connection: what is written is sent, and each reply goes to `on_reply`, in order.

    Open it with `Wire.open`. All methods belong to the loop's thread.
    """

    __slots__ = (
        "_greeting",
        "_is_closed",
        "_on_lost",
        "_on_read",
        "_on_reply",
        "_reader",
        "_transport",
    )

    def __init__(
        self,
        on_reply: Callable[[object], None],
        on_lost: Callable[[], None],
        on_read: Callable[[], None] | None,
    ) -> None:
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._on_read = on_read
        self._reader = hiredis.Reader(notEnoughData=_MISSING)
        self._transport: asyncio.Transport | None = None
        self._greeting: _Greeting | None = _Greeting()
        self._is_closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        on_reply: Callable[[object], None],
        on_lost: Callable[[], None],
        client_name: str,
        connect_timeout_seconds: float = 2.0,
        on_read: Callable[[], None] | None = None,
    ) -> Self:
        """Connect, authenticate and select the database.

        Args:
            url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.
            on_reply: Receives every reply after the greeting; an error reply is a `hiredis.ReplyError` value.
            on_lost: Called once when the connection is lost, or a reply says that the server does not serve us,
                which `on_reply` does not receive; not after `close`.
            client_name: The connection's name in `CLIENT LIST`.
            connect_timeout_seconds: The limit for everything, TLS and authentication included.
            on_read: Called after the replies of one network read, where a batch may be flushed.

        Raises:
            UnavailableError: Redis cannot be reached, did not answer in time, or refused the login or a write.
            ValueError: `url` is not a Redis URL.
        """
        options = dict(parse_url(url))
        wire = cls(on_reply, on_lost, on_read)
        try:
            async with asyncio.timeout(connect_timeout_seconds):
                await _connect(wire, options)
                await wire._greet(options, client_name)
        except (OSError, TimeoutError) as error:
            wire.abort()
            raise UnavailableError(f"redis cannot be reached: {type(error).__name__}") from error
        except BaseException:
            wire.abort()
            raise
        return wire

    def write(self, packed: bytes) -> None:
        """Send commands that `pack` encoded; does nothing if the connection is lost."""
        if self._transport is not None and not self._is_closed:
            self._transport.write(packed)

    def buffered(self) -> int:
        """Return how many bytes the kernel has not accepted yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def is_open(self) -> bool:
        """Return whether the connection is neither lost nor closed."""
        return self._transport is not None and not self._is_closed

    def close(self) -> None:
        """Close once everything written has left, at most a second later; `on_lost` is not called.

        Only a reply proves that a command arrived: while replies are unread, the kernel may reset the
        connection and discard what Redis has not read yet.
        """
        transport, self._is_closed = self._transport, True
        if transport is None:
            return
        transport.close()
        asyncio.get_running_loop().call_later(_CLOSE_SECONDS, transport.abort)

    def abort(self) -> None:
        """Drop the connection at once; `on_lost` is not called."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the socket's options (asyncio)."""
        self._transport = cast("asyncio.Transport", transport)
        _tune(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """Pass on the replies that `data` completes (asyncio)."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MISSING:
                if self._greeting is None:
                    if type(reply) is hiredis.ReplyError and self._is_turned_away(str(reply)):
                        return
                    self._on_reply(reply)
                elif self._greeting.is_complete(reply):
                    self._greeting = None
        except hiredis.ProtocolError:
            # After a garbled reply, no reply can be matched to its command.
            self._lose()
            return
        if self._on_read is not None and self._greeting is None:
            self._on_read()

    def _is_turned_away(self, reply: str) -> bool:
        """Give the connection up if a refusal says that its server does not serve us."""
        if refusal_in(reply) is not Refusal.NOT_SERVING:
            return False
        _log.warning("redis does not serve us now: %s", reply.split(" ", 1)[0])
        self._lose()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the owner (asyncio)."""
        del exc
        self._lose()

    def _lose(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._greeting is not None:
            self._greeting.fail()
        elif not self._is_closed:
            self._is_closed = True
            self._on_lost()

    async def _greet(self, options: dict[str, Any], client_name: str) -> None:
        greeting = self._greeting
        assert greeting is not None
        if password := options.get("password"):
            username = options.get("username")
            self.write(pack("AUTH", *([username] if username else []), password))
            greeting.expect("AUTH")
        if database := options.get("db"):
            self.write(pack("SELECT", database))
            greeting.expect("SELECT")
        self.write(pack("CLIENT", "SETNAME", client_name))
        # The name is a courtesy; some managed Redis services refuse CLIENT.
        greeting.expect("CLIENT", may_fail=True)
        self.write(pack(*PROBE))
        greeting.expect("a write")
        await greeting.finished


class _Greeting:
    """The replies that come before the owner's own."""

    __slots__ = ("_expected", "finished")

    def __init__(self) -> None:
        self._expected: deque[tuple[str, bool]] = deque()
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def expect(self, command: str, *, may_fail: bool = False) -> None:
        self._expected.append((command, may_fail))

    def is_complete(self, reply: object) -> bool:
        """Take one reply; return True if it was the last and all succeeded."""
        if self.finished.done():
            return False  # refused or given up: later replies belong to nobody
        command, may_fail = self._expected.popleft()
        # Keep only the first word of an error: the rest may repeat what was sent.
        kind = str(reply).split(" ", 1)[0] if isinstance(reply, hiredis.ReplyError) else ""
        if kind and self._is_refused(str(reply), may_fail=may_fail):
            self.finished.set_exception(UnavailableError(f"redis refused {command}: {kind}"))
        elif not self._expected:
            self.finished.set_result(None)
            return True
        return False

    def _is_refused(self, reply: str, *, may_fail: bool) -> bool:
        refusal = refusal_in(reply)
        if may_fail:
            # A login that may not name itself can be one that may all else.
            return refusal is Refusal.NOT_SERVING and not reply.startswith("NOPERM")
        # A full server serves what needs no memory.
        return refusal is not Refusal.FULL

    def fail(self) -> None:
        if not self.finished.done():
            self.finished.set_exception(ConnectionResetError("connection lost while logging in"))
            self.finished.exception()  # marked as retrieved: there may be nobody waiting for it


async def _connect(wire: Wire, options: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    connection_class = options.get("connection_class")
    if connection_class is UnixDomainSocketConnection:
        await loop.create_unix_connection(lambda: wire, options["path"])
        return
    context = _tls_context(options) if connection_class is SSLConnection else None
    host = options.get("host") or "localhost"
    await loop.create_connection(lambda: wire, host, options.get("port") or 6379, ssl=context)


def _tls_context(options: dict[str, Any]) -> ssl.SSLContext:
    """Build a verifying context: the operator's own authority, or the system's and certifi's."""
    own_authority = options.get("ssl_ca_certs")
    context = ssl.create_default_context(cafile=own_authority)
    if own_authority is None:
        context.load_verify_locations(cafile=certifi.where())
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    if options.get("ssl_cert_reqs") in ("none", "CERT_NONE"):
        # Only if the URL itself asks for it, as redis-py and Celery do.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _tune(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", _UNACKNOWLEDGED_MILLISECONDS),
    ):
        if hasattr(socket, name):  # Linux has all of them, other systems some
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
