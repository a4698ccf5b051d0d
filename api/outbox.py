"""What a committed request tells Redis, off the request's thread.

With Redis hanging, a publish in line blocks for seconds. Everything here may be lost: a sweeper rings
again for a turn that nobody heard of, and a worker reads stops from the row.
"""

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never
from uuid import UUID

from redis import Redis, RedisError
from redis.client import Pipeline
from sqlalchemy import Row

from shared.doorbell import QUEUE_KEY, doorbell
from shared.log_scripts import APPEND, OPEN
from shared.redis_names import ABORT_CHANNEL, abort_key, events_channel, log_key

_log = logging.getLogger("turnkeeper.outbox")

MOST_WAITING: Final = 10_000
"""Some 10 MB; the oldest is dropped first, for the sweeper rings for it the soonest."""
_THREADS: Final = 2
"""One may be waiting for Redis to connect while the other rings."""
_BATCH: Final = 64
_ABORT_SECONDS: Final = 900
"""An abort flag outlives the longest turn."""
_DRAIN_SECONDS: Final = 2.0
_IDLE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Ring:
    """A turn was accepted: open its log and wake a worker.

    Args:
        session_id: Its session.
        turn_id: The turn.
        traceparent: The trace that goes with it; empty for none.
        events: Its first events with their seqs.
        opened: Set once the log was opened, or could not be: for who wants to read it from its start.
    """

    session_id: UUID
    turn_id: UUID
    traceparent: str
    events: Sequence[tuple[int, bytes]]
    opened: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class Nudge:
    """A running turn was asked to stop: tell its worker."""

    session_id: UUID
    turn_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn ended while it waited: say so to whoever reads it.

    Args:
        session_id: Its session.
        turn_id: The turn.
        attempt: The last attempt; 0 when there was none.
        accepted: The events of its acceptance, for a log that was never opened.
        first_seq: The number of the first of `events`.
        events: Its last events.
        next_turn: The turn of its session that waited behind it, for which a worker is woken.
        turn: Its row, for who records it.
    """

    session_id: UUID
    turn_id: UUID
    attempt: int
    accepted: Sequence[tuple[int, bytes]]
    first_seq: int
    events: Sequence[bytes]
    next_turn: UUID | None = None
    turn: Row[Any] | None = None


Notice = Ring | Nudge | Ended


class Outbox:
    """A bounded queue and the threads that empty it; they start with the first notice.

    Args:
        redis: For logs, abort flags and nudges.
        log_entries: Most events that a turn's log keeps.
        log_ttl_seconds: How long the log of a turn that has not ended is kept.
        ended_ttl_seconds: How long the log of one that has.
        told: Gets every notice that is put, for metrics and traces.
    """

    def __init__(
        self,
        redis: "Redis",
        *,
        log_entries: int,
        log_ttl_seconds: int,
        ended_ttl_seconds: int,
        told: Callable[[Notice], None] = lambda _: None,
    ) -> None:
        self._redis = redis
        self._told = told
        self._log_entries = log_entries
        self._log_ttl_seconds = log_ttl_seconds
        self._ended_ttl_seconds = ended_ttl_seconds
        self._waiting: deque[Notice] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._pid = 0
        self._busy = 0
        self._is_closed = False
        self.dropped = 0
        self.failed = 0

    def put(self, notice: Notice) -> None:
        """Take a notice; never waits and never fails."""
        self._told(notice)
        with self._changed:
            if self._is_closed:
                return
            self._start()
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(notice)
            self._changed.notify()

    def waiting(self) -> int:
        """Return how many notices wait."""
        return len(self._waiting)

    def drain(self, seconds: float = _DRAIN_SECONDS) -> bool:
        """Wait until everything was sent; False when that takes longer."""
        give_up_at = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._busy, max(0.0, give_up_at - time.monotonic())
            )

    def close(self, seconds: float = _DRAIN_SECONDS) -> None:
        """Send what waits, for at most so long, and end the threads."""
        if self._pid != os.getpid():
            return
        self.drain(seconds)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)
        atexit.unregister(self.close)

    def _start(self) -> None:
        """Start the threads, once for each process: a fork copies the object and not its threads."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._busy = 0
        self._waiting.clear()
        self._threads = [
            threading.Thread(target=self._run, name=f"outbox-{number}", daemon=True)
            for number in range(_THREADS)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            try:
                self._send(batch)
            except Exception:  # noqa: BLE001 -- see below
                # Whatever it was, the row is committed; without its thread the outbox would fill up.
                _log.exception("outbox failed")
                self.failed += 1
            finally:
                with self._changed:
                    self._busy -= 1
                    self._changed.notify_all()

    def _take(self) -> list[Notice] | None:
        with self._changed:
            while not self._waiting:
                if self._is_closed:
                    return None
                self._changed.wait(_IDLE_SECONDS)
            self._busy += 1
            return [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]

    def _send(self, batch: Sequence[Notice]) -> None:
        """Write and ring in one round trip; Redis keeps the order, so who hears a doorbell finds its log."""
        try:
            pipeline = self._redis.pipeline(transaction=False)
            for notice in batch:
                self._write(pipeline, notice)
            self._count_refused(pipeline.execute(raise_on_error=False))
        except (RedisError, OSError) as exc:
            self._fail("the outbox could not write to redis: a sweeper rings", exc)
        for notice in batch:
            if isinstance(notice, Ring) and notice.opened is not None:
                notice.opened.set()

    def _count_refused(self, replies: Sequence[object]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                self._fail("redis refused what the outbox wrote", reply)

    def _fail(self, message: str, error: Exception) -> None:
        self.failed += 1
        _log.warning("%s", message, exc_info=error)

    def _write(self, pipeline: "Pipeline", notice: Notice) -> None:
        names = (log_key(notice.session_id, notice.turn_id), events_channel(notice.session_id))
        match notice:
            case Ring(turn_id=turn_id, traceparent=traceparent, events=events):
                pipeline.eval(OPEN, 2, *names, *self._opening(events))
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
                    pipeline.lpush(QUEUE_KEY, doorbell(next_turn, ""))  # its trace stands in its row
            case _:
                assert_never(notice)

    def _opening(self, events: Sequence[tuple[int, bytes]]) -> list[Any]:
        entries = [part for seq, event in events for part in (f"0-{seq}", event)]
        return [self._log_entries, self._log_ttl_seconds, *entries]
