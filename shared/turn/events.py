"""Numbered facts about a turn, encoded once.

The same bytes are the log's entry, the pub/sub payload and the websocket frame, so what a relay
forwards is what the worker wrote.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec


class EventType(StrEnum):
    """The types of the wire protocol; the last five are never numbered and only on streams."""

    TURN_QUEUED = "turn_queued"
    TURN_STARTED = "turn_started"
    MESSAGE_START = "message_start"
    CONTENT_DELTA = "content_delta"
    REASONING_DELTA = "reasoning_delta"
    MESSAGE_RESET = "message_reset"
    MESSAGE_END = "message_end"
    TITLE_UPDATED = "title_updated"
    STOP_REQUESTED = "stop_requested"
    ERROR = "error"
    DONE = "done"

    SUBSCRIBED = "subscribed"
    CAUGHT_UP = "caught_up"
    PING = "ping"
    SNAPSHOT = "snapshot"
    GAP = "gap"


class Header(msgspec.Struct, frozen=True):
    """What a relay must know of an event to deliver it; all else is forwarded unread."""

    type: str
    session_id: str
    turn_id: str
    seq: int
    attempt: int


_decode_header = msgspec.json.Decoder(Header).decode


def decode_header(encoded: bytes) -> Header:
    """Read an encoded event's header.

    Raises:
        msgspec.DecodeError: `encoded` is not an event.
    """
    return _decode_header(encoded)


def timestamp(moment: datetime) -> str:
    """Format `moment` as RFC 3339 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventEncoder:
    """Encodes one turn's events; what does not change is encoded when it is made."""

    __slots__ = ("_content", "_ids", "_reasoning")

    def __init__(self, session_id: UUID, turn_id: UUID) -> None:
        """Prepare for the events of `turn_id`."""
        ids = f'"session_id":"{session_id}","turn_id":"{turn_id}","seq":'
        self._ids = ids.encode()
        self._content = f'{{"type":"content_delta",{ids}'.encode()
        self._reasoning = f'{{"type":"reasoning_delta",{ids}'.encode()

    def encode(
        self,
        event_type: EventType,
        seq: int,
        attempt: int,
        ts: str,
        fields: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Encode any event.

        Args:
            event_type: Its type.
            seq: Its number in the turn, from 1.
            attempt: The attempt that says it; 0 before the first.
            ts: When, as `timestamp` gives it.
            fields: The type's own fields.

        Returns:
            JSON in UTF-8.
        """
        tail = msgspec.json.encode(fields) if fields else b"{}"
        head = b'{"type":"%b",%b%d,"attempt":%d,"ts":"%b"' % (
            event_type.value.encode(),
            self._ids,
            seq,
            attempt,
            ts.encode(),
        )
        return head + b"}" if tail == b"{}" else head + b"," + tail[1:]

    def delta(self, reasoning: bool, seq: int, attempt: int, ts: str, text: str) -> bytes:
        """Encode a `content_delta` or `reasoning_delta`; the delta path's share of `encode`."""
        return b'%b%d,"attempt":%d,"ts":"%b","delta":%b}' % (
            self._reasoning if reasoning else self._content,
            seq,
            attempt,
            ts.encode(),
            msgspec.json.encode(text),
        )
