"""A turn's events as values to `match` on.

Those in `Event` have a `seq`, or stand in place of events that have one; what only keeps a connection going
(`subscribed`, `caught_up`, `ping`) never reaches a caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from turnkeeper_client.decoding import decode
from turnkeeper_client.errors import ProtocolError
from turnkeeper_client.event_types import (
    TYPES,
    ContentDelta,
    Done,
    Gap,
    KnownEvent,
    MessageEnd,
    MessageReset,
    MessageStart,
    Numbered,
    ReasoningDelta,
    Snapshot,
    StopRequested,
    TitleUpdated,
    TurnError,
    TurnQueued,
    TurnStarted,
)

__all__ = [
    "TYPES",
    "ContentDelta",
    "Done",
    "Event",
    "Gap",
    "MessageEnd",
    "MessageReset",
    "MessageStart",
    "Numbered",
    "ReasoningDelta",
    "Snapshot",
    "StopRequested",
    "TitleUpdated",
    "TurnError",
    "TurnQueued",
    "TurnStarted",
    "UnknownEvent",
    "read_event",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Numbered):
    """An event of a later version of the service; `fields` is all of it."""

    type: str
    fields: Mapping[str, Any]


Event: TypeAlias = KnownEvent | UnknownEvent


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
