"""One stream's connection: opened, read, and judged when it ends.

Whatever ends a connection is either for the caller, and raised as what it is, or a reason to reconnect, which is
`BrokenError`. Nothing here knows what the frames mean.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from turnkeeper_client import calls
from turnkeeper_client.errors import (
    CLASSES,
    ApiError,
    ConnectionFailedError,
    ForbiddenError,
    ProtocolError,
    StreamLostError,
    TimeLimitError,
    UnauthorizedError,
)
from turnkeeper_client.exchange import Call, Means, exchange, refusal_of
from turnkeeper_client.retry import Reconnects, may_retry
from turnkeeper_client.sse import MOST_BYTES, EventStream
from turnkeeper_client.steps import (
    Closed,
    Hang,
    Heard,
    Lost,
    Open,
    Opened,
    Silence,
    Steps,
    Wire,
    hear,
    open_stream,
    pause,
    say,
)

SILENCE_SECONDS: Final = 40.0
"""The service sends something every 15 s: after missing two, the connection is dead even if nobody said so."""
OPEN_SECONDS: Final = 15.0
STEADY_SECONDS: Final = 10.0
"""A connection that lived this long counts as progress, even if nothing happened to the turn."""
MOST_BLOCKED: Final = 2
"""Websockets that could not be opened before server-sent events are used instead."""
STREAM_PATH: Final = "/v1/stream"

Frame = Mapping[str, Any]
T = TypeVar("T")


class Via(StrEnum):
    """How a stream is carried."""

    AUTO = "auto"
    """By websocket, and by server-sent events if websockets do not get through."""
    WEBSOCKET = "websocket"
    TICKET = "ticket"
    """By websocket, with a ticket instead of the key: for networks that drop `Authorization` from an upgrade."""
    SSE = "sse"


class BrokenError(Exception):
    """The connection is no longer usable; another one may be."""

    def __init__(self, why: str, *, retry_after: float | None = None) -> None:
        self.why = why
        self.retry_after = retry_after
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to request on the next connection."""

    session_id: str
    turn_id: str | None = None
    after: int = 0
    by_snapshot: bool = False

    def frame(self) -> str:
        """Return it as a websocket's `subscribe` frame."""
        fields: dict[str, Any] = {"op": "subscribe", "session_id": self.session_id}
        if self.turn_id is not None:
            fields |= {"turn_id": self.turn_id, "after": self.after}
            fields["replay"] = "snapshot" if self.by_snapshot else "events"
        return json.dumps(fields)


class Line:
    """The connections of one stream, one after another."""

    def __init__(self, means: Means, via: Via, limit_seconds: float | None) -> None:
        """Prepare; no connection is opened yet.

        Args:
            means: What decisions depend on.
            via: How the stream is carried.
            limit_seconds: For the whole stream; None for no limit.
        """
        self._means = means
        self._via = via
        self._wire = Wire.EVENTS if via is Via.SSE else Wire.WEBSOCKET
        self._ends_at = None if limit_seconds is None else means.clock() + limit_seconds
        self._reconnects = Reconnects(means.policy, means.clock, means.dice)
        self._blocked = 0
        self._was_open = False
        self._opened_at: float | None = None
        self._decoder = EventStream()
        self.connections = 0

    def progress(self) -> None:
        """Note that the stream brought something new."""
        self._reconnects.progress()

    def open(self, asked: Asked) -> Steps[None]:
        """Open a connection and make a request on it.

        Raises:
            BrokenError: It could not be opened.
            ApiError: It was refused for good.
            TimeLimitError: The stream's time is over.
        """
        self._opened_at = None
        opening = yield from self._opening(asked)
        answer = yield from open_stream(opening)
        if isinstance(answer, Lost):
            self._note_blocked()
            raise BrokenError(answer.why)
        if not isinstance(answer, Opened):
            raise self._judge_refusal(refusal_of(answer))
        self.connections += 1
        self._opened_at = self._means.clock()
        self._was_open = True
        self._decoder = EventStream()
        if self._wire is Wire.WEBSOCKET:
            yield from self.ask(asked)

    def ask(self, asked: Asked) -> Steps[None]:
        """Make a request on the open websocket.

        Raises:
            BrokenError: It could not be sent.
        """
        lost = yield from say(asked.frame())
        if lost is not None:
            raise BrokenError(lost.why)

    def frames(self) -> Steps[list[Frame]]:
        """Wait for frames; there may be none yet.

        Raises:
            BrokenError: The connection ended.
            ApiError: It was ended for good, or the request on it was refused.
            ProtocolError: What arrived is not a frame.
            TimeLimitError: The stream's time is over.
        """
        limit = min(SILENCE_SECONDS, self.remaining_seconds())
        reply = yield from hear(limit)
        match reply:
            case Heard():
                frames = [_parsed(data) for data in self._cut(reply.data)]
            case Closed(code):
                raise _judge_close(code, self._means.policy.crowded_pause_seconds)
            case Silence():
                raise BrokenError("the service says nothing any more")
            case Lost(why):
                raise BrokenError(why)
        for frame in frames:
            if frame.get("type") == "refused" and frame.get("op") == "subscribe":
                raise _judge_refused_frame(str(frame.get("code")))
        return frames

    def come_back(self, broken: BrokenError, after: int = 0) -> Steps[None]:
        """Wait before the next connection.

        Raises:
            StreamLostError: It has been tried long enough.
            TimeLimitError: The stream's time is over.
        """
        yield Hang()
        remaining = self.remaining_seconds()
        if self._opened_at is not None and self._means.clock() - self._opened_at >= STEADY_SECONDS:
            self._reconnects.progress()
        wait = self._reconnects.next_pause(broken.retry_after)
        if wait is None:
            raise StreamLostError(
                f"the stream was lost and could not be opened again: {broken.why}",
                after=after,
                retry_after=broken.retry_after,
            )
        yield from pause(min(wait, remaining))

    def remaining_seconds(self) -> float:
        """Return the remaining time of the stream.

        Raises:
            TimeLimitError: There is none.
        """
        if self._ends_at is None:
            return float("inf")
        remaining = self._ends_at - self._means.clock()
        if remaining <= 0:
            raise TimeLimitError("the stream did not end within its time limit")
        return remaining

    def _opening(self, asked: Asked) -> Steps[Open]:
        remaining = self.remaining_seconds()
        limit, longest = min(OPEN_SECONDS, remaining), min(SILENCE_SECONDS, remaining)
        if self._wire is Wire.EVENTS:
            assert asked.turn_id is not None
            query = {"after": str(asked.after)}
            path = calls.events_path(asked.turn_id)
            return Open(Wire.EVENTS, path, limit, longest, query, {"Accept": "text/event-stream"})
        ticket = None
        if self._via is Via.TICKET:
            made = yield from beside(calls.create_ticket(asked.session_id), self._means, limit)
            ticket = made.ticket
        return Open(Wire.WEBSOCKET, STREAM_PATH, limit, longest, ticket=ticket)

    def _note_blocked(self) -> None:
        self._blocked += 1
        if self._via is Via.AUTO and self._blocked >= MOST_BLOCKED and not self._was_open:
            self._wire = Wire.EVENTS

    def _judge_refusal(self, error: ApiError) -> BrokenError | ApiError:
        if may_retry(error, is_repeatable=True):
            return BrokenError(str(error), retry_after=error.retry_after)
        if self._via is Via.TICKET and isinstance(error, UnauthorizedError):
            return BrokenError("the ticket was too old when it was used")
        is_for_all = error.code in {"unauthorized", "forbidden"}
        if self._via is Via.AUTO and self._wire is Wire.WEBSOCKET and not is_for_all:
            # Without its upgrade the handshake is a plain request, which the service refuses.
            self._wire = Wire.EVENTS
            return BrokenError("websockets do not get through")
        return error

    def _cut(self, data: str | bytes) -> list[str | bytes]:
        return [data] if isinstance(data, str) else list(self._decoder.feed(data))


def beside(call: Call[T], means: Means, limit_seconds: float | None = None) -> Steps[T]:
    """Exchange a call that a stream needs; a temporary failure breaks the connection, which is opened again.

    Raises:
        BrokenError: It was not answered, or refused for now.
        ApiError: It was refused for good.
    """
    try:
        return (yield from exchange(call, means, limit_seconds))
    except (ConnectionFailedError, TimeLimitError) as failed:
        raise BrokenError(str(failed)) from failed
    except ApiError as refused:
        if may_retry(refused, is_repeatable=True):
            raise BrokenError(str(refused), retry_after=refused.retry_after) from refused
        raise


def _parsed(data: str | bytes) -> Frame:
    try:
        frame = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError("a frame is no JSON") from None
    if not isinstance(frame, dict):
        raise ProtocolError("a frame is no JSON object")
    return frame


def _judge_close(code: int | None, crowded_pause_seconds: float) -> Exception:
    match code:
        case 4400:
            return ProtocolError("the service could not read a frame of this client")
        case 4401:
            return UnauthorizedError("the key is no longer good")
        case 4403:
            return ForbiddenError("streams may not be opened from here")
        case 1009:
            return ProtocolError(f"a frame has more than {MOST_BYTES} bytes")
        case 4429:
            return BrokenError("too many streams are open", retry_after=crowded_pause_seconds)
    # 1012 restart, 4409 too slow, or simply the end: the cursor says where to resume.
    return BrokenError(f"the service closed the stream ({code})" if code else "the stream ended")


def _judge_refused_frame(code: str) -> Exception:
    if may_retry(ApiError("", code=code), is_repeatable=True):
        return BrokenError(code)
    return CLASSES.get(code, ApiError)("the service refused the stream", code=code)
