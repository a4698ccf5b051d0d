"""One streamed answer over HTTP, kept as received: the same reader for every candidate, whatever its events.

The stamps are found in the body's bytes, so no candidate's event format costs the reader more than another's.
"""

import asyncio
import json
import re
import time
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httptools

STAMP: Final = re.compile(rb"(?:\xe2\x9f\xa6|\\u27e6)(\d+)")
"""A candidate may send the bracket as it is or escaped."""


@dataclass(slots=True)
class Answer:
    """The response to one request, on the monotonic clock in nanoseconds."""

    posted_ns: int
    sent_ns: list[int] = field(default_factory=list)
    received_ns: list[int] = field(default_factory=list)
    ended_ns: int = 0
    status: int = 0


class Exchange(asyncio.Protocol):
    """One request on a connection of its own, read to its end."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[tuple[int, bytes]] = []
        self._received_ns = 0
        self._ends_with_connection = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    async def ask(self, url: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Answer:
        """Send a POST and read its answer; the caller limits the time.

        Raises:
            OSError: The connection failed.
        """
        parts = urlsplit(url)
        content = json.dumps(body).encode()
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: self, parts.hostname or "", parts.port or 80)
        try:
            answer = Answer(time.monotonic_ns())
            transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
            await self._ended
        finally:
            transport.abort()
        answer.ended_ns, answer.status = time.monotonic_ns(), self._parser.get_status_code()
        self._judge(answer)
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._ended.done():
            return
        if self._ends_with_connection and exc is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(exc or ConnectionError("closed in the middle of an answer"))

    def data_received(self, data: bytes) -> None:
        self._received_ns = time.monotonic_ns()
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Start: called by the parser."""
        self._ends_with_connection = True

    def on_header(self, name: bytes, _: bytes) -> None:
        """Look for the header that says where the body ends: called by the parser."""
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._ends_with_connection = False

    def on_body(self, piece: bytes) -> None:
        """Keep a piece of the body: called by the parser."""
        self._pieces.append((self._received_ns, piece))

    def on_message_complete(self) -> None:
        """End: called by the parser."""
        if not self._ended.done():
            self._ended.set_result(None)

    def _judge(self, answer: Answer) -> None:
        """Find each stamp and the time of its last byte; a stamp may span two pieces."""
        ends = list(accumulate(len(piece) for _, piece in self._pieces))
        for found in STAMP.finditer(b"".join(piece for _, piece in self._pieces)):
            answer.sent_ns.append(int(found[1]))
            answer.received_ns.append(self._pieces[bisect_right(ends, found.end() - 1)][0])
