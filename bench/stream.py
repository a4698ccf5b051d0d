"""A websocket that is read as cheaply as Python can: frames are cut and stamped at receipt, and judged later.

Only frames that are not text deltas are decoded during the measurement, so the reader stays far from being the
bottleneck; `python -m bench reader` measures it alone.
"""

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

TEXT: Final = 1
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
HANDSHAKE_SECONDS: Final = 30.0


@dataclass(slots=True)
class Frame:
    """A text frame as received."""

    received_ns: int
    payload: bytes


@dataclass(slots=True)
class Judged:
    """The result of one turn's frames."""

    text: list[str] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    delta_events: int = 0
    resets: int = 0
    snapshots: int = 0
    first_delta_ns: int | None = None
    done: dict[str, Any] | None = None
    done_ns: int | None = None


class Stream(asyncio.Protocol):
    """One websocket on a running loop.

    Args:
        told: Called with each decoded frame that is not a text delta, and its time of receipt.
    """

    def __init__(self, told: Callable[[dict[str, Any], int], None]) -> None:
        self._told = told
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open = asyncio.get_running_loop().create_future()
        self._is_open = False
        self.frames: list[Frame] = []
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def connect(
        self, url: str, key: str, prepare: Callable[[socket.socket], None] = lambda _: None
    ) -> None:
        """Shake hands.

        Args:
            url: The service, as `http://host:port`.
            key: The API key.
            prepare: Called with the socket before it connects, while buffers can still be made small.

        Raises:
            ConnectionError: The service refused.
        """
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            prepare(sock)
            sock.setblocking(False)
            await loop.sock_connect(sock, (parts.hostname or "", parts.port or 80))
        except OSError:
            sock.close()
            raise
        transport, _ = await loop.create_connection(lambda: self, sock=sock)
        nonce = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /v1/stream HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: turnkeeper.v1\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        )
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await self._open

    def send(self, message: dict[str, Any]) -> None:
        """Send a text frame."""
        self._write(TEXT, json.dumps(message).encode())

    def pause(self) -> None:
        """Stop reading: incoming data stays with the system, and then with the service."""
        assert self._transport is not None
        self._transport.pause_reading()

    def resume(self) -> None:
        """Resume reading."""
        assert self._transport is not None
        self._transport.resume_reading()

    def close(self) -> None:
        """Close without a closing handshake."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._open.done():
            self._open.set_exception(exc or ConnectionError("closed in the handshake"))
        if not self.closed.done():
            self.closed.set_result(1006)

    def data_received(self, data: bytes) -> None:
        received_ns = time.monotonic_ns()
        self._buffer += data
        if not self._is_open and not self._finish_handshake():
            return
        self._cut(received_ns)

    def _finish_handshake(self) -> bool:
        head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not end:
            return False
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            if not self._open.done():
                self._open.set_exception(ConnectionError(bytes(self._buffer).decode(errors="replace")))
            return False
        self._buffer = bytearray(rest)
        self._is_open = True
        self._open.set_result(None)
        return True

    def _cut(self, received_ns: int) -> None:
        """Cut complete frames off the buffer; a server's frames are not masked, and ours are not fragmented."""
        buffer, at, end = self._buffer, 0, len(self._buffer)
        while end - at >= 2:
            opcode, size, start = buffer[at] & 15, buffer[at + 1] & 127, at + 2
            if size == 126:
                size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if end < start + size:
                break
            if not buffer[at] & 128:
                raise ConnectionError("a fragmented frame")
            self._take(opcode, bytes(buffer[start : start + size]), received_ns)
            at = start + size
        del buffer[:at]

    def _take(self, opcode: int, payload: bytes, received_ns: int) -> None:
        if opcode == TEXT:
            self.frames.append(Frame(received_ns, payload))
            # Every quote inside a JSON string is escaped, so this finds only the member.
            if b'"content_delta"' not in payload:
                self._told(json.loads(payload), received_ns)
        elif opcode == PING:
            self._write(PONG, payload)
        elif opcode == CLOSE and not self.closed.done():
            self.closed.set_result(int.from_bytes(payload[:2], "big"))

    def _write(self, opcode: int, payload: bytes) -> None:
        assert self._transport is not None
        size = len(payload)
        head = (
            bytes([128 | opcode, 128 | size])
            if size < 126
            else bytes([128 | opcode, 254, *divmod(size, 256)])
        )
        # The mask protects proxies from scripts; here all zeros are as good as any, and free.
        self._transport.write(head + b"\0\0\0\0" + payload)
