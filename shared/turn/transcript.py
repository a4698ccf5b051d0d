"""A turn's text so far, folded from its events.

The worker, the relay and a reader that starts from a snapshot all fold in the same way, so the text that
a reader assembles is the stored one (I4, I5).
"""

from typing import Final, Self, cast
from uuid import UUID

import msgspec

from shared.turn.events import EventEncoder, EventType, Snapshot
from shared.turn.parts import Parts, parts_of
from shared.turn.turns import TurnStatus


class _Fields(msgspec.Struct, frozen=True):
    """The fields of events and snapshots that folding needs."""

    type: str
    seq: int
    attempt: int
    delta: str = ""
    message_id: str | None = None
    status: str | None = None
    content: str = ""
    reasoning: str = ""


_decode: Final = msgspec.json.Decoder(_Fields).decode


class Transcript:
    """The text of one turn through `seq`."""

    __slots__ = ("_content", "_reasoning", "attempt", "message_id", "seq", "status")

    def __init__(self, status: str = TurnStatus.QUEUED) -> None:
        self.seq = 0
        self.attempt = 0
        self.status = status
        self.message_id: str | None = None
        self._content: list[str] = []
        self._reasoning: list[str] = []

    @classmethod
    def resume(
        cls,
        *,
        seq: int,
        attempt: int,
        status: str,
        message_id: str | None,
        content: str,
        reasoning: str,
    ) -> Self:
        """Start from the text of a row or a snapshot, which is known through `seq`."""
        transcript = cls(status)
        transcript.seq = seq
        transcript.attempt = attempt
        transcript.message_id = message_id
        transcript._content = [content] if content else []
        transcript._reasoning = [reasoning] if reasoning else []
        return transcript

    @property
    def content(self) -> str:
        """The answer's text."""
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        """The thinking text."""
        return "".join(self._reasoning)

    @property
    def parts(self) -> Parts:
        """The parts of the message so far."""
        return parts_of(self.content, self.reasoning)

    def apply(self, encoded: bytes) -> None:
        """Fold one event or snapshot; the caller ensures the order.

        Raises:
            msgspec.DecodeError: `encoded` is not an event.
        """
        event = _decode(encoded)
        self.seq = event.seq
        self.attempt = event.attempt
        match event.type:
            case EventType.CONTENT_DELTA:
                self._content.append(event.delta)
            case EventType.REASONING_DELTA:
                self._reasoning.append(event.delta)
            case EventType.MESSAGE_START:
                self.message_id = event.message_id
            case EventType.MESSAGE_RESET:
                self._forget()
            case EventType.TURN_STARTED:
                self.status = TurnStatus.RUNNING
            case EventType.STOP_REQUESTED:
                self.status = TurnStatus.STOPPING
            case EventType.SNAPSHOT:
                self._forget()
                self.message_id = event.message_id
                self._content.append(event.content)
                self._reasoning.append(event.reasoning)
                self.status = event.status or self.status
            case EventType.DONE:
                self.status = event.status or self.status
            case _:
                pass  # an event that does not change the text still counts as read

    def snapshot(self, session_id: UUID, turn_id: UUID, ts: str) -> bytes:
        """Encode the text as a `snapshot` event; `ts` is as `timestamp` gives it."""
        status = cast("TurnStatus", self.status)  # one of a later version is passed on unchanged
        text = Snapshot(status, self.message_id, self.content, self.reasoning)
        return EventEncoder(session_id, turn_id).encode(text, self.seq, self.attempt, ts)

    def _forget(self) -> None:
        self.message_id = None
        self._content.clear()
        self._reasoning.clear()
