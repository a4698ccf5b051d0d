"""HTTP/1.1 for a server: parses requests from bytes, one at a time, with bounds on everything."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

import httptools

MAX_HEAD_BYTES: Final = 65_536
MAX_BODY_BYTES: Final = 8 * 2**20
"""More than any prompt that Turnkeeper sends."""
MAX_WAITING: Final = 16
"""How many requests a client may send ahead on one connection."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request; header names are in lower case, and the last of a name counts."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    http11: bool


class RequestError(Exception):
    """Bytes that are not an acceptable request; the connection ends with `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RequestReader:
    """Collects requests from what a connection receives.

    Args:
        proceed: Sends the interim response to a client that sent `Expect: 100-continue`.
    """

    def __init__(self, proceed: Callable[[bytes], None]) -> None:
        self._proceed = proceed
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._url = b""
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._problem: RequestError | None = None

    def feed(self, chunk: bytes) -> None:
        """Process received bytes.

        Raises:
            RequestError: They are not a valid request, or exceed a limit.
        """
        try:
            self._parser.feed_data(chunk)
        except httptools.HttpParserUpgrade:
            raise RequestError(400, "upgrades are not taken") from None
        except httptools.HttpParserError as error:
            raise self._problem or RequestError(400, f"not HTTP: {error}") from error

    def next(self) -> Request | None:
        """Return the oldest complete request, once."""
        return self._waiting.popleft() if self._waiting else None

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._url = b""
        self._headers = {}
        self._head_bytes = 0
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Called by the parser."""
        self._url += url
        self._measure_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._measure_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self._proceed(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(413, f"a body is at most {MAX_BODY_BYTES} bytes")

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if len(self._waiting) >= MAX_WAITING:
            self._refuse(429, f"at most {MAX_WAITING} requests are taken ahead")
        path, _, query = self._url.decode("latin-1").partition("?")
        self._waiting.append(
            Request(
                method=self._parser.get_method().decode("latin-1"),
                path=path,
                query=dict(parse_qsl(query, keep_blank_values=True)),
                headers=self._headers,
                body=b"".join(self._body),
                keep_alive=self._parser.should_keep_alive(),
                http11=self._parser.get_http_version() == "1.1",
            )
        )

    def _measure_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"a head is at most {MAX_HEAD_BYTES} bytes")

    def _refuse(self, status: int, message: str) -> None:
        # The parser wraps exceptions of its callbacks, so the reason is kept here as well.
        self._problem = RequestError(status, message)
        raise self._problem
