"""A span as we tell it: a value that is made when what it describes is over.

Its attributes are names and numbers of ours; nothing that a user, a model or a provider said is ever one (I10).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from shared.tracing.context import TraceContext

Value: TypeAlias = str | int | float | bool | Sequence[str]


class Kind(StrEnum):
    """Which side of a conversation a span is."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time.

    Args:
        name: Of a small set: spans are grouped by it.
        context: Its place.
        parent: What it is a part of; None for the first of a trace.
        began_ns: In nanoseconds since 1970.
        ended_ns: Likewise.
        kind: Which side.
        attributes: Without None: what is not known is left out.
        events: Names and moments, in nanoseconds since 1970.
        error: The code of what went wrong; empty for nothing.
    """

    name: str
    context: TraceContext
    parent: TraceContext | None
    began_ns: int
    ended_ns: int
    kind: Kind = Kind.INTERNAL
    attributes: Mapping[str, Value] = field(default_factory=dict)
    events: Sequence[tuple[str, int]] = ()
    error: str = ""


class Recorder(Protocol):
    """Where spans go; every method may be called from any thread, none waits, none raises."""

    def begin(self, parent: TraceContext | None) -> TraceContext:
        """Return the place of a new span; without a parent it begins a trace, which may not be sampled."""

    def samples(self, trace_id: int) -> bool:
        """Say whether a trace that begins with this id is recorded."""

    def record(self, span: Span) -> None:
        """Have a span sent, if its trace is recorded; with a collector that is away it may be dropped."""


def known(attributes: Mapping[str, Value | None]) -> Mapping[str, Value]:
    """Return the attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}
