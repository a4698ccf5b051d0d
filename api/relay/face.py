"""What is said on a stream: how events, signs of life and the end are written, and what the peer's bytes mean."""

from typing import Protocol

from api.relay.frames import CloseCode
from shared.turn.replay import Outgoing


class Face(Protocol):
    """How events, heartbeats and the end are said, and what the peer's bytes mean."""

    is_event_stream: bool

    def event(self, outgoing: Outgoing) -> bytes:
        """Encode an event, a gap or a snapshot."""
        ...

    def heartbeat(self) -> bytes | None:
        """Encode a sign of life; None when the peer has not answered the last ones."""
        ...

    def farewell(self, code: CloseCode, reason: str) -> bytes:
        """Encode the end."""
        ...

    def receive(self, data: memoryview) -> None:
        """Take bytes from the peer."""
        ...

    def peer_has_closed(self, data: memoryview) -> bool:
        """Say whether bytes that came after our end are the peer's."""
        ...

    def stop(self) -> None:
        """Do nothing more: the connection is closing."""
        ...
