"""A turn after the statement that moved it: the source of its last events, its span and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from shared.money.usage import ShownTokens


@dataclass(frozen=True, slots=True)
class MovedTurn(ShownTokens):
    """The columns that every statement that moves a turn returns."""

    id: UUID
    session_id: UUID
    status: str
    attempt: int
    finish_reason: str | None
    stop_reason: str | None
    usage_source: str | None
    cost_usd: Decimal
    error: Mapping[str, Any] | None
    last_seq: int
    title: str | None
    queued_at: datetime
    stop_requested_at: datetime | None
    finished_at: datetime | None

    def is_over(self) -> bool:
        """Return whether the turn has ended; otherwise it waits for its next attempt."""
        return self.finished_at is not None


@dataclass(frozen=True, slots=True)
class SettledTurn(MovedTurn):
    """A turn whose attempt was settled.

    Args:
        dropped: Whether a newer turn rolled it back, so that readers do not get its text.
        released_usd: What was held for the attempt; None if nothing was.
        charged_usd: What the attempt cost; None if that is no longer known.
        has_next: Whether a later turn of the session is waiting.
    """

    stop_observed_at: datetime | None
    worker_id: UUID | None
    dropped: bool
    max_output_tokens: int
    released_usd: Decimal | None
    charged_usd: Decimal | None
    has_next: bool


@dataclass(frozen=True, slots=True)
class ExpiredTurn(MovedTurn):
    """A turn that no worker took in time.

    Args:
        has_void_text: Whether readers have text that another attempt was to continue.
    """

    traceparent: str
    has_void_text: bool
