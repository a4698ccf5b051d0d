"""The event stream protocol: sends one turn as server-sent events (WHATWG HTML section 9.2), until `done`."""

import asyncio
from typing import ClassVar, Final
from uuid import UUID

from api.relay.connection import Connection
from api.relay.delivery import Delivery
from api.relay.face import FaceKind
from api.relay.frames import CloseCode
from api.relay.store import TurnState
from shared.turn.replay import Outgoing

PREAMBLE: Final = b"retry: 1000\n\n"
_COMMENT: Final = b": keep-alive\n\n"


class EventStream:
    """An event stream's `Face`; the peer sends nothing, only the end of its side counts."""

    __slots__ = ("_delivery", "_doing", "_turn")
    kind: ClassVar[int] = FaceKind.EVENT_STREAM
    ends_with_turn: ClassVar[bool] = True

    def __init__(
        self, connection: Connection, delivery: Delivery, turn: TurnState, *, after: int, head: bytes
    ) -> None:
        """Stream `turn` after the cursor `after`, beginning with `head`."""
        self._delivery = delivery
        self._turn = turn
        connection.unsent.append(head + PREAMBLE)
        self._doing = asyncio.get_running_loop().create_task(self._stream(connection, after))

    def event(self, outgoing: Outgoing) -> bytes:
        """Encode an event; one without a number leaves the reader's cursor where it is."""
        cursor = b"" if outgoing.seq is None else b"id: %d\n" % outgoing.seq
        return b"%bevent: %b\ndata: %b\n\n" % (cursor, outgoing.event_type(), outgoing.encoded)

    def heartbeat(self) -> bytes:
        """Encode a comment."""
        return _COMMENT

    def farewell(self, code: CloseCode, reason: str) -> bytes:
        """Return nothing: the end of the stream without `done` is enough."""
        del code, reason
        return b""

    def receive(self, data: memoryview) -> None:
        """Ignore bytes that the client sends after its request."""

    def peer_has_closed(self, data: memoryview) -> bool:
        """Return False: the peer closes only by ending its side."""
        del data
        return False

    def stop(self) -> None:
        """Do not start streaming any more."""
        self._doing.cancel()

    async def _stream(self, connection: Connection, after: int) -> None:
        connection.flush()
        session_id: UUID = self._turn.session_id
        turn_id = self._turn.turn_id
        member = await self._delivery.enter(connection, session_id, only_turn=turn_id)
        # The row was read before the channel was live: for newer events only the log can be trusted.
        row = self._turn.row_state() if self._turn.done is not None else None
        self._delivery.bring(member, session_id, turn_id, after=after, row=row)
