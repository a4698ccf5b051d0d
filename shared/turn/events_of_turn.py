"""The events that are written from a turn's row alone: those of its acceptance and of its end.

The api, the worker, the sweeper and a relay whose log was lost all write the same bytes from the
same row, so a second writer changes nothing.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, cast

from shared.errors import TurnProblem
from shared.money.money import format_usd
from shared.money.usage import SHOWN_COLUMNS, Usage, UsageSource
from shared.turn.events import Done, EventEncoder, StopRequested, TitleUpdated, TurnQueued, timestamp
from shared.turn.rows import AcceptedRow, CountedRow, EndedRow
from shared.turn.turns import FinishReason, StopReason, TurnStatus

_BEFORE_ANY_ATTEMPT: Final = 0


def accept_events(row: AcceptedRow) -> list[tuple[int, bytes]]:
    """Return the events of a turn's acceptance, each with its seq.

    `turn_queued` is 1; `title_updated` is 2 if this turn gave its session the title.
    """
    encoder = EventEncoder(row.session_id, row.id)
    at = timestamp(row.queued_at)
    events = [(1, encoder.encode(TurnQueued(), 1, _BEFORE_ANY_ATTEMPT, at))]
    if row.title is not None:
        events.append((2, encoder.encode(TitleUpdated(row.title), 2, _BEFORE_ANY_ATTEMPT, at)))
    return events


def queued_stop_events(row: EndedRow, content: str = "") -> Sequence[bytes]:
    """Return the last two events of a turn that was stopped while it was waiting: the stop and `done`.

    Args:
        row: The settled row; the two events are numbered `last_seq - 1` and `last_seq`.
        content: The text of an earlier attempt that is kept.
    """
    encoder = EventEncoder(row.session_id, row.id)
    requested = encoder.encode(
        stop_requested(row),
        row.last_seq - 1,
        row.attempt,
        timestamp(_known(row.stop_requested_at)),
    )
    return requested, done_event(row, content)


def stop_requested(row: EndedRow) -> StopRequested:
    """Return the event of the stop that is recorded in the row."""
    return StopRequested(cast("StopReason | None", row.stop_reason))


def done_event(row: EndedRow, content: str | None) -> bytes:
    """Return a terminal turn's `done`, whose seq is the row's `last_seq`.

    Args:
        row: The settled row.
        content: The stored answer's text; None or empty if none is stored.
    """
    done = Done(
        # Passed on unchecked: a newer release may have written a word that this one does not know.
        status=cast("TurnStatus", row.status),
        finish_reason=cast("FinishReason | None", row.finish_reason),
        stop_reason=cast("StopReason | None", row.stop_reason),
        usage=usage_of(row).as_dict(),
        usage_source=cast("UsageSource | None", row.usage_source),
        cost_usd=format_usd(Decimal(row.cost_usd)),
        error=cast("TurnProblem | None", row.error),
        content_sha256=hashlib.sha256((content or "").encode()).hexdigest(),
    )
    encoder = EventEncoder(row.session_id, row.id)
    return encoder.encode(done, row.last_seq, row.attempt, timestamp(_known(row.finished_at)))


def usage_of(row: CountedRow) -> Usage:
    """Return the tokens in a row of turns, messages, sessions or the ledger."""
    return Usage(**{name: getattr(row, name) or 0 for name in SHOWN_COLUMNS})


def _known(moment: datetime | None) -> datetime:
    assert moment is not None, "a turn that is over says when"
    return moment
