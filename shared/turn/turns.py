"""A turn's statuses and the signals that move it, as one table; SQL guards, CHECK constraints, docs and tests use it.

The status says where a turn stands, a signal says what happened to it. A transition that is not in
`TRANSITIONS` cannot happen: the statement that tries it matches no row.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class TurnStatus(StrEnum):
    """Where a turn stands."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"
    EXPIRED = "expired"


class Signal(StrEnum):
    """What can happen to a turn."""

    CLAIM = "claim"
    """A worker takes it, for the first time or with the next attempt."""
    STOP = "stop"
    """A user, a budget, a closing session or a newer turn asks for its end."""
    COMPLETE = "complete"
    """The provider ended the answer."""
    OBSERVE_STOP = "observe_stop"
    """The worker closed the upstream connection because of a stop."""
    FAIL = "fail"
    REQUEUE = "requeue"
    """Its worker died or drained; it waits for another."""
    EXPIRE = "expire"
    """No worker took it within the queue limit."""


TRANSITIONS: Final[Mapping[tuple[TurnStatus, Signal], TurnStatus]] = MappingProxyType(
    {
        (TurnStatus.QUEUED, Signal.CLAIM): TurnStatus.RUNNING,
        (TurnStatus.QUEUED, Signal.STOP): TurnStatus.STOPPED,
        (TurnStatus.QUEUED, Signal.FAIL): TurnStatus.FAILED,
        (TurnStatus.QUEUED, Signal.EXPIRE): TurnStatus.EXPIRED,
        (TurnStatus.RUNNING, Signal.CLAIM): TurnStatus.RUNNING,
        (TurnStatus.RUNNING, Signal.STOP): TurnStatus.STOPPING,
        (TurnStatus.RUNNING, Signal.COMPLETE): TurnStatus.COMPLETED,
        (TurnStatus.RUNNING, Signal.OBSERVE_STOP): TurnStatus.STOPPED,
        (TurnStatus.RUNNING, Signal.FAIL): TurnStatus.FAILED,
        (TurnStatus.RUNNING, Signal.REQUEUE): TurnStatus.QUEUED,
        (TurnStatus.STOPPING, Signal.STOP): TurnStatus.STOPPING,
        (TurnStatus.STOPPING, Signal.COMPLETE): TurnStatus.COMPLETED,
        (TurnStatus.STOPPING, Signal.OBSERVE_STOP): TurnStatus.STOPPED,
        (TurnStatus.STOPPING, Signal.FAIL): TurnStatus.FAILED,
    }
)

TERMINAL: Final = frozenset(TurnStatus) - {source for source, _ in TRANSITIONS}
ACTIVE: Final = frozenset(TurnStatus) - TERMINAL


def sources_of(signal: Signal) -> frozenset[TurnStatus]:
    """Return the statuses in which `signal` is legal: its UPDATE's `WHERE status IN (...)`."""
    return frozenset(source for source, sent in TRANSITIONS if sent is signal)


def sources_into(signal: Signal, target: TurnStatus) -> frozenset[TurnStatus]:
    """Return the statuses from which `signal` leads to `target`."""
    return frozenset(
        source for (source, sent), reached in TRANSITIONS.items() if sent is signal and reached is target
    )


def in_sql(statuses: Collection[TurnStatus]) -> str:
    """Return statuses for a statement's `status in (...)`: quoted, in the order of a turn's life.

    No statement spells out a status itself, so that a new one in `TRANSITIONS` reaches all of them.
    """
    return ", ".join(f"'{status.value}'" for status in TurnStatus if status in statuses)


class StopReason(StrEnum):
    """Why a turn was asked to end before its answer did."""

    USER = "user"
    BUDGET = "budget"
    SESSION_CLOSED = "session_closed"
    SUPERSEDED = "superseded"


class FinishReason(StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    UNKNOWN = "unknown"
    """The provider ended the answer and said no reason, or one that is not known."""


class SessionStatus(StrEnum):
    """Whether a session takes turns."""

    ACTIVE = "active"
    CLOSED = "closed"
    EXPIRED = "expired"


class MessageStatus(StrEnum):
    """Whether a stored message is the whole of what was to be said."""

    COMPLETE = "complete"
    PARTIAL = "partial"


class Role(StrEnum):
    """Who says a message."""

    USER = "user"
    ASSISTANT = "assistant"


class Recovery(StrEnum):
    """What happens to a turn whose attempt dies after text was shown."""

    RESTART = "restart"
    FAIL = "fail"
