"""One attempt's channel to its log and its readers: numbers its events and holds them until the publisher takes them.

Consecutive deltas become one event while they wait. Events that were sent are kept until Redis has acknowledged them.
Everything here belongs to the loop's thread.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import msgspec

from shared.money.usage import Usage, UsageSource
from shared.redis.log_scripts import APPEND, RESTART, Appended, sha_of
from shared.redis.names import events_channel, log_key
from shared.redis.wire import pack
from shared.turn.events import Event, EventEncoder, MessageReset, Snapshot, timestamp
from shared.turn.turns import TurnStatus
from worker.publishing.call_note import CallNote
from worker.publishing.delta_counts import DeltaCounts
from worker.publishing.log_memory import CUT_ENTRIES

_log = logging.getLogger("turnkeeper.publisher")

_RETRY_SECONDS: Final = 0.5
"""When the turn's events are sent again after Redis answered with an error (out of memory, loading)."""
_LINGER_SECONDS: Final = 60.0
"""How long a settled turn's last events wait for a Redis that is down; after that readers use the row."""
_READ_TRIES: Final = 100
_DRAIN_POLL_SECONDS: Final = 0.005
_APPEND_SHA: Final = sha_of(APPEND)
_RESTART_SHA: Final = sha_of(RESTART)
_WRITTEN: Final = Appended.WRITTEN
"""Kept, because each flush compares with it and Python 3.11 is slow to look up an enum's member."""
_DONE_PREFIX: Final = b'{"type":"done"'


class _Deltas(msgspec.Struct, gc=False):
    """Consecutive deltas of one kind, which are sent as one event; the last one pending may still grow."""

    reasoning: bool
    texts: list[str]


class _Whole(msgspec.Struct, frozen=True):
    """Any other event: still to be encoded, or already encoded with the number that it gets."""

    event: Event | bytes


_Pending: TypeAlias = _Deltas | _Whole


class Sender(Protocol):
    """What a channel needs of its publisher; each method returns at once, in the loop's thread."""

    counts: DeltaCounts
    """Counts deltas."""

    def mark(self, channel: "Channel") -> None:
        """Note that `channel` has something to send."""

    def note_call(self, session_id: UUID, turn_id: UUID, note: CallNote) -> None:
        """Store that an attempt called the provider."""

    def begin_again(self, channel: "Channel") -> None:
        """Restart a lost log with `channel.snapshot`, if the leases are trusted."""

    def restart(self, channel: "Channel") -> None:
        """Restart a lost log, once PostgreSQL has confirmed that this worker still owns the turn."""

    def forget(self, channel: "Channel") -> None:
        """Drop a channel."""


class Channel:
    """One attempt's channel to its log and its readers; `Publisher.open` starts the log.

    Args:
        publisher: Sends the events.
        session_id: The session whose pub/sub channel they go to.
        turn_id: The turn whose log they go to.
        attempt: The fencing token: the first part of every id.
        seq: The last number given before this attempt.
        message_id: The answer's id, for a snapshot.
        on_fenced: Called once a newer attempt has written.
        organization_id: Whose log it is; None where nobody counts.
    """

    __slots__ = (
        "_attempt",
        "_counts",
        "_encoder",
        "_expires_at",
        "_first_unacked",
        "_in_flight",
        "_is_discarded",
        "_is_ending",
        "_last",
        "_message_id",
        "_needs_snapshot",
        "_on_fenced",
        "_pending",
        "_pending_bytes",
        "_publisher",
        "_retry_at",
        "_sent_since",
        "_session_id",
        "_shown",
        "_snapshot_in_flight",
        "_snapshot_seq",
        "_thought",
        "_turn_id",
        "_unacked",
        "_unacked_bytes",
        "_version",
        "_waiting_since",
        "channel",
        "is_cut_short",
        "log",
        "log_bytes",
        "organization_id",
        "seq",
    )

    def __init__(
        self,
        publisher: Sender,
        session_id: UUID,
        turn_id: UUID,
        attempt: int,
        seq: int,
        message_id: UUID,
        on_fenced: Callable[[], None],
        organization_id: UUID | None = None,
    ) -> None:
        self.organization_id = organization_id
        self.log_bytes = 0
        self.is_cut_short = False
        self.log = log_key(session_id, turn_id)
        self.channel = events_channel(session_id)
        self.seq = seq
        self._publisher = publisher
        self._counts = publisher.counts
        self._encoder = EventEncoder(session_id, turn_id)
        self._session_id = session_id
        self._turn_id = turn_id
        self._attempt = attempt
        self._message_id = message_id
        self._on_fenced = on_fenced
        self._pending: list[_Pending] = []
        self._pending_bytes = 0
        self._last: _Deltas | None = None
        self._unacked: list[bytes] = []
        self._unacked_bytes = 0
        self._first_unacked = seq + 1
        self._in_flight = False
        self._needs_snapshot = False
        self._snapshot_in_flight = False
        self._snapshot_seq = 0
        self._retry_at = 0.0
        self._expires_at = 0.0
        self._is_ending = False
        self._is_discarded = False
        self._shown: list[str] = []
        self._thought: list[str] = []
        self._version = 0
        self._waiting_since = self._sent_since = 0.0

    def go_on_from(self, text: str, *, is_in_log: bool) -> None:
        """Continue where an earlier attempt ended; called before any event is added.

        Args:
            text: The part of the answer that readers have, through this channel's number.
            is_in_log: Whether the log ends there too; otherwise it restarts with a snapshot, under a number
            that no reader has.
        """
        self._shown = [text]
        if not is_in_log:
            self.seq += 1
            self._first_unacked = self.seq + 1
            self._needs_snapshot = True
            self._publisher.begin_again(self)  # the lease is new

    def delta(self, text: str, *, reasoning: bool) -> None:
        """Add a piece of the answer or of the thinking."""
        last = self._last
        if last is not None and last.reasoning is reasoning:  # a discarded channel has no last one
            last.texts.append(text)
        elif self._is_discarded:
            return
        else:
            self._last = _Deltas(reasoning, [text])
            self._pending.append(self._last)
            self._waiting_since = self._waiting_since or monotonic()
        self._pending_bytes += len(text)
        self._publisher.mark(self)

    def note_call(self, prompt: Usage | None = None, source: UsageSource = UsageSource.ESTIMATED) -> None:
        """Note that the provider was called, so that the call is billed if this worker dies before its next renewal.

        Args:
            prompt: The tokens of the attempt's prompts, once the provider has reported them.
            source: Where those figures come from.
        """
        note = CallNote(self._attempt, prompt, source)
        self._publisher.note_call(self._session_id, self._turn_id, note)

    def event(self, event: Event) -> None:
        """Add an event that is not a delta."""
        if self._is_discarded:
            return
        self._last = None
        self._pending.append(_Whole(event))
        self._pending_bytes += 256
        self._publisher.mark(self)

    def encoded(self, seq: int, event: bytes) -> None:
        """Add an event that is already encoded with the number `seq`, which must be the next.

        Any other number would make a silent hole, so the event is then dropped and readers learn it from the row (I4).
        """
        if self._is_discarded:
            return
        if seq != self.next_seq():
            _log.error("an event has another number than its place", extra={"turn_id": str(self._turn_id)})
            self.discard()
            return
        self._last = None
        self._pending.append(_Whole(event))
        self._pending_bytes += len(event)
        self._publisher.mark(self)

    def next_seq(self) -> int:
        """Return the number that the next event will get."""
        return self.seq + len(self._pending) + 1

    async def drained(self, within_seconds: float) -> bool:
        """Wait until all events so far are in Redis; False if that took too long."""
        deadline = monotonic() + within_seconds
        while not self.is_idle() and monotonic() < deadline:  # noqa: ASYNC110 -- rare, and no event to set on the delta path
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        return self.is_idle()

    def end(self) -> None:
        """Note that the attempt is over and about to be settled.

        From here on, a renewal that does not find the turn may have run after the settlement. So the lease no
        longer decides whether the last events may be shown; the settlement does, and `discard` follows if it
        fails.
        """
        self._is_ending = True

    def fence(self) -> None:
        """Drop the events not yet sent, unless the attempt is being settled: the lease is lost (I3)."""
        if not self._is_ending:
            self.discard()

    def close(self) -> None:
        """Note that no event follows: the turn is forgotten when all of it is in Redis, or after a while."""
        self._expires_at = monotonic() + _LINGER_SECONDS
        self._publisher.mark(self)

    def discard(self) -> None:
        """Drop the events not yet sent and all later ones: nothing may be shown any more (I3)."""
        self._is_discarded = True
        self._pending.clear()
        self._unacked.clear()
        self._pending_bytes = self._unacked_bytes = 0
        self._last = None
        self._publisher.forget(self)

    def text_so_far(self) -> tuple[int, str, str] | None:
        """Return the number of the last encoded event, and content and reasoning exactly through it.

        For other threads: the version is odd while the loop encodes and differs afterwards, so a text read
        in between is thrown away. None if that happened many times in a row.
        """
        for _ in range(_READ_TRIES):
            version = self._version
            seq, content, reasoning = self.seq, list(self._shown), list(self._thought)
            if version % 2 == 0 and version == self._version:
                return seq, "".join(content), "".join(reasoning)
        return None

    # What follows is the publisher's side.

    def waiting_bytes(self) -> int:
        """Return roughly how many bytes are held for Redis."""
        return self._pending_bytes + self._unacked_bytes

    def is_idle(self) -> bool:
        """Return whether all events so far are in Redis."""
        return not (self._pending or self._unacked or self._in_flight or self._needs_snapshot)

    def is_closing(self) -> bool:
        """Return whether no more events will be added."""
        return bool(self._expires_at)

    def is_finished(self, now: float) -> bool:
        """Return whether the publisher may forget the channel."""
        return bool(self._expires_at) and (self.is_idle() or now > self._expires_at)

    def take(self, ts: str, now: float, max_entries: int, ttl_seconds: int) -> bytes | None:
        """Encode what is pending and return the command that appends it; None if nothing may be sent now."""
        if self._in_flight or self._needs_snapshot or now < self._retry_at:
            return None
        self._version += 1
        for entry in self._pending:
            self.seq += 1
            self._unacked.append(self._encode(entry, ts))
        self._version += 1
        self._pending.clear()
        self._unacked_bytes += self._pending_bytes
        self._pending_bytes = 0
        self._last = None
        if not self._unacked:
            return None
        self._in_flight = True
        self._sent_since = self._sent_since or self._waiting_since
        self._waiting_since = 0.0
        ttl = ttl_seconds if self._expires_at else 0
        command = pack(
            "EVALSHA", _APPEND_SHA, 2, self.log, self.channel, self._attempt, self._first_unacked,
            CUT_ENTRIES if self.is_cut_short else max_entries, ttl,
            *self._unacked,
        )  # fmt: skip
        self.log_bytes += len(command)
        return command

    def _encode(self, entry: _Pending, ts: str) -> bytes:
        if isinstance(entry, _Deltas):
            texts, reasoning, counts = entry.texts, entry.reasoning, self._counts
            text = "".join(texts)
            (self._thought if reasoning else self._shown).append(text)
            counts.deltas += len(texts)
            counts.delta_events += 1
            return self._encoder.delta(reasoning, self.seq, self._attempt, ts, text)
        event = entry.event
        if isinstance(event, bytes):
            return event
        if isinstance(event, MessageReset):
            self._shown.clear()
            self._thought.clear()
        return self._encoder.encode(event, self.seq, self._attempt, ts)

    def answered(self, reply: object) -> None:
        """Process Redis' reply to the command of `take`."""
        self._in_flight = False
        match reply:
            case _ if reply == _WRITTEN:
                self._settle_unacked()
                if self._sent_since:
                    self._counts.delays.append(monotonic() - self._sent_since)
                    self._sent_since = 0.0
            case Appended.LOG_GONE:
                self._leave_to_snapshot()
                self._publisher.restart(self)
                return
            case Appended.FENCED:
                _log.warning("a newer attempt has written", extra={"turn_id": str(self._turn_id)})
                self.discard()
                self._on_fenced()
                return
            case _:
                _log.warning("redis refused an append: %s", reply, extra={"turn_id": str(self._turn_id)})
                self._retry_at = monotonic() + _RETRY_SECONDS
        self._publisher.mark(self)

    def connection_lost(self) -> None:
        """Keep the events that were not acknowledged, to send them again with the same numbers."""
        self._in_flight = False
        self._snapshot_in_flight = False

    def overflow(self) -> None:
        """Give up the backlog's single events: readers get a snapshot instead (I4)."""
        ts = timestamp(datetime.now(UTC))
        self._version += 1
        for entry in self._pending:
            self.seq += 1
            self._unacked.append(self._encode(entry, ts))
        self._version += 1
        self._pending.clear()
        self._pending_bytes = 0
        self._last = None
        self._leave_to_snapshot()

    def wants_restart(self, now: float) -> bool:
        """Return whether a snapshot must be sent before anything else, and none is on its way."""
        return (
            self._needs_snapshot
            and not (self._snapshot_in_flight or self._in_flight)
            and now >= self._retry_at
        )

    def snapshot(self, ttl_seconds: int) -> bytes:
        """Return the command that restarts the log with the text so far."""
        text = Snapshot(
            TurnStatus.RUNNING, str(self._message_id), "".join(self._shown), "".join(self._thought)
        )
        self._snapshot_in_flight = True
        self._snapshot_seq = self._first_unacked - 1
        ts = timestamp(datetime.now(UTC))
        encoded = self._encoder.encode(text, self._snapshot_seq, self._attempt, ts)
        return pack(
            "EVALSHA",
            _RESTART_SHA,
            2,
            self.log,
            self.channel,
            f"{self._attempt}-{self._snapshot_seq}",
            encoded,
            ttl_seconds,
        )

    def restarted(self, reply: object) -> None:
        """Process Redis' reply to the command of `snapshot`."""
        self._snapshot_in_flight = False
        if reply == Appended.WRITTEN:
            # The backlog may have been given up again meanwhile.
            self._needs_snapshot = self._snapshot_seq != self._first_unacked - 1
        else:
            _log.warning("redis refused a snapshot: %s", reply, extra={"turn_id": str(self._turn_id)})
            self._retry_at = monotonic() + _RETRY_SECONDS
        self._publisher.mark(self)

    def give_up(self) -> None:
        """Drop the turn, unless it is being settled: this worker no longer owns it."""
        self.fence()
        self._on_fenced()

    def identity(self) -> tuple[UUID, int]:
        """Return the turn and the attempt, to check the lease."""
        return self._turn_id, self._attempt

    def place(self) -> tuple[UUID, UUID]:
        """Return the session and the turn, which name the log."""
        return self._session_id, self._turn_id

    def _leave_to_snapshot(self) -> None:
        """Drop what a snapshot replaces: everything except `done`, which follows it and which no reader has seen."""
        done = self._unacked[-1:]
        if done and not done[0].startswith(_DONE_PREFIX):
            done = []
        self._unacked = done
        self._unacked_bytes = sum(map(len, done))
        self._first_unacked = self.seq + 1 - len(done)
        self._needs_snapshot = True
        self._waiting_since = self._sent_since = 0.0

    def _settle_unacked(self) -> None:
        self._unacked.clear()
        self._unacked_bytes = 0
        self._first_unacked = self.seq + 1
