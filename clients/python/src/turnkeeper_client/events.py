"""A turn's events as values to `match` on.

Those in `Event` have a `seq`, or stand in place of events that have one; what only keeps a connection going
(`subscribed`, `caught_up`, `ping`) never reaches a caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from turnkeeper_client.decoding import decode
from turnkeeper_client.errors import ProtocolError
from turnkeeper_client.models import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """What every numbered event has: `(turn_id, seq)` identifies it."""

    session_id: str
    turn_id: str
    seq: int
    attempt: int
    ts: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnQueued(Numbered):
    """The turn is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStarted(Numbered):
    """A worker took it; again for each attempt."""

    provider: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageStart(Numbered):
    """The provider answered."""

    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDelta(Numbered):
    """Text of the answer."""

    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta(Numbered):
    """Thinking text, which is kept apart from the answer."""

    delta: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReset(Numbered):
    """The text of the earlier attempt is void."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEnd(Numbered):
    """The provider ended the message."""

    usage: Usage | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TitleUpdated(Numbered):
    """The session got its title from its first message."""

    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested(Numbered):
    """The turn was asked to end."""

    stop_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnError(Numbered):
    """Why the turn failed; `done` follows."""

    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Numbered):
    """The turn is over: exactly one, and the last."""

    status: str
    finish_reason: str | None
    stop_reason: str | None
    usage: Usage
    usage_source: str | None
    cost_usd: Decimal
    error: Mapping[str, Any] | None
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Numbered):
    """An event of a later version of the service; `fields` is all of it."""

    type: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Events `first` to `last` are no longer held; a `Snapshot` follows."""

    turn_id: str
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The text through `seq`, in place of the events before: what was read of it is void."""

    turn_id: str
    seq: int
    attempt: int
    status: str
    message_id: str | None
    content: str
    reasoning: str


Event: TypeAlias = (
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
    | UnknownEvent
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


def read_event(frame: Mapping[str, Any]) -> Event | None:
    """Return what a frame of a stream or an item of a JSON page says; None when it is no event of a turn.

    Raises:
        ProtocolError: It is of a type that is known and lacks what that type has.
    """
    name = frame.get("type")
    if name == "gap":
        return _gap(frame)
    if name == "snapshot":
        return decode(Snapshot, frame)
    kind = TYPES.get(str(name))
    if kind is not None:
        event = decode(kind, frame)
        assert isinstance(event, Event)
        return event
    if "seq" not in frame or "turn_id" not in frame:
        return None
    known = decode(Numbered, frame)
    return UnknownEvent(
        session_id=known.session_id,
        turn_id=known.turn_id,
        seq=known.seq,
        attempt=known.attempt,
        ts=known.ts,
        type=str(name),
        fields=MappingProxyType(dict(frame)),
    )


def _gap(frame: Mapping[str, Any]) -> Gap:
    turn_id, first, last = frame.get("turn_id"), frame.get("from"), frame.get("to")
    if not isinstance(turn_id, str) or type(first) is not int or type(last) is not int:
        raise ProtocolError("a gap does not say which events are missing")
    return Gap(turn_id=turn_id, first=first, last=last)
