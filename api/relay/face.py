"""The interface of a stream's protocol: how events, heartbeats and the end are encoded, and how input is read."""

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import ClassVar, Protocol

from api.relay.frames import CloseCode
from shared.turn.replay import Outgoing


class FaceKind(IntEnum):
    """The kinds of face, numbered from 0 without a gap: the number is the kind's slot among the frames of an event."""

    WEBSOCKET = 0
    EVENT_STREAM = 1
    """In chunks (RFC 9112 section 7.1)."""
    BARE_EVENT_STREAM = 2
    """For whoever reads no chunks: an HTTP/1.0 client, or a server that sends the response itself."""
    WAIT = 3
    """A request that waits for its turn's end; it reads no events."""


class Parting(Enum):
    """What is done to the socket once the last bytes are written."""

    LINGER = auto()
    """Wait until the peer closes it."""
    HANG_UP = auto()
    """End our side, and wait until the peer closes it."""
    RESET = auto()
    """Reset it: without framing, only that is not taken for a proper end."""
    GIVE_BACK = auto()
    """Give it back to the server, for the client's next request."""


@dataclass(frozen=True, slots=True)
class Farewell:
    """How a connection ends."""

    last: bytes
    parting: Parting


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

    def farewell(self, code: CloseCode, reason: str) -> Farewell:
        """Say how to end; the end of a stream that is broken off differs from that of a whole one."""
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
