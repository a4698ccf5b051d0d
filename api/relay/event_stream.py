"""The event stream protocol: sends one turn as server-sent events (WHATWG HTML section 9.2), until `done`.

The body is chunked, so that its end can be told from a cut: the last chunk follows `done` and nothing else. Without
chunks a stream that is broken off is reset.
"""

import asyncio
from typing import ClassVar, Final
from uuid import UUID

from api.relay.connection import Connection
from api.relay.delivery import Delivery
from api.relay.face import FaceKind, Farewell, Parting
from api.relay.frames import CloseCode
from api.relay.store import TurnState
from shared.turn.replay import Outgoing

PREAMBLE: Final = b"retry: 1000\n\n"
_COMMENT: Final = b": keep-alive\n\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class EventStream:
    """An event stream's `Face`; the peer sends nothing, only the end of its side counts.

    `is_whole` is True once the stream has ended with its turn's last event.
    """

    __slots__ = ("_delivery", "_doing", "_may_continue", "_turn", "is_whole")
    kind: ClassVar[int] = FaceKind.EVENT_STREAM
    ends_with_turn: ClassVar[bool] = True

    def __init__(
        self,
        connection: Connection,
        delivery: Delivery,
        turn: TurnState,
        *,
        after: int,
        head: bytes,
        may_continue: bool = False,
    ) -> None:
        """Stream `turn` after the cursor `after`, beginning with `head`.

        Args:
            connection: Carries the stream.
            delivery: Brings the events.
            turn: The turn as its row shows it.
            after: The cursor.
            head: The response's status line and headers, if they are still to be sent.
            may_continue: Whether the server takes the connection back for the client's next request.
        """
        self._delivery = delivery
        self._turn = turn
        self._may_continue = may_continue
        self.is_whole = False
        connection.unsent.append(head + self._framed(PREAMBLE))
        self._doing = asyncio.get_running_loop().create_task(self._stream(connection, after))

    def event(self, outgoing: Outgoing) -> bytes:
        """Encode an event as a chunk; one without a number leaves the reader's cursor where it is."""
        return chunk(encode(outgoing))

    def heartbeat(self) -> bytes:
        """Encode a comment."""
        return self._framed(_COMMENT)

    def farewell(self, code: CloseCode, reason: str) -> Farewell:
        """End with the last chunk after the turn's end, and without it in all other cases."""
        del reason
        if code is not CloseCode.NORMAL:
            return Farewell(b"", Parting.HANG_UP)
        self.is_whole = True
        # Closed unannounced, the connection might already carry the client's next request.
        return Farewell(_LAST_CHUNK, Parting.GIVE_BACK if self._may_continue else Parting.HANG_UP)

    def receive(self, data: memoryview) -> None:
        """Ignore bytes that the client sends after its request; no other request can be read after them."""
        del data
        self._may_continue = False

    def peer_has_closed(self, data: memoryview) -> bool:
        """Return False: the peer closes only by ending its side."""
        del data
        return False

    def stop(self) -> None:
        """Do not start streaming any more."""
        self._doing.cancel()

    def _framed(self, data: bytes) -> bytes:
        return chunk(data)

    async def _stream(self, connection: Connection, after: int) -> None:
        connection.flush()
        session_id: UUID = self._turn.session_id
        turn_id = self._turn.turn_id
        member = await self._delivery.enter(connection, session_id, only_turn=turn_id)
        # The row was read before the channel was live: for newer events only the log can be trusted.
        row = self._turn.row_state() if self._turn.done is not None else None
        self._delivery.bring(member, session_id, turn_id, after=after, row=row)


class BareEventStream(EventStream):
    """An event stream without chunks: it ends with the connection, properly or by a reset."""

    __slots__ = ()
    kind: ClassVar[int] = FaceKind.BARE_EVENT_STREAM

    def event(self, outgoing: Outgoing) -> bytes:
        """Encode an event."""
        return encode(outgoing)

    def farewell(self, code: CloseCode, reason: str) -> Farewell:
        """End the connection after the turn's end, and reset it in all other cases."""
        del reason
        self.is_whole = code is CloseCode.NORMAL
        return Farewell(b"", Parting.HANG_UP if self.is_whole else Parting.RESET)

    def _framed(self, data: bytes) -> bytes:
        return data


def encode(outgoing: Outgoing) -> bytes:
    """Encode an event as server-sent events have it."""
    cursor = b"" if outgoing.seq is None else b"id: %d\n" % outgoing.seq
    return b"%bevent: %b\ndata: %b\n\n" % (cursor, outgoing.event_type(), outgoing.encoded)
