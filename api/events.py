"""A turn's events: as an event stream if `Accept` asks for it, else as a page of JSON.

The page follows the same delivery rule as the streams (I4): events that the log no longer holds are named by
a `gap` and replaced by a `snapshot`.
"""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, assert_never, cast
from uuid import UUID

from flask import Request, Response, request
from redis import Redis, RedisError

from api import models, queries
from api.operation import Call, Operation, Reply
from api.relay.log import entries_of, entry_of
from api.statements import turns
from api.statements.turns import ShownTurn, TurnWithText
from api.store import state_of
from api.streams import stream_of, wants_stream
from shared.errors import ProblemCode, RefusedError
from shared.redis.names import joined_log_key, log_key
from shared.turn.events import timestamp
from shared.turn.events_of_turn import accept_events
from shared.turn.replay import (
    Entry,
    Found,
    Outgoing,
    Pause,
    Position,
    ReadLog,
    ReadRow,
    Tail,
    Turn,
    catch_up,
    tail_of,
)
from shared.turn.turns import TERMINAL, TurnStatus

_log = logging.getLogger("turnkeeper.events")

_BATCH: Final = 500
_LARGEST: Final = 2**53
_DIGITS: Final = 15


def list_events(call: Call, turn_id: UUID, query: queries.EventRange) -> Reply | Response:
    """Read a turn's events after a cursor, or follow them as an event stream."""
    with call.services.database.of(call.caller.organization_id) as db:
        row = turns.turn_with_text(db, call.caller, turn_id)
    if row is None:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such turn")
    after = cursor_of(request, query.after)
    if wants_stream(request):
        return stream_of(call, turn_id, after=after)
    if row.status in TERMINAL and after == row.last_seq:
        return Reply(200, models.EventPage(data=[], last_seq=after, done=True))  # the client has read all
    position, sent = _read(call.services.redis, row, after)
    shown = sent[: query.limit]
    if len(shown) < len(sent):
        numbered = [outgoing.seq for outgoing in shown if outgoing.seq is not None]
        position = Position(numbered[-1] if numbered else after, None)
    data = [json.loads(outgoing.encoded) for outgoing in shown]
    return Reply(200, models.EventPage(data=data, last_seq=position.seq, done=position.is_over))


def cursor_of(given: Request, after: int | None) -> int:
    """Return the last seq that the client has.

    `Last-Event-ID` takes precedence: an EventSource that reconnects sends it together with its URL, whose
    `after` is older. A value that is not a number is ignored.
    """
    header = given.headers.get("Last-Event-ID", "")
    if header.isascii() and header.isdigit() and len(header) <= _DIGITS:
        return int(header)
    return min(after or 0, _LARGEST)


def _read(redis: "Redis", row: TurnWithText, after: int) -> tuple[Position, Sequence[Outgoing]]:
    """Answer the delivery rule's questions from Redis and the given row."""
    turn, state = Turn(row.session_id, row.id), state_of(row).row_state()
    asking = catch_up(Position(after, None), turn, timestamp(datetime.now(UTC)), row=state)
    answer: Found = None
    try:
        question = next(asking)
        while True:
            match question:
                case ReadLog(behind):
                    answer = _tail(redis, turn, behind)
                    if answer is None or (not answer.entries and answer.base is None):
                        answer = _opening(row, behind) or answer
                case ReadRow():
                    answer = state
                case Pause(seconds):
                    time.sleep(seconds)  # four times at most, under a second
                    answer = None
                case _:
                    assert_never(question)
            question = asking.send(answer)
    except StopIteration as end:
        found: tuple[Position, Sequence[Outgoing]] = end.value
        return found


def _opening(row: ShownTurn, after: int) -> Tail | None:
    """Return the log that a turn is about to get, if no worker has claimed it yet; None for any other turn."""
    if row.status != TurnStatus.QUEUED or row.attempt:
        return None
    entries = [Entry(0, seq, event) for seq, event in accept_events(row)]
    return tail_of(reversed(entries), after)[0]


def _tail(redis: "Redis", turn: Turn, after: int) -> Tail | None:
    """Read the log behind `after`; None if Redis does not answer."""
    try:
        tail, _ = tail_of(_newest_first(redis, log_key(turn.session_id, turn.turn_id)), after)
        if tail.entries or tail.base is not None:
            return tail
        joined = cast("bytes | None", redis.get(joined_log_key(turn.session_id, turn.turn_id)))
        return tail if joined is None else tail_of(reversed(entries_of(joined)), after)[0]
    except (RedisError, ValueError) as exc:
        _log.warning("a turn's log could not be read", exc_info=exc)
        return None


def _newest_first(redis: "Redis", key: str) -> Iterator[Entry]:
    end = "+"
    while True:
        batch = cast("list[tuple[bytes, dict[bytes, bytes]]]", redis.xrevrange(key, end, "-", count=_BATCH))
        for entry_id, fields in batch:
            ((field, event),) = fields.items()
            yield entry_of(entry_id, field, event)
        if len(batch) < _BATCH:
            return
        end = f"({batch[-1][0].decode()}"


OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/turns/{turn_id}/events",
        "Streams",
        {200: models.EventPage},
        list_events,
        (ProblemCode.NOT_FOUND,),
        query=queries.EventRange,
        headers={"Last-Event-ID": "The last `seq` that is known; takes precedence over `after`."},
        streams=True,
    ),
)
