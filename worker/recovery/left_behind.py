"""Gathers what a dead attempt left: its checkpoint, its log, and the note of its call."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

import msgspec
import redis
from sqlalchemy import Connection, text

from shared.money.usage import COLUMNS, Usage, UsageSource, estimate_tokens, reported_of
from shared.postgres import rows
from shared.redis.names import call_key, log_key
from shared.turn.conversation import is_in_conversation
from shared.turn.events import EventType, decode_header
from shared.turn.transcript import Transcript
from worker.publishing.call_note import CallNote, read_note
from worker.recovery.told_end import LoggedDone, done_in
from worker.turn.allowance import within_limit
from worker.turn.outcome import Answer
from worker.turn.prompt import answer_tokens

_log = logging.getLogger("turnkeeper.sweeper")

_BYTES_PER_TOKEN: Final = 4
_NUMBERS_LEFT_OUT: Final = 1_000_000
"""More numbers than an attempt can have used between two checkpoints."""

_ANSWERED: Final = frozenset({EventType.MESSAGE_START, EventType.CONTENT_DELTA, EventType.REASONING_DELTA})
"""Events of an attempt that appear only once its provider has answered."""


@dataclass(frozen=True, slots=True)
class LeftBehindTurn:
    """A turn whose lease ran out, with its checkpoint; the checkpoint's columns are None if there is none.

    Args:
        called: Whether a request had reached the provider.
        content: The text through `checkpoint_seq`.
        reasoning: The thinking through `checkpoint_seq`.
        reported: What the provider said, where that is not billed as it is.
        hold_price: The price at which the attempt's hold was computed; None without a hold.
        prompt_bytes: The length of system prompt, history and question together.
    """

    id: UUID
    session_id: UUID
    status: str
    attempt: int
    handed_back: int
    recovery: str
    answer_id: UUID
    stop_reason: str | None
    last_seq: int
    title: str | None
    queued_at: datetime
    max_output_tokens: int
    traceparent: str
    checkpoint_attempt: int | None
    checkpoint_seq: int | None
    called: bool | None
    content: str | None
    reasoning: str | None
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cache_write_1h_tokens: int | None
    usage_source: str | None
    reported: Mapping[str, int] | None
    hold_price: Mapping[str, Any] | None
    prompt_bytes: int


_OF_CHECKPOINT: Final = ("called", "content", "reasoning", *COLUMNS, "usage_source", "reported")
_NOT_OF_TURN: Final = frozenset(
    {"checkpoint_attempt", "checkpoint_seq", *_OF_CHECKPOINT, "hold_price", "prompt_bytes"}
)
_LEFT_BEHIND: Final = text(
    f"""
    select {rows.columns(LeftBehindTurn, "t", without=_NOT_OF_TURN)},
           c.attempt as checkpoint_attempt, c.seq as checkpoint_seq,
           {", ".join(f"c.{name}" for name in _OF_CHECKPOINT)}, h.price as hold_price,
           (select coalesce(sum(octet_length(m.content)), 0) from turnkeeper.messages as m
            join turnkeeper.turns as o on o.organization_id = m.organization_id and o.id = m.turn_id
            where {is_in_conversation("o")} and m.organization_id = t.organization_id and m.session_id = t.session_id
              and m.position <= t.number * 2)
           + (select coalesce(octet_length(s.system_prompt), 0) from turnkeeper.sessions as s
              where s.organization_id = t.organization_id and s.id = t.session_id) as prompt_bytes
    from turnkeeper.turns as t
    left join turnkeeper.checkpoints as c on c.organization_id = t.organization_id and c.turn_id = t.id
    left join turnkeeper.holds as h
        on h.organization_id = t.organization_id and h.turn_id = t.id and h.attempt = t.attempt
    where t.organization_id = :organization_id and t.id = :turn_id
    """  # noqa: S608 -- the columns are ours
)


@dataclass(frozen=True, slots=True)
class Left:
    """What is known of a dead attempt: its turn, the text that was shown, and where its events ended.

    Args:
        log_attempt: The newest attempt in the log.
        done: The end that readers were told of, which the row does not have.
    """

    turn: LeftBehindTurn
    answer: Answer
    last_seq: int
    is_log_lost: bool = False
    is_open: bool = False
    log_attempt: int = 0
    done: LoggedDone | None = None


@dataclass(frozen=True, slots=True)
class _Log:
    """What a turn's log shows.

    Args:
        told: The text; None if the log does not reach back far enough.
        attempt: The newest attempt in it.
        done: Its end, if it has one.
    """

    told: "_Told | None" = None
    attempt: int = 0
    done: LoggedDone | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """What a turn's readers have.

    Args:
        transcript: The text.
        is_answered: Whether the newest attempt's provider answered.
        is_open: Whether the text can be continued: no number is missing, and readers did not receive its end.
    """

    transcript: Transcript
    is_answered: bool
    is_open: bool


def read_left_behind(db: Connection, organization_id: UUID, turn_id: UUID) -> LeftBehindTurn:
    """Read a turn and its checkpoint."""
    found = db.execute(_LEFT_BEHIND, {"organization_id": organization_id, "turn_id": turn_id})
    return rows.one(LeftBehindTurn, found)


def left_behind(turn: LeftBehindTurn, log: "redis.Redis", context_tokens: int) -> Left:
    """Gather what a dead attempt left: the log knows more than the last checkpoint.

    Args:
        turn: The turn with its checkpoint.
        log: The Redis that holds its log.
        context_tokens: The length to which prompts are cut.
    """
    content, reasoning = turn.content or "", turn.reasoning or ""
    last_seq = max(turn.last_seq, turn.checkpoint_seq or 0)
    logged = _read_log(turn, log)
    note = _note_of(turn, log, max(turn.attempt, logged.attempt))
    called = bool(turn.called) or note is not None
    told = logged.told
    is_open = False
    if told is None:
        # Which numbers readers have seen was lost with the log: none of them may be used again (I4).
        last_seq += _NUMBERS_LEFT_OUT
    elif told.transcript.seq >= last_seq or logged.done is not None:
        last_seq = max(last_seq, told.transcript.seq)
        content, reasoning = told.transcript.content, told.transcript.reasoning
        called = called or told.is_answered
        is_open = told.is_open
    usage = usage_of(turn, content, reasoning, context_tokens) if called else Usage()
    source = source_of(turn)
    if note is not None and note.prompt is not None and source is not UsageSource.PROVIDER:
        usage = _with_prompt(usage, note.prompt)
        source = source if source is UsageSource.DISPUTED else note.source
    answer = Answer(content, reasoning, called, usage, source, reported=reported_of(turn.reported))
    return Left(
        turn,
        answer,
        last_seq,
        is_log_lost=told is None and logged.done is None,
        is_open=is_open,
        log_attempt=logged.attempt,
        done=logged.done,
    )


def _note_of(turn: LeftBehindTurn, log: "redis.Redis", newest: int) -> CallNote | None:
    """Return the note of its call that the dead attempt left in Redis, if no renewal came later.

    After a failover it may be of a later attempt than the row's, up to the `newest` in the log.
    """
    try:
        kept = cast("bytes | None", log.get(call_key(turn.session_id, turn.id)))
    except redis.RedisError as error:
        _log.warning("a lost turn's call cannot be looked up: %s", type(error).__name__)
        return None
    note = None if kept is None else read_note(kept)
    return note if note is not None and turn.attempt <= note.attempt <= newest else None


def _with_prompt(usage: Usage, prompt: Usage) -> Usage:
    return replace(prompt, output_tokens=usage.output_tokens, reasoning_tokens=usage.reasoning_tokens)


def _read_log(turn: LeftBehindTurn, log: "redis.Redis") -> _Log:
    """Fold the turn's log; it shows nothing if Redis is down or the log is damaged."""
    try:
        entries = cast("list[Any]", log.xrange(log_key(turn.session_id, turn.id)))
    except redis.RedisError as error:
        _log.warning("a lost turn's log cannot be read: %s", type(error).__name__)
        return _Log()
    encoded = [event for _, fields in entries for event in fields.values()]
    try:
        if not encoded:
            return _Log()
        newest = max(decode_header(event).attempt for event in encoded)
        return _Log(_fold(turn, encoded), newest, done_in(encoded))
    except msgspec.DecodeError:
        # Whatever wrote it, the turn must end: the checkpoint is what is known (I1).
        _log.error("a lost turn's log holds what is no event", extra={"turn_id": str(turn.id)})
        return _Log()


def _fold(turn: LeftBehindTurn, encoded: Sequence[bytes]) -> _Told | None:
    """Add the events to the saved text; None if some are missing in between."""
    first = decode_header(encoded[0])
    transcript = Transcript()
    if first.seq > 1 and first.type != EventType.SNAPSHOT:
        if turn.checkpoint_seq is None or first.seq > turn.checkpoint_seq + 1:
            return None
        transcript = Transcript.resume(
            seq=turn.checkpoint_seq,
            attempt=turn.checkpoint_attempt or 0,
            status=turn.status,
            message_id=str(turn.answer_id),
            content=turn.content or "",
            reasoning=turn.reasoning or "",
        )
    is_answered, is_open = False, True
    for event in encoded:
        header = decode_header(event)
        is_snapshot = header.type == EventType.SNAPSHOT
        is_open = is_open and (is_snapshot or header.seq <= transcript.seq + 1)
        is_open = is_open and header.type != EventType.MESSAGE_END
        if header.seq > transcript.seq:
            transcript.apply(event)
        if header.attempt >= turn.attempt:  # a failover may have taken later attempts out of the row
            # A snapshot may hold only the text that an earlier attempt left.
            is_news = is_snapshot and transcript.content != (turn.content or "")
            is_answered = is_answered or is_news or header.type in _ANSWERED
    return _Told(transcript, is_answered, is_open)


def usage_of(turn: LeftBehindTurn, content: str, reasoning: str, context_tokens: int) -> Usage:
    """Return what a dead attempt used: its checkpoint's figures, and an estimate for what came after them.

    No estimate exceeds what was possible: the prompt was cut to the context, and the answer had its limit.
    A checkpoint that an earlier attempt left to be continued has no figures: its text is billed already.
    """
    said = estimate_tokens(content.removeprefix(turn.content or ""))
    thought = estimate_tokens(reasoning.removeprefix(turn.reasoning or ""))
    counted = turn.output_tokens or 0
    output = within_limit(counted + said + thought, len(content) + len(reasoning), turn.max_output_tokens)
    most_input = context_tokens - answer_tokens(turn.max_output_tokens, context_tokens)
    return replace(
        Usage(**{name: getattr(turn, name) or 0 for name in COLUMNS}),
        input_tokens=turn.input_tokens or min(turn.prompt_bytes // _BYTES_PER_TOKEN, most_input),
        output_tokens=max(counted, output),
        reasoning_tokens=min((turn.reasoning_tokens or 0) + thought, max(counted, output)),
    )


def source_of(turn: LeftBehindTurn) -> UsageSource:
    """Return where the figures of a dead attempt come from."""
    return UsageSource(turn.usage_source or UsageSource.ESTIMATED)
