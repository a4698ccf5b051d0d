"""What is said on a stream: how events, signs of life and the end are written, and what the peer's bytes mean."""

from enum import IntEnum
from typing import ClassVar, Protocol

from api.relay.frames import CloseCode
from shared.turn.replay import Outgoing


class FaceKind(IntEnum):
    """The faces that exist, numbered from 0 without a hole: a kind is its slot among the frames of an event."""

    WEBSOCKET = 0
    EVENT_STREAM = 1


class Face(Protocol):
    """How events, heartbeats and the end are said, and what the peer's bytes mean."""

    kind: ClassVar[int]
    """Faces of one kind say an event in the same bytes, so it is framed once for all of them."""
    ends_with_turn: ClassVar[bool]
    """Whether the stream is closed behind the turn's last event."""

    def event(self, outgoing: Outgoing) -> bytes:
        """Encode an event, a gap, a snapshot or `caught_up`."""
        ...

    def heartbeat(self) -> bytes | None:
        """Encode a sign of life; None when the peer has not answered the last ones."""
        ...

    def farewell(self, code: CloseCode, reason: str) -> bytes:
        """Encode the end; empty where only the socket's own end says it."""
        ...

    def receive(self, data: memoryview) -> None:
        """Take bytes from the peer."""
        ...

    def peer_has_closed(self, data: memoryview) -> bool:
        """Return whether bytes that came after our end are the peer's."""
        ...

    def stop(self) -> None:
        """Do nothing more: the connection is closing."""
        ...
