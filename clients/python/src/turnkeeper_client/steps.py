"""What the core asks of the network, and the replies that it gets.

Everything that decides (retries, cursors, folding, waiting) is a generator that yields these steps and is sent the
replies. It does no I/O, so the synchronous and the asynchronous client share it.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Generic, TypeAlias, TypeVar

from turnkeeper_client.events import Event

SUBPROTOCOL: Final = "turnkeeper.v1"

T = TypeVar("T")


class Wire(Enum):
    """How a stream is carried."""

    WEBSOCKET = auto()
    EVENTS = auto()
    """Server-sent events."""


@dataclass(frozen=True, slots=True)
class Send:
    """Asks for one HTTP exchange; the reply is `Received` or `Lost`.

    `path` is relative to the service's URL; `limit_seconds` bounds the whole exchange.
    """

    method: str
    path: str
    limit_seconds: float
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Open:
    """Asks for a stream; the reply is `Opened`, `Received` if it was refused, or `Lost`.

    A stream that is already open is closed first. A ticket replaces the key. `hear_seconds` is the longest wait for
    anything on the stream.
    """

    wire: Wire
    path: str
    limit_seconds: float
    hear_seconds: float
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ticket: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Say:
    """Asks to send a text frame on the websocket; the reply is None or `Lost`."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hear:
    """Asks for the next data on the stream; the reply is `Heard`, `Silence`, `Closed` or `Lost`."""

    limit_seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Asks to close the stream, if one is open; the reply is None."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Asks to continue after `seconds`; the reply is None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Passes something to the caller; the reply is None, once the caller wants more."""

    item: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Received:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Lost:
    """The network failed; `was_sent` says that the service may have received the request."""

    why: str
    was_sent: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is open."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A frame's text, or a piece of an event stream."""

    data: str | bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing came within the limit."""


@dataclass(frozen=True, slots=True)
class Closed:
    """The service ended the stream; `code` is a websocket's close code."""

    code: int | None = None


Step: TypeAlias = Send | Open | Say | Hear | Hang | Pause | Emit
Reply: TypeAlias = Received | Lost | Opened | Heard | Silence | Closed | None
Steps: TypeAlias = Generator[Step, Reply, T]
"""Returns a `T` once its steps have been performed."""


def send(request: Send) -> Steps[Received | Lost]:
    """Exchange one request."""
    reply = yield request
    if isinstance(reply, Received | Lost):
        return reply
    raise _unexpected(reply)


def open_stream(asked: Open) -> Steps[Opened | Received | Lost]:
    """Open a stream."""
    reply = yield asked
    if isinstance(reply, Opened | Received | Lost):
        return reply
    raise _unexpected(reply)


def say(text: str) -> Steps[Lost | None]:
    """Send a text frame."""
    reply = yield Say(text)
    if reply is None or isinstance(reply, Lost):
        return reply
    raise _unexpected(reply)


def hear(limit_seconds: float) -> Steps[Heard | Silence | Closed | Lost]:
    """Wait for the next data."""
    reply = yield Hear(limit_seconds)
    if isinstance(reply, Heard | Silence | Closed | Lost):
        return reply
    raise _unexpected(reply)


def pause(seconds: float) -> Steps[None]:
    """Wait."""
    yield Pause(seconds)


def emit(item: Event | bytes) -> Steps[None]:
    """Pass something to the caller."""
    yield Emit(item)


@dataclass(frozen=True, slots=True)
class Finished(Generic[T]):
    """The end of the steps, with their result."""

    value: T


def advance(steps: Steps[T], reply: Reply) -> Step | Finished[T]:
    """Send a reply to steps; return what they ask for next."""
    try:
        return steps.send(reply)
    except StopIteration as end:
        return Finished(end.value)


def _unexpected(reply: Reply) -> AssertionError:
    return AssertionError(f"the network answered {type(reply).__name__} where that is no answer")
