"""The span of a whole turn, from its acceptance to its end, written by whoever ends it."""

from datetime import datetime
from typing import Final
from uuid import UUID

from shared.tracing.context import TraceContext, parse_traceparent, span_id_of
from shared.tracing.span import Recorder, Span, known
from shared.turn.rows import RecordedRow

TURN_ID: Final = "turnkeeper.turn.id"
_NS: Final = 1_000_000_000


def context_of_turn(recorder: Recorder, turn_id: UUID, traceparent: str) -> TraceContext:
    """Return the context of a turn's span.

    Args:
        recorder: Decides whether a trace that begins here is recorded.
        turn_id: The turn.
        traceparent: What its row has; if that is empty, the turn begins a trace, with its own id.
    """
    parent = parse_traceparent(traceparent)
    if parent is None:
        return TraceContext(turn_id.int, span_id_of(turn_id), recorder.samples(turn_id.int))
    return TraceContext(parent.trace_id, span_id_of(turn_id), parent.is_sampled)


def record_turn(recorder: Recorder, row: RecordedRow, traceparent: str) -> None:
    """Record a turn that ended; its trace context is what `context_of_turn` makes of `traceparent`."""
    assert row.finished_at is not None, "a turn that is over says when"
    context = context_of_turn(recorder, row.id, traceparent)
    recorder.record(
        Span(
            "turn",
            context,
            parse_traceparent(traceparent),
            nanoseconds(row.queued_at),
            nanoseconds(row.finished_at),
            attributes=known(
                {
                    TURN_ID: str(row.id),
                    "gen_ai.conversation.id": str(row.session_id),
                    "turnkeeper.turn.status": row.status,
                    "turnkeeper.turn.stop_reason": row.stop_reason,
                    "turnkeeper.turn.attempts": row.attempt,
                    "turnkeeper.turn.cost_usd": float(row.cost_usd),
                }
            ),
            error=row.error["code"] if row.error else "",
        )
    )


def nanoseconds(moment: datetime) -> int:
    """Return a moment in nanoseconds since 1970, as spans have it."""
    return int(moment.timestamp() * _NS)
