"""A span as the rest of the code describes it: a value, made when what it describes is over.

Attributes are our own names and numbers, never what a user, a model or a provider said (I10).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from shared.tracing.context import TraceContext

Value: TypeAlias = str | int | float | bool | Sequence[str]


class Kind(StrEnum):
    """Which side of a request a span is on."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time.

    Args:
        name: One of a small set: spans are grouped by it.
        context: Its position in the trace.
        parent: The span of which it is a part; None for the first of a trace.
        began_ns: In nanoseconds since 1970.
        ended_ns: In nanoseconds since 1970.
        kind: Its side of the request.
        attributes: Without None: an unknown value is left out.
        events: Names and times, in nanoseconds since 1970.
        error: The error's code; empty if there was none.
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
    """Where spans go. Every method may be called from any thread; none waits and none raises."""

    def begin(self, parent: TraceContext | None) -> TraceContext:
        """Return the context of a new span; without a parent it begins a trace, which may not be sampled."""

    def samples(self, trace_id: int) -> bool:
        """Return whether a trace with this id is recorded."""

    def record(self, span: Span) -> None:
        """Queue a span to be sent, if its trace is recorded; it may be dropped while the collector is down."""


def known(attributes: Mapping[str, Value | None]) -> Mapping[str, Value]:
    """Return the attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}
