"""What the types of events hold, as the service declares them.

Written by `python -m turnkeeper.reference`; change shared/turn/events.py, not this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from turnkeeper_client.models import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """What every event of a turn has: `(turn_id, seq)` identifies it."""

    session_id: str
    turn_id: str
    seq: int
    """From 1, and one more with each event of the turn, across attempts."""
    attempt: int
    """The attempt that published it; 0 before the first."""
    ts: datetime
    """When it was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnQueued(Numbered):
    """The turn is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(Numbered):
    """A worker claimed the turn; comes again with each attempt."""

    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStart(Numbered):
    """The provider answered."""

    message_id: str
    """The stored message's id."""
    history_trimmed: int = 0
    """Earlier turns that were left out of the prompt; absent if none was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDelta(Numbered):
    """Text of the answer; consecutive deltas may arrive as one."""

    delta: str
    """Never empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta(Numbered):
    """Thinking text, which is kept apart from the answer."""

    delta: str
    """Never empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReset(Numbered):
    """The text of the earlier attempt is void; a new `message_start` follows."""

    reason: str
    """The fault that made it void."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEnd(Numbered):
    """The provider ended the message."""

    usage: Usage | None
    """What the attempt used."""
    finish_reason: str | None
    """Why the model stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleUpdated(Numbered):
    """The session got its title from its first message."""

    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested(Numbered):
    """The turn was asked to end."""

    stop_reason: str | None
    """Who asked, or what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnError(Numbered):
    """Why the turn failed; `done` follows."""

    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Numbered):
    """The turn is over: exactly one, and the last, after the message, usage and cost are committed."""

    status: str
    finish_reason: str | None
    """Why the model stopped; null unless it did."""
    stop_reason: str | None
    """Who asked the turn to end, or what; null unless asked."""
    usage: Usage
    """What all attempts used."""
    usage_source: str | None
    """Who says how much was used; null if no provider was called."""
    cost_usd: Decimal
    """US dollars, exact."""
    error: Mapping[str, Any] | None
    """Null unless the turn failed."""
    content_sha256: str
    """Of the stored answer in UTF-8, in hexadecimal; of the empty text when none is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events that are no longer held; a `snapshot` follows."""

    turn_id: str
    first: int
    """The first `seq` that is missing."""
    last: int
    """The last `seq` that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The text up to `seq`, instead of the events before: any text read before it is void."""

    turn_id: str
    seq: int
    """From 1, and one more with each event of the turn, across attempts."""
    attempt: int
    """The attempt that published it; 0 before the first."""
    status: str
    message_id: str | None
    """Null before the provider answered."""
    content: str
    """The answer so far."""
    reasoning: str
    """The thinking so far."""


KnownEvent: TypeAlias = (
    TurnQueued
    | TurnStarted
    | MessageStart
    | ContentDelta
    | ReasoningDelta
    | MessageReset
    | MessageEnd
    | TitleUpdated
    | StopRequested
    | TurnError
    | Done
    | Gap
    | Snapshot
)

TYPES: Final[Mapping[str, type[Numbered]]] = MappingProxyType(
    {
        "turn_queued": TurnQueued,
        "turn_started": TurnStarted,
        "message_start": MessageStart,
        "content_delta": ContentDelta,
        "reasoning_delta": ReasoningDelta,
        "message_reset": MessageReset,
        "message_end": MessageEnd,
        "title_updated": TitleUpdated,
        "stop_requested": StopRequested,
        "error": TurnError,
        "done": Done,
    }
)
"""The numbered ones, as the wire names them."""
