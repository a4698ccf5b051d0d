"""Sends to Redis what a committed request changed, without waiting for Redis.

If Redis hung, a request that waited for its reply would be blocked for seconds. So a notice is written on an idle
connection if there is one, and otherwise left to a thread; threads read all replies. Any notice may be lost: a
sweeper rings again for a turn whose doorbell was lost, and a worker reads stops from the row.
"""

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never, cast
from uuid import UUID

from redis import Redis, RedisError
from redis.client import Pipeline

from api.redis_line import Line
from shared.lasting import lasting_thread
from shared.redis.doorbell import QUEUE_KEY, doorbell
from shared.redis.log_scripts import APPEND, OPEN
from shared.redis.memory import LogShares, memory_from
from shared.redis.names import ABORT_CHANNEL, abort_key, events_channel, log_key
from shared.turn.rows import RecordedRow

_log = logging.getLogger("turnkeeper.notices")

MOST_WAITING: Final = 10_000
"""Some 10 MB. The oldest notice is dropped first, since the sweeper rings for it soonest."""
_THREADS: Final = 2
"""One thread may be waiting for a connection to Redis while the other rings."""
_BATCH: Final = 64
_ABORT_SECONDS: Final = 900
"""An abort flag outlives the longest turn."""
_DRAIN_SECONDS: Final = 2.0
_IDLE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Ring:
    """A turn was accepted: open its log and wake a worker.

    Args:
        traceparent: The turn's trace; empty for none.
        events: Its first events with their seqs.
        opened: Set once the log was opened, or could not be, for a reader that starts at its beginning.
    """

    session_id: UUID
    turn_id: UUID
    traceparent: str
    events: Sequence[tuple[int, bytes]]
    opened: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class Nudge:
    """A running turn was asked to stop: nudge its worker."""

    session_id: UUID
    turn_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn ended while it was waiting: publish its end.

    Args:
        attempt: The last attempt; 0 if there was none.
        accepted: The events of its acceptance, in case the log was never opened.
        first_seq: The number of the first of `events`.
        events: Its last events.
        next_turn: The turn of its session that waited behind it, for which a worker is woken.
        turn: Its row, if its span is recorded.
        traceparent: The trace in which it was accepted; empty for none.
    """

    session_id: UUID
    turn_id: UUID
    attempt: int
    accepted: Sequence[tuple[int, bytes]]
    first_seq: int
    events: Sequence[bytes]
    next_turn: UUID | None = None
    turn: RecordedRow | None = None
    traceparent: str = ""


Notice = Ring | Nudge | Ended


@dataclass(frozen=True, slots=True)
class _Written:
    """A notice that was written, and how many replies must be read for it."""

    notice: Notice
    replies: int


class Notices:
    """A bounded queue and the threads that empty it; while the queue is empty, a notice is written at once.

    The threads start with the first notice.

    Args:
        redis: Holds logs and abort flags, and carries nudges.
        log_entries: Most events that a turn's log keeps.
        log_ttl_seconds: How long the log of a turn that has not ended is kept.
        ended_ttl_seconds: How long the log of an ended turn is kept.
        shares: What logs may take of Redis's memory; None to open every log.
        told: Receives every notice that is put, for metrics and traces.
    """

    def __init__(
        self,
        redis: "Redis",
        *,
        log_entries: int,
        log_ttl_seconds: int,
        ended_ttl_seconds: int,
        shares: LogShares | None = None,
        told: Callable[[Notice], None] = lambda _: None,
    ) -> None:
        self._redis = redis
        self._told = told
        self._log_entries = log_entries
        self._log_ttl_seconds = log_ttl_seconds
        self._ended_ttl_seconds = ended_ttl_seconds
        self._shares = shares
        self._look_at = 0.0
        self._is_short_of_memory = False
        self._line = Line(redis)
        self._is_line_in_use = False
        self._written: _Written | None = None
        self._waiting: deque[Notice] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._pid = 0
        self._busy = 0
        self._is_closed = False
        self.dropped = 0
        self.failed = 0

    def put(self, notice: Notice) -> None:
        """Accept a notice; never waits and never fails."""
        self._told(notice)
        with self._changed:
            if self._is_closed:
                return
            self._start()
            if self._waiting or self._is_line_in_use or not self._line.is_open:
                self._let_wait(notice)
                return
            self._is_line_in_use = True
            self._busy += 1
        self._write_at_once(notice)

    def _write_at_once(self, notice: Notice) -> None:
        """Write a notice on the line, which this thread holds; the replies are left for a thread to read."""
        commands: Sequence[Sequence[Any]] = ()
        is_written = False
        try:
            commands = self._commands([notice])
            is_written = self._line.write(commands)
        except Exception:  # noqa: BLE001 -- the request continues; the thread that sends the notice meets it again
            _log.exception("a notice was not written at once")
        with self._changed:
            if is_written:
                # The thread that takes it counts as busy instead of us.
                self._written = _Written(notice, len(commands))
                self._changed.notify()
            else:
                self._is_line_in_use = False
                self._busy -= 1
                self._let_wait(notice)

    def _let_wait(self, notice: Notice) -> None:
        """Leave a notice to a thread; the caller holds the lock."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(notice)
        self._changed.notify()

    def waiting(self) -> int:
        """Return how many notices are waiting."""
        return len(self._waiting)

    def drain(self, seconds: float = _DRAIN_SECONDS) -> bool:
        """Wait until everything was sent; False if that takes longer than `seconds`."""
        give_up_at = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._busy, max(0.0, give_up_at - time.monotonic())
            )

    def close(self, seconds: float = _DRAIN_SECONDS) -> None:
        """Send the waiting notices, for at most `seconds`, and end the threads."""
        if self._pid != os.getpid():
            return
        self.drain(seconds)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)
        self._line.close()
        atexit.unregister(self.close)

    def _start(self) -> None:
        """Start the threads, once in each process: a fork copies the object but not its threads."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._busy = 0
        self._waiting.clear()
        self._written = None
        self._is_line_in_use = False
        self._line.forget()
        self._threads = [lasting_thread(f"notices-{number}", self._run) for number in range(_THREADS)]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        while (work := self._take()) is not None:
            try:
                if isinstance(work, _Written):
                    self._hear(work)
                else:
                    self._send(work)
                    self._open_line()
                self._look()
            except Exception:  # noqa: BLE001 -- see below
                # Whatever it was, the row is committed; without this thread the queue would fill up.
                _log.exception("a thread that sends notices failed")
                self.failed += 1
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _take(self) -> "_Written | list[Notice] | None":
        with self._changed:
            while not self._waiting and self._written is None:
                if self._is_closed:
                    return None
                self._changed.wait(_IDLE_SECONDS)
            if self._written is not None:
                written, self._written = self._written, None
                return written
            self._busy += 1
            return [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]

    def _look(self) -> None:
        """Ask about once a second whether Redis is short of memory; called by the threads."""
        now = time.monotonic()
        if self._shares is None or now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        try:
            memory = memory_from(cast("Mapping[str, Any]", self._redis.info("memory")))
        except (RedisError, OSError):
            return  # what was known stands
        room = self._shares.budget(memory).before_relief
        self._is_short_of_memory = room is not None and room <= 0

    def _hear(self, written: _Written) -> None:
        """Read Redis' replies; a notice whose replies do not arrive is sent again, as Redis clients do."""
        try:
            self._count_refused(self._line.read(written.replies))
        except (RedisError, OSError):
            self._send([written.notice])
        else:
            self._tell([written.notice])
        finally:
            with self._changed:
                self._is_line_in_use = False

    def _open_line(self) -> None:
        """Keep a connection ready for the next notice."""
        with self._changed:
            if self._is_closed or self._is_line_in_use or self._line.is_open:
                return
            self._is_line_in_use = True
        try:
            self._line.open()
        except (RedisError, OSError):
            pass  # threads continue to send, and log it when they cannot
        finally:
            with self._changed:
                self._is_line_in_use = False

    def _send(self, batch: Sequence[Notice]) -> None:
        """Write and ring in one round trip; Redis keeps the order, so a worker that is rung for finds the log."""
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for notice in batch:
                self._write(pipeline, notice)
            self._count_refused(pipeline.execute(raise_on_error=False))
        except (RedisError, OSError) as exc:
            self._fail("a notice could not be written to redis: a sweeper rings", exc)
        self._tell(batch)

    def _tell(self, batch: Sequence[Notice]) -> None:
        """Wake the readers that wait for a log to be opened."""
        for notice in batch:
            if isinstance(notice, Ring) and notice.opened is not None:
                notice.opened.set()

    def _commands(self, batch: Sequence[Notice]) -> Sequence[Sequence[Any]]:
        pipeline = self._redis.pipeline(transaction=False)
        for notice in batch:
            self._write(pipeline, notice)
        return [arguments for arguments, _ in pipeline.command_stack]

    def _count_refused(self, replies: Sequence[object]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                self._fail("redis refused a notice", reply)

    def _fail(self, message: str, error: Exception) -> None:
        self.failed += 1
        _log.warning("%s", message, exc_info=error)

    def _write(self, pipeline: "Pipeline", notice: Notice) -> None:
        names = (log_key(notice.session_id, notice.turn_id), events_channel(notice.session_id))
        match notice:
            case Ring(turn_id=turn_id, traceparent=traceparent, events=events):
                if not self._is_short_of_memory:
                    pipeline.eval(OPEN, 2, *names, *self._opening(events))
                # Else its worker opens it: the logs of turns that wait must not take the doorbells' place.
                pipeline.lpush(QUEUE_KEY, doorbell(turn_id, traceparent))
            case Nudge(session_id, turn_id, reason):
                pipeline.set(abort_key(session_id, turn_id), reason, ex=_ABORT_SECONDS)
                pipeline.publish(ABORT_CHANNEL, str(turn_id))
            case Ended(
                attempt=attempt, accepted=accepted, first_seq=first_seq, events=events, next_turn=next_turn
            ):
                pipeline.eval(OPEN, 2, *names, *self._opening(accepted))
                ending = (attempt, first_seq, self._log_entries, self._ended_ttl_seconds)
                pipeline.eval(APPEND, 2, *names, *ending, *events)
                if next_turn is not None:
                    pipeline.lpush(QUEUE_KEY, doorbell(next_turn, ""))  # its trace is in its row
            case _:
                assert_never(notice)

    def _opening(self, events: Sequence[tuple[int, bytes]]) -> list[Any]:
        entries = [part for seq, event in events for part in (f"0-{seq}", event)]
        return [self._log_entries, self._log_ttl_seconds, *entries]
