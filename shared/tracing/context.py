"""W3C trace context: the position of a span in a trace, as the text of one header.

A turn's span id follows from the turn's id. So whoever ends the turn can write its span, and whoever runs it can put an
attempt below that span before it is written; no process has to pass it on.
"""

import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 0x01
_SPAN_BITS: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span's position in a trace.

    Args:
        trace_id: 128 bits, not 0.
        span_id: 64 bits, not 0.
        is_sampled: Whether the trace is recorded.
    """

    trace_id: int
    span_id: int
    is_sampled: bool

    def traceparent(self) -> str:
        """Return it as the text of a `traceparent` header."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{_SAMPLED if self.is_sampled else 0:02x}"


def parse_traceparent(text: str) -> TraceContext | None:
    """Return the context that a `traceparent` header names; None if it is invalid or empty."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return TraceContext(trace_id, span_id, bool(flags & _SAMPLED)) if trace_id and span_id else None


def span_id_of(turn_id: UUID) -> int:
    """Return the id of a turn's span: the second half of its id, random except for two bits that are never both 0."""
    return turn_id.int & _SPAN_BITS
