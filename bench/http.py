"""The part of an HTTP/1.1 client that a load generator needs: kept-alive connections, bodies of known length.

A full client costs more CPU per request than the service under test, and the two share the machine.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

LIMIT_SECONDS: Final = 60.0
"""For one response; far above what is measured, so that a stuck service ends the run."""


class HttpError(RuntimeError):
    """A response for which the measurement makes no allowance."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response and the time at which it was complete, on the monotonic clock in nanoseconds."""

    status: int
    body: Any
    sent_ns: int
    received_ns: int

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return (self.received_ns - self.sent_ns) / 1e9


class Connection:
    """One connection to the service: one request at a time, opened again if the service has closed it.

    Args:
        url: The service, as `http://host:port`.
        key: The API key.
    """

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Send a request and return its response, whatever the status.

        Raises:
            HttpError: The connection broke, twice.
        """
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}"
        if content:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        request = head.encode() + b"\r\n" + content
        for _ in range(2):  # the other side may just have closed a kept-alive connection
            try:
                async with asyncio.timeout(LIMIT_SECONDS):
                    return await self._exchange(request)
            except (OSError, asyncio.IncompleteReadError):
                self.close()
        raise HttpError(f"{method} {path}: the connection broke")

    async def expect(
        self, status: int, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Answer:
        """Send a request whose response must have this status.

        Raises:
            HttpError: It has another.
        """
        answer = await self.call(method, path, body)
        if answer.status != status:
            raise HttpError(f"{method} {path}: {answer.status} {answer.body}")
        return answer

    @property
    def local_port(self) -> int | None:
        """Return our port while the connection is open: it identifies the process at the other end."""
        return None if self._writer is None else int(self._writer.get_extra_info("sockname")[1])

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _exchange(self, request: bytes) -> Answer:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        sent_ns = time.monotonic_ns()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await self._reader.readexactly(int(fields.get("content-length", "0")))
        received_ns = time.monotonic_ns()
        if fields.get("connection", "").lower() == "close":
            self.close()
        return Answer(
            int(status_line.split(" ", 2)[1]), json.loads(content) if content else None, sent_ns, received_ns
        )
