"""The interface of a stream's protocol: how events, heartbeats and the end are encoded, and how input is read."""

from enum import IntEnum
from typing import ClassVar, Protocol

from api.relay.frames import CloseCode
from shared.turn.replay import Outgoing


class FaceKind(IntEnum):
    """The kinds of face, numbered from 0 without a gap: the number is the kind's slot among the frames of an event."""

    WEBSOCKET = 0
    EVENT_STREAM = 1


class Face(Protocol):
    """How events, heartbeats and the end are encoded, and what the peer's bytes mean."""

    kind: ClassVar[int]
    """Faces of one kind encode an event in the same bytes, so it is framed once for all of them."""
    ends_with_turn: ClassVar[bool]
    """Whether the stream is closed after the turn's last event."""

    def event(self, outgoing: Outgoing) -> bytes:
        """Encode an event, a gap, a snapshot or `caught_up`."""
        ...

    def heartbeat(self) -> bytes | None:
        """Encode a heartbeat; None if the peer has not answered the last ones."""
        ...

    def farewell(self, code: CloseCode, reason: str) -> bytes:
        """Encode the end; empty if only the socket's own end tells the peer."""
        ...

    def receive(self, data: memoryview) -> None:
        """Receive bytes from the peer."""
        ...

    def peer_has_closed(self, data: memoryview) -> bool:
        """Return whether bytes received after our end contain the peer's end."""
        ...

    def stop(self) -> None:
        """Do nothing more: the connection is closing."""
        ...
