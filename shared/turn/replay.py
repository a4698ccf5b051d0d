"""How a reader gets every event of a turn once and in order, whatever pub/sub and the log lose (I4).

Live events may be lost, repeated, late or out of order. Those in the log may not: an event is appended before it
is published. So a reader takes a live event only if it is the next one. At a hole and after a silence it reads the
log, because the lost event may have been the last. Where the log does not reach, the row tells how far the text is
and whether the turn is over. Nothing here does I/O: `catch_up` is a generator that asks for what it needs.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

from shared.turn.events import Gap
from shared.turn.transcript import Transcript

_TYPE_PREFIX: Final = b'{"type":"'
_DONE_PREFIX: Final = b'{"type":"done"'
_PAUSES_SECONDS: Final = (0.05, 0.1, 0.2, 0.4)
"""How long a reader of a turn that was just settled waits for its last events before it gets a gap: a worker
publishes them after its commit, and a busy one needs a moment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a turn's log: an event, or the snapshot with which a lost log was restarted."""

    attempt: int
    seq: int
    encoded: bytes
    is_snapshot: bool = False

    def is_done(self) -> bool:
        """Return whether the turn ends here."""
        return self.encoded.startswith(_DONE_PREFIX)


@dataclass(frozen=True, slots=True)
class Tail:
    """The log behind a cursor, oldest first, and the newest entry at or before the cursor."""

    entries: Sequence[Entry]
    base: Entry | None = None


@dataclass(frozen=True, slots=True)
class RowState:
    """What the turn's row knows; it has the last word.

    `content` and `reasoning` reach through `text_seq`. For a turn that is over, `done` is its encoded last event,
    whose seq is `last_seq`.
    """

    status: str
    attempt: int
    last_seq: int
    text_seq: int
    message_id: str | None
    content: str
    reasoning: str
    done: bytes | None


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader is: everything through `seq` was sent.

    `attempt` is that of the last event sent, and None for a cursor that a client named: until the log confirms
    such a cursor, it is not known whether that event was ever sent.
    """

    seq: int
    attempt: int | None
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A frame to send: an event of the turn, or a `gap` or `snapshot` that replaces events."""

    encoded: bytes
    seq: int | None

    def event_type(self) -> bytes:
        """Return the event's type as written in the JSON."""
        start = len(_TYPE_PREFIX)
        return self.encoded[start : self.encoded.index(b'"', start)]


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Asks for the `Tail` behind `after`; the reply None means that the log could not be read."""

    after: int


@dataclass(frozen=True, slots=True)
class ReadRow:
    """Asks for the `RowState`; the reply None means that the row could not be read."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Asks to resume after `seconds`, or at once if the caller cannot wait; the reply is None."""

    seconds: float


Request: TypeAlias = ReadLog | ReadRow | Pause
Found: TypeAlias = Tail | RowState | None
_T = TypeVar("_T")
Asking: TypeAlias = Generator[Request, Found, _T]


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn that is read, with the ids that its frames carry."""

    session_id: UUID
    turn_id: UUID


class Verdict(Enum):
    """What a live event is to a reader."""

    NEXT = auto()
    SEEN = auto()
    HOLE = auto()


def judge(position: Position, seq: int, attempt: int, *, is_snapshot: bool = False) -> Verdict:
    """Return what a live event is to a reader; at a `HOLE` the caller must read the log.

    A newer attempt whose numbers start again below the position is a hole too: the log, and with it the last
    numbers, was lost together with the worker, and what was sent of the older attempt is void. The first event of a
    newer attempt is also a hole, even if it is the next number: before it, the log may hold a newer event under the
    position's own number, which no reader received.
    """
    if seq == position.seq + 1 and not is_snapshot:
        return Verdict.HOLE if position.attempt and attempt > position.attempt else Verdict.NEXT
    if seq > position.seq:
        return Verdict.HOLE
    is_newer = position.attempt is not None and attempt > position.attempt
    return Verdict.HOLE if is_newer and not position.is_over else Verdict.SEEN


def tail_of(newest_first: Iterable[Entry], after: int) -> tuple[Tail, bool]:
    """Collect the log behind `after` from entries read backwards.

    Entries of an older attempt whose numbers a newer one has reused are left out: they are void.

    Returns:
        The tail, and whether `after` was reached, in which case no older entry is needed.
    """
    kept: list[Entry] = []
    lowest: int | None = None
    for entry in newest_first:
        if lowest is not None and entry.seq >= lowest:
            continue
        if entry.seq <= after:
            kept.reverse()
            return Tail(kept, entry), True
        kept.append(entry)
        lowest = entry.seq
        if entry.is_snapshot:
            # Entries that a snapshot covers are not needed, and the log holds nothing before it.
            break
    kept.reverse()
    # The entry after the cursor is enough only if the cursor needs no proof.
    return Tail(kept), bool(kept) and (kept[0].is_snapshot or (after == 0 and kept[0].seq == 1))


def follow(position: Position, tail: Tail) -> Sequence[Entry] | None:
    """Return the log's entries that bring a reader forward from `position`.

    Returns:
        The entries, none if there is no news; None if the log does not reach the position.
    """
    if not _confirms(position, tail):
        return None
    carried: list[Entry] = []
    expected = position.seq + 1
    for entry in tail.entries:
        if entry.is_snapshot and entry.seq >= expected:
            expected = entry.seq
        elif entry.seq < expected:
            continue
        elif entry.seq > expected:
            return None
        carried.append(entry)
        expected += 1
    return carried


def catch_up(
    position: Position,
    turn: Turn,
    ts: str,
    *,
    row: RowState | None = None,
    consults_row: bool = True,
    by_snapshot: bool = False,
) -> Asking[tuple[Position, Sequence[Outgoing]]]:
    """Bring a reader as far as log and row reach.

    Args:
        position: Where the reader is.
        turn: The turn whose events it reads.
        ts: The time to write into a snapshot.
        row: The row, if it was read a moment ago.
        consults_row: Whether to read the row if the log has no news.
        by_snapshot: Send the text so far instead of its events.

    Returns:
        The new position and the frames to send, in order; the same position and none if there is no news.
    """
    carried: Sequence[Entry] | None = None
    if not by_snapshot:
        tail = yield from _read_log(position.seq)
        if tail is not None:
            carried = follow(position, tail)
            position = _trusted(position, tail)
        else:
            carried = ()  # a log that cannot be read disproves nothing
    if row is None:
        if carried:
            return _carry(position, turn, carried)
        if carried is not None and not consults_row:
            return position, ()
        row = yield from _read_row()
    if row is None:
        return position, ()
    if row.done is not None:
        return (yield from _finish(position, turn, ts, row, by_snapshot=by_snapshot))
    if carried:
        return _carry(position, turn, carried)
    denied = carried is None
    return (yield from _restart(position, turn, ts, row, denied=denied, by_snapshot=by_snapshot))


def _finish(
    position: Position, turn: Turn, ts: str, row: RowState, *, by_snapshot: bool
) -> Asking[tuple[Position, Sequence[Outgoing]]]:
    """End the reader's stream: with what remains of the log, then with the row."""
    assert row.done is not None
    sent: list[Outgoing] = []
    if not by_snapshot:
        position, sent = yield from _await_rest(position, turn, row)
        if position.is_over:
            return position, sent
    if by_snapshot or not _has_all_but_done(position, row):
        # The snapshot stops short of `done`, so that `done` is the next number and not one already seen.
        text = _transcript_of(row, max(row.last_seq - 1, 0))
        sent.extend(_reset(position, turn, ts, text, asked=by_snapshot))
    sent.append(Outgoing(row.done, row.last_seq))
    return Position(row.last_seq, row.attempt, is_over=True), sent


def _await_rest(position: Position, turn: Turn, row: RowState) -> Asking[tuple[Position, list[Outgoing]]]:
    """Read the rest of a turn that is over, waiting a moment for events still on their way to the log."""
    sent: list[Outgoing] = []
    for pause in (*_PAUSES_SECONDS, None):
        # Read even the first time, though it was just read: events may have arrived before the row was read.
        tail = yield from _read_log(position.seq)
        carried = None if tail is None else follow(position, tail)
        position, more = _carry(position, turn, carried or ())
        sent.extend(more)
        # A log that is gone or does not reach the reader has nothing left for it.
        is_reached = tail is not None and carried is not None and bool(tail.entries or tail.base)
        if position.is_over or _has_all_but_done(position, row) or not is_reached or pause is None:
            break
        yield Pause(pause)
    return position, sent


def _has_all_but_done(position: Position, row: RowState) -> bool:
    # Under an older attempt the same number is another event, which came late and was not kept (I5).
    is_of_row = position.attempt in (None, row.attempt)
    return is_of_row and position.seq in (row.last_seq - 1, row.last_seq)


def _restart(
    position: Position, turn: Turn, ts: str, row: RowState, *, denied: bool, by_snapshot: bool
) -> Asking[tuple[Position, Sequence[Outgoing]]]:
    """Send the text so far of a turn that is not over: the row's, continued by the log."""
    if not denied:
        if row.text_seq <= position.seq:
            return position, ()
        # The log may have grown between reading it and reading the row: then nothing is missing.
        tail = yield from _read_log(position.seq)
        if carried := tail and follow(position, tail):
            return _carry(position, turn, carried)
    text = _transcript_of(row, row.text_seq)
    tail = yield from _read_log(row.text_seq)
    done, reaches = (None, False) if tail is None else _fold(text, tail)
    sent: list[Outgoing] = []
    is_denial = denied and reaches and tail is not None and bool(tail.entries or tail.base)
    if by_snapshot and (text.seq >= position.seq or is_denial):
        sent.extend(_reset(position, turn, ts, text, asked=True))
    elif text.seq != position.seq or position.attempt not in (None, text.attempt):
        if text.seq < position.seq and not is_denial:
            # Go backwards only if the log disproves what was sent, never because a checkpoint lags.
            return position, ()
        sent.extend(_reset(position, turn, ts, text, asked=False))
    if done is not None:
        return Position(done.seq, done.attempt, is_over=True), [*sent, Outgoing(done.encoded, done.seq)]
    return Position(text.seq, text.attempt), sent


def _trusted(position: Position, tail: Tail) -> Position:
    """Return `position` with the attempt with which the log confirms a named cursor."""
    base = tail.base
    if position.attempt is None and base is not None and base.seq == position.seq:
        return Position(position.seq, base.attempt)
    return position


def _confirms(position: Position, tail: Tail) -> bool:
    """Return whether the log allows the reader to be where it says it is."""
    base = tail.base
    if position.attempt is not None:
        if base is not None and base.attempt > position.attempt:
            return False
        return bool(tail.entries) or base is None or base.seq == position.seq
    if position.seq == 0 or (base is not None and base.seq == position.seq):
        return True
    if base is None and not tail.entries:
        return True  # a log that is gone disproves nothing: its writer restarts it
    return bool(tail.entries) and (tail.entries[0].is_snapshot or tail.entries[0].seq == position.seq + 1)


def _fold(text: Transcript, tail: Tail) -> tuple[Entry | None, bool]:
    """Fold the log into `text`; return the turn's end, if the log has it, and whether nothing was out of reach."""
    for entry in tail.entries:
        if entry.is_snapshot:
            if entry.seq > text.seq:
                text.apply(entry.encoded)
        elif entry.seq > text.seq + 1:
            return None, False
        elif entry.seq == text.seq + 1:
            if entry.is_done():
                return entry, True
            text.apply(entry.encoded)
    return None, True


def _carry(position: Position, turn: Turn, entries: Sequence[Entry]) -> tuple[Position, list[Outgoing]]:
    sent: list[Outgoing] = []
    for entry in entries:
        if entry.is_snapshot:
            sent.append(_gap(turn, position.seq + 1, entry.seq))
        sent.append(Outgoing(entry.encoded, entry.seq))
        position = Position(entry.seq, entry.attempt, is_over=entry.is_done())
    return position, sent


def _reset(position: Position, turn: Turn, ts: str, text: Transcript, *, asked: bool) -> Sequence[Outgoing]:
    """Return the gap, then the text; a snapshot that was asked for needs no gap."""
    snapshot = Outgoing(text.snapshot(turn.session_id, turn.turn_id, ts), text.seq)
    if asked or text.seq in (position.seq, 0):
        return (snapshot,)
    # A position past the text was never sent or is void: everything before the snapshot is.
    first = position.seq + 1 if text.seq > position.seq else 1
    return _gap(turn, first, text.seq), snapshot


def _gap(turn: Turn, first: int, last: int) -> Outgoing:
    gap = Gap(session_id=str(turn.session_id), turn_id=str(turn.turn_id), first=first, last=last)
    return Outgoing(gap.encoded(), None)


def _transcript_of(row: RowState, seq: int) -> Transcript:
    return Transcript.resume(
        seq=seq,
        attempt=row.attempt,
        status=row.status,
        message_id=row.message_id,
        content=row.content,
        reasoning=row.reasoning,
    )


def _read_log(after: int) -> Asking[Tail | None]:
    answer = yield ReadLog(after)
    assert answer is None or isinstance(answer, Tail)
    return answer


def _read_row() -> Asking[RowState | None]:
    answer = yield ReadRow()
    assert answer is None or isinstance(answer, RowState)
    return answer
