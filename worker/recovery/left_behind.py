"""What a dead attempt left: its checkpoint, its log, and the note of its call."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import msgspec
import redis
from sqlalchemy import Row

from shared.money.usage import Usage, UsageSource, estimate_tokens
from shared.redis.names import call_key, log_key
from shared.turn.events import EventType, decode_header
from shared.turn.transcript import Transcript
from worker.publishing.call_note import CallNote, read_note
from worker.turn.allowance import within_limit
from worker.turn.outcome import Answer

_log = logging.getLogger("turnkeeper.sweeper")

_BYTES_PER_TOKEN: Final = 4
_NUMBERS_LEFT_OUT: Final = 1_000_000
"""More than an attempt can have given out between two checkpoints."""

_ANSWERED: Final = frozenset({EventType.MESSAGE_START, EventType.CONTENT_DELTA, EventType.REASONING_DELTA})
"""Events that only an attempt tells whose provider answered."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is known of a dead attempt: its row, what was shown and where its events ended."""

    row: Row[Any]
    answer: Answer
    last_seq: int
    is_log_lost: bool = False
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class _Told:
    """What a turn's log tells.

    Args:
        transcript: The text.
        is_answered: Whether the newest attempt's provider answered.
        is_open: Whether the text can go on: no number is missing, and readers were not told its end.
    """

    transcript: Transcript
    is_answered: bool
    is_open: bool


def left_behind(row: Row[Any], log: "redis.Redis", context_tokens: int) -> Left:
    """Gather what a dead attempt left: the log knows more than the last checkpoint.

    Args:
        row: The turn, with its checkpoint.
        log: Where its log is.
        context_tokens: What prompts are cut to.
    """
    content, reasoning = row.content or "", row.reasoning or ""
    last_seq = max(row.last_seq, row.checkpoint_seq or 0)
    note = _note_of(row, log)
    called = bool(row.called) or note is not None
    told = _told(row, log)
    is_open = False
    if told is None:
        # With the log it was lost which numbers readers have seen: none of them is given again (I4).
        last_seq += _NUMBERS_LEFT_OUT
    elif told.transcript.seq >= last_seq:
        last_seq = told.transcript.seq
        content, reasoning = told.transcript.content, told.transcript.reasoning
        called = called or told.is_answered
        is_open = told.is_open
    usage = usage_of(row, content, reasoning, context_tokens) if called else Usage()
    source = source_of(row)
    if note is not None and note.prompt is not None and source is not UsageSource.PROVIDER:
        usage, source = _with_prompt(usage, note.prompt), note.source
    answer = Answer(content, reasoning, called, usage, source)
    return Left(row, answer, last_seq, is_log_lost=told is None, is_open=is_open)


def _note_of(row: Row[Any], log: "redis.Redis") -> CallNote | None:
    """Return what the dead attempt noted in Redis of its call; a renewal does so later."""
    try:
        kept = cast("bytes | None", log.get(call_key(row.session_id, row.id)))
    except redis.RedisError as error:
        _log.warning("a lost turn's call cannot be looked up: %s", type(error).__name__)
        return None
    note = None if kept is None else read_note(kept)
    return note if note is not None and note.attempt == row.attempt else None


def _with_prompt(usage: Usage, prompt: Usage) -> Usage:
    return replace(prompt, output_tokens=usage.output_tokens, reasoning_tokens=usage.reasoning_tokens)


def _told(row: Row[Any], log: "redis.Redis") -> _Told | None:
    """Fold the turn's log; None when Redis is away, or the log is spoiled or does not reach back far enough."""
    try:
        entries = cast("list[Any]", log.xrange(log_key(row.session_id, row.id)))
    except redis.RedisError as error:
        _log.warning("a lost turn's log cannot be read: %s", type(error).__name__)
        return None
    encoded = [event for _, fields in entries for event in fields.values()]
    try:
        return _fold(row, encoded) if encoded else None
    except msgspec.DecodeError:
        # Whatever wrote that, the turn has to end: the checkpoint is what is known (I1).
        _log.error("a lost turn's log holds what is no event", extra={"turn_id": str(row.id)})
        return None


def _fold(row: Row[Any], encoded: Sequence[bytes]) -> _Told | None:
    """Add the events to what was saved; None when some between them are missing."""
    first = decode_header(encoded[0])
    transcript = Transcript()
    if first.seq > 1 and first.type != EventType.SNAPSHOT:
        if first.seq > (row.checkpoint_seq or 0) + 1:
            return None
        transcript = Transcript.resume(
            seq=row.checkpoint_seq,
            attempt=row.checkpoint_attempt,
            status=row.status,
            message_id=str(row.answer_id),
            content=row.content,
            reasoning=row.reasoning,
        )
    is_answered, is_open = False, True
    for event in encoded:
        header = decode_header(event)
        is_snapshot = header.type == EventType.SNAPSHOT
        is_open = is_open and (is_snapshot or header.seq <= transcript.seq + 1)
        is_open = is_open and header.type != EventType.MESSAGE_END
        if header.seq > transcript.seq:
            transcript.apply(event)
        if header.attempt == row.attempt:
            # A snapshot may be of what an earlier attempt left.
            is_news = is_snapshot and transcript.content != (row.content or "")
            is_answered = is_answered or is_news or header.type in _ANSWERED
    return _Told(transcript, is_answered, is_open)


def usage_of(row: Row[Any], content: str, reasoning: str, context_tokens: int) -> Usage:
    """Return what a dead attempt used: its checkpoint's figures, and an estimate for what came after them.

    Neither estimate is above what was sent: the prompt was cut to the context, the answer had its limit.
    A checkpoint that an earlier attempt left to be continued has no figures: its text is billed already.
    """
    said = estimate_tokens(content.removeprefix(row.content or ""))
    thought = estimate_tokens(reasoning.removeprefix(row.reasoning or ""))
    counted = row.output_tokens or 0
    output = within_limit(counted + said + thought, len(content) + len(reasoning), row.max_output_tokens)
    most_input = max(0, context_tokens - row.max_output_tokens)
    return Usage(
        input_tokens=row.input_tokens or min(int(row.prompt_bytes) // _BYTES_PER_TOKEN, most_input),
        cache_read_tokens=row.cache_read_tokens or 0,
        cache_write_tokens=row.cache_write_tokens or 0,
        cache_write_1h_tokens=row.cache_write_1h_tokens or 0,
        output_tokens=max(counted, output),
        reasoning_tokens=min((row.reasoning_tokens or 0) + thought, max(counted, output)),
    )


def source_of(row: Row[Any]) -> UsageSource:
    """Return what the figures of a dead attempt are worth."""
    return UsageSource(row.usage_source or UsageSource.ESTIMATED)
