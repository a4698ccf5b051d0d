"""The steps that make up an answer: a lazy sequence that a connection performs.

A step is made just before it is performed, so what it reports (running usage, for example) is what has been
sent by then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias


@dataclass(frozen=True, slots=True)
class Head:
    """The response's status line and headers; a `length` of None means a body in chunks."""

    status: int
    content_type: str
    length: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing happens for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """A piece of the body as it is; the counts are those of its text."""

    body: bytes
    text: str = ""
    tokens: int = 0
    reasoning_tokens: int = 0


class Say(NamedTuple):
    """A delta: `head`, the JSON of `text`, `tail`. A named tuple, since there is one for each token.

    `raw` replaces the JSON where it is not to be valid. `gap_seconds` is the time from this delta to the next
    step.
    """

    head: bytes
    text: str
    tail: bytes
    tokens: int
    reasoning: bool
    gap_seconds: float
    raw: bytes | None = None


class Act(Enum):
    """How an answer can end other than by running out of steps."""

    CUT = "cut"
    """A TCP reset."""
    FIN = "fin"
    """The connection is closed inside the body."""
    EOF = "eof"
    """The body ends properly, but too early; then the connection is closed."""
    ERROR = "in_band_error"
    """The body ends properly, after an error in it."""
    HANG = "hang"
    """Silence until the client leaves."""


Step: TypeAlias = Head | Pause | Emit | Say | Act
Steps: TypeAlias = Iterator[Step]
