"""The service's address and what every request to it carries, shared by both clients."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from turnkeeper_client.sse import MOST_BYTES
from turnkeeper_client.steps import SUBPROTOCOL, Lost, Open, Received

VERSION: Final = "0.2.0"
MOST_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""The most of one HTTP response: a page of a hundred long messages."""
MOST_REFUSAL_BYTES: Final = 1024 * 1024
MOST_FRAMES_WAITING: Final = 64
"""Frames received but not yet read; above this the service waits, and in the end closes with 4409."""
CLOSE_SECONDS: Final = 1.0
CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Address:
    """A service and a key for it; no `repr` shows the key.

    Raises:
        ValueError: The URL is not an HTTP URL, or the key cannot be sent in a header.
    """

    url: str
    key: str = field(repr=False)
    trust_env: bool = True
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
            raise ValueError("url must be like https://turnkeeper.example.com")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url must not hold credentials")
        if not (self.key and self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise ValueError("key must be visible ASCII characters")

    def http_options(self) -> dict[str, Any]:
        """Return the arguments of an `httpx` client."""
        return {
            "base_url": self.url.rstrip("/"),
            "headers": self.headers(),
            "trust_env": self.trust_env,
            "mounts": self._without_proxy(),
            "verify": self.ssl_context or True,
            "follow_redirects": False,  # the key goes to the named service and to no other
        }

    def is_local(self) -> bool:
        """Return whether the service is on this machine, which no proxy of the environment reaches."""
        host = urlsplit(self.url).hostname or ""
        try:
            address = ip_address(host)
            return address.is_loopback or address.is_unspecified  # 0.0.0.0 reaches this machine
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")  # RFC 6761 section 6.3

    def _without_proxy(self) -> dict[str, None] | None:
        return {f"all://{urlsplit(self.url).netloc}": None} if self.is_local() else None

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        agent = f"turnkeeper-client/{VERSION}"
        return {"Authorization": f"Bearer {self.key}", "User-Agent": agent, "Accept": "application/json"}

    def websocket_url(self, path: str) -> str:
        """Return the websocket URL of a path."""
        return "ws" + self.url.removeprefix("http").rstrip("/") + path

    def websocket_options(self, asked: Open) -> dict[str, Any]:
        """Return the arguments for opening a websocket."""
        with_key = {"Authorization": f"Bearer {self.key}"} if asked.ticket is None else {}
        tickets = [] if asked.ticket is None else [Subprotocol(f"ticket.{asked.ticket}")]
        options: dict[str, Any] = {
            "additional_headers": {**with_key, **asked.headers},
            "user_agent_header": f"turnkeeper-client/{VERSION}",
            "subprotocols": [Subprotocol(SUBPROTOCOL), *tickets],
            "open_timeout": asked.limit_seconds,
            "close_timeout": CLOSE_SECONDS,
            "max_size": MOST_BYTES,
            "max_queue": MOST_FRAMES_WAITING,
            "compression": None,  # the service does not support it
            "ping_interval": None,  # the service pings, and silence has a limit of its own
            "proxy": True if self.trust_env and not self.is_local() else None,
        }
        if self.url.startswith("https") and self.ssl_context is not None:
            options["ssl"] = self.ssl_context
        return options


def request_of(asked: Open, method: str = "GET") -> dict[str, Any]:
    """Return the `httpx` request for an event stream."""
    timeout = httpx.Timeout(asked.hear_seconds, connect=min(asked.limit_seconds, CONNECT_SECONDS))
    return {
        "method": method,
        "url": asked.path,
        "params": dict(asked.query),
        # Compressed, events would wait in some buffer on the way.
        "headers": {**asked.headers, "Accept-Encoding": "identity"},
        "timeout": timeout,
    }


def received_of(status: int, headers: Mapping[str, str], body: bytes) -> Received:
    """Return an HTTP response in the core's form."""
    return Received(status, {name.lower(): value for name, value in headers.items()}, body)


def refusal_of_handshake(refused: InvalidStatus) -> Received:
    """Return the HTTP response with which a websocket's handshake was refused."""
    response = refused.response
    return received_of(response.status_code, dict(response.headers.raw_items()), bytes(response.body or b""))


def lost_of(error: Exception) -> Lost:
    """Describe what failed, without anything that was sent."""
    was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    why = type(error).__name__
    # Only these messages contain nothing beyond what the network reported.
    if isinstance(error, httpx.ConnectError) or (isinstance(error, OSError) and error.strerror):
        why += f": {error}"
    return Lost(why, was_sent)


def code_of(closed: ConnectionClosed) -> int | None:
    """Return the code with which either side closed a websocket; None if neither gave one."""
    close = closed.rcvd or closed.sent
    return None if close is None else close.code
