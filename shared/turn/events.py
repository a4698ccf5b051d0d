"""The events of a turn: one class for each type with its fields, and how they are numbered and encoded.

An event is encoded once. The same bytes are the log entry, the pub/sub payload and the body of the websocket frame,
so a relay forwards exactly what the worker wrote.

Each class states which fields its type adds, what they mean and whether they may be null; the reference page and the
clients' types are written from these classes. A field that is added to a type later needs a default, and is left out
when it has that value: logs written before the change lack it.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from shared.errors import Fault, TurnProblem
from shared.money.usage import UsageCounts, UsageSource
from shared.turn.turns import FinishReason, StopReason, TurnStatus


class EventType(StrEnum):
    """The types of the wire protocol; the last five are never numbered and appear only on streams."""

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


_Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
_Usd = Annotated[str, Meta(extra_json_schema={"format": "decimal"})]


class Envelope(msgspec.Struct, frozen=True):
    """What every event of a turn has: `(turn_id, seq)` identifies it."""

    session_id: str
    turn_id: str
    seq: Annotated[
        int, Meta(description="From 1, and one more with each event of the turn, across attempts.")
    ]
    attempt: Annotated[int, Meta(description="The attempt that published it; 0 before the first.")]
    ts: Annotated[_Time, Meta(description="When it was published.")]


class Event(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """The fields that a type adds to the envelope; `EventEncoder` joins the two."""


class TurnQueued(Event, frozen=True, tag=EventType.TURN_QUEUED.value):
    """The turn is committed."""


class TurnStarted(Event, frozen=True, tag=EventType.TURN_STARTED.value):
    """A worker claimed the turn; comes again with each attempt."""

    provider: str
    model: str


class MessageStart(Event, frozen=True, tag=EventType.MESSAGE_START.value):
    """The provider answered."""

    message_id: Annotated[str, Meta(description="The stored message's id.")]
    history_trimmed: Annotated[
        int, Meta(description="Earlier turns that were left out of the prompt; absent if none was.")
    ] = 0


class ContentDelta(Event, frozen=True, tag=EventType.CONTENT_DELTA.value):
    """Text of the answer; consecutive deltas may arrive as one."""

    delta: Annotated[str, Meta(description="Never empty.")]


class ReasoningDelta(Event, frozen=True, tag=EventType.REASONING_DELTA.value):
    """Thinking text, which is kept apart from the answer."""

    delta: Annotated[str, Meta(description="Never empty.")]


class MessageReset(Event, frozen=True, tag=EventType.MESSAGE_RESET.value):
    """The text of the earlier attempt is void; a new `message_start` follows."""

    reason: Annotated[Fault, Meta(description="The fault that made it void.")]


class MessageEnd(Event, frozen=True, tag=EventType.MESSAGE_END.value):
    """The provider ended the message."""

    usage: Annotated[UsageCounts | None, Meta(description="What the attempt used.")]
    finish_reason: Annotated[FinishReason | None, Meta(description="Why the model stopped.")]


class TitleUpdated(Event, frozen=True, tag=EventType.TITLE_UPDATED.value):
    """The session got its title from its first message."""

    title: str


class StopRequested(Event, frozen=True, tag=EventType.STOP_REQUESTED.value):
    """The turn was asked to end."""

    stop_reason: Annotated[StopReason | None, Meta(description="Who asked, or what.")]


class TurnError(Event, frozen=True, tag=EventType.ERROR.value):
    """Why the turn failed; `done` follows."""

    error: TurnProblem


class Done(Event, frozen=True, tag=EventType.DONE.value):
    """The turn is over: exactly one, and the last, after the message, usage and cost are committed."""

    status: TurnStatus
    finish_reason: Annotated[
        FinishReason | None, Meta(description="Why the model stopped; null unless it did.")
    ]
    stop_reason: Annotated[
        StopReason | None, Meta(description="Who asked the turn to end, or what; null unless asked.")
    ]
    usage: Annotated[UsageCounts, Meta(description="What all attempts used.")]
    usage_source: Annotated[
        UsageSource | None, Meta(description="Who says how much was used; null if no provider was called.")
    ]
    cost_usd: Annotated[_Usd, Meta(description="US dollars, exact.")]
    error: Annotated[TurnProblem | None, Meta(description="Null unless the turn failed.")]
    content_sha256: Annotated[
        str,
        Meta(
            description="Of the stored answer in UTF-8, in hexadecimal; of the empty text when none is stored."
        ),
    ]


class Snapshot(Event, frozen=True, tag=EventType.SNAPSHOT.value):
    """The text up to `seq`, instead of the events before: any text read before it is void."""

    status: TurnStatus
    message_id: Annotated[str | None, Meta(description="Null before the provider answered.")]
    content: Annotated[str, Meta(description="The answer so far.")]
    reasoning: Annotated[str, Meta(description="The thinking so far.")]


class StreamEvent(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """An event without an envelope."""

    def encoded(self) -> bytes:
        """Return JSON in UTF-8."""
        return msgspec.json.encode(self)


class Subscribed(StreamEvent, frozen=True, tag=EventType.SUBSCRIBED.value):
    """A websocket's subscription is made."""

    session_id: str
    turn_id: Annotated[str | None, Meta(description="The turn that is replayed.")]
    last_seq: Annotated[int, Meta(description="That turn's newest number; 0 without one.")]


class CaughtUp(StreamEvent, frozen=True, tag=EventType.CAUGHT_UP.value):
    """The replay is over; what follows is live."""

    session_id: str


class Ping(StreamEvent, frozen=True, tag=EventType.PING.value):
    """The connection is alive."""


class Gap(StreamEvent, frozen=True, tag=EventType.GAP.value):
    """Events that are no longer held; a `snapshot` follows."""

    session_id: str
    turn_id: str
    first: Annotated[int, Meta(description="The first `seq` that is missing.")] = msgspec.field(name="from")
    last: Annotated[int, Meta(description="The last `seq` that is missing.")] = msgspec.field(name="to")


NUMBERED: Final[tuple[type[Event], ...]] = (
    TurnQueued,
    TurnStarted,
    MessageStart,
    ContentDelta,
    ReasoningDelta,
    MessageReset,
    MessageEnd,
    TitleUpdated,
    StopRequested,
    TurnError,
    Done,
)
ONLY_ON_STREAMS: Final[tuple[type[Event] | type[StreamEvent], ...]] = (
    Subscribed,
    CaughtUp,
    Ping,
    Snapshot,
    Gap,
)


class Header(msgspec.Struct, frozen=True):
    """What a relay must know of an event to deliver it; the rest is forwarded unread."""

    type: str
    session_id: str
    turn_id: str
    seq: int
    attempt: int


_TYPE_BEGINS: Final = len(b'{"type":"')
_decode_header: Final = msgspec.json.Decoder(Header).decode


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
    """Encodes one turn's events; the constant parts are encoded when the encoder is made."""

    __slots__ = ("_content", "_ids", "_reasoning")

    def __init__(self, session_id: UUID, turn_id: UUID) -> None:
        ids = f'"session_id":"{session_id}","turn_id":"{turn_id}","seq":'
        self._ids = ids.encode()
        self._content = f'{{"type":"content_delta",{ids}'.encode()
        self._reasoning = f'{{"type":"reasoning_delta",{ids}'.encode()

    def encode(self, event: Event, seq: int, attempt: int, ts: str) -> bytes:
        """Encode any event.

        Args:
            event: The fields that its type adds to the envelope.
            seq: Its number in the turn, from 1.
            attempt: The attempt that it belongs to; 0 before the first.
            ts: Its time, as formatted by `timestamp`.

        Returns:
            JSON in UTF-8: the type, the envelope, the type's own fields.
        """
        own = msgspec.json.encode(event)
        type_ends = own.index(b'"', _TYPE_BEGINS) + 1
        return b'%b,%b%d,"attempt":%d,"ts":"%b"%b' % (
            own[:type_ends],
            self._ids,
            seq,
            attempt,
            ts.encode(),
            own[type_ends:],
        )

    def delta(self, reasoning: bool, seq: int, attempt: int, ts: str, text: str) -> bytes:
        """Encode a `content_delta` or `reasoning_delta`: a fast `encode` for the delta path."""
        return b'%b%d,"attempt":%d,"ts":"%b","delta":%b}' % (
            self._reasoning if reasoning else self._content,
            seq,
            attempt,
            ts.encode(),
            msgspec.json.encode(text),
        )
