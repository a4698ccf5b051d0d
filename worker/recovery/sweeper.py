"""Ends or requeues turns of dead workers, rings again for lost doorbells, expires turns that waited too long.

Waiting turns stay in PostgreSQL. Every worker runs the sweeper each second, and at once when a lease runs out; an
advisory lock lets only one of them work, so there is no extra process that could be missing.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Connection, text

from shared.configuration.settings import Settings, log_shares
from shared.errors import ConflictError, Fault, UnavailableError
from shared.lasting import lasting_thread
from shared.metrics import table
from shared.metrics.registry import Registry
from shared.money.prices import is_free
from shared.money.quotes import read_quote
from shared.observing.logs import log_ids
from shared.postgres import rows
from shared.postgres.database import Database
from shared.redis.client import redis_client
from shared.tracing.span import Recorder
from shared.tracing.turns import record_turn
from shared.turn.events import Event, MessageReset, StopRequested, TurnError
from shared.turn.events_of_turn import accept_events, done_event
from shared.turn.turns import Recovery, Signal, StopReason, TurnStatus, in_sql, sources_of
from worker.metrics import WorkerMetrics
from worker.providers.choice import Choice, Choices
from worker.providers.provider import Capabilities
from worker.publishing.publisher import Publisher
from worker.recovery.barred import end_barred_turns, last_events
from worker.recovery.left_behind import Left, left_behind, read_left_behind
from worker.recovery.log_keeper import LogKeeper
from worker.recovery.lost_log import begin_log_again
from worker.recovery.outages import Outages
from worker.recovery.retention import forget_old_sessions
from worker.recovery.ringing import ring_again
from worker.recovery.told_end import LoggedDone, settle_as_told
from worker.turn.continuation import is_continued
from worker.turn.moved import ExpiredTurn, MovedTurn, SettledTurn
from worker.turn.outcome import Requeued, Stopped
from worker.turn.retry import MOST_ATTEMPTS
from worker.turn.settle import Ending, Settlement, UnpayableError, error_of, lost, settle

_log = logging.getLogger("turnkeeper.sweeper")

_LOCK: Final = 0x73776565
"""Advisory lock: one sweeper at a time, whichever worker it is in."""
_EVERY_SECONDS: Final = 1.0
_SOONEST_SECONDS: Final = 0.05
_MOST_AT_ONCE: Final = 200
_RING_ROUNDS: Final = 3
"""How often, in rounds, a process rings that does not sweep: the one that does may be cut off from Redis."""
_HOUSEKEEPING_ROUNDS: Final = 15
_RETENTION_ROUNDS: Final = 20
_TELL_SECONDS: Final = 5.0
_SHOWN_SECONDS: Final = 1.0
_TRY_LOCK: Final = text("select pg_try_advisory_xact_lock(:lock)")
_LOST: Final = text("select organization_id, turn_id from turnkeeper.lost_turns(:most)")
_NEXT_LEASE_END: Final = text("select turnkeeper.seconds_to_next_lease_end()")
_OVERDUE: Final = text("select organization_id, turn_id from turnkeeper.overdue_turns(:queue_seconds, :most)")
_EXPIRE_SESSIONS: Final = text("select turnkeeper.expire_sessions(:idle_seconds, :age_seconds, :most)")
_FORGET_KEYS: Final = text("select turnkeeper.forget_idempotency_keys(:older_than_seconds, :most)")
# A text that was kept to be continued is then void: its reset comes before `done`.
_EXPIRE: Final = text(
    f"""
    with expired as (
        update turnkeeper.turns as t
        set status = '{TurnStatus.EXPIRED.value}', finished_at = clock_timestamp(),
            last_seq = t.last_seq + 1 + (
                select count(*) from turnkeeper.checkpoints as c
                where c.organization_id = t.organization_id and c.turn_id = t.id)
        where t.organization_id = :organization_id and t.id = :turn_id
          and t.status in ({in_sql(sources_of(Signal.EXPIRE))})
          and t.claimable_at < clock_timestamp() - make_interval(secs => :queue_seconds)
        returning t.*
    ), forgotten as (
        delete from turnkeeper.checkpoints as c using expired as t
        where c.organization_id = t.organization_id and c.turn_id = t.id
        returning c.turn_id
    )
    select {rows.columns(ExpiredTurn, "t", without=frozenset({"has_void_text"}))},
           exists (select from forgotten) as has_void_text
    from expired as t
    """  # noqa: S608 -- the columns are ours
)


@dataclass(frozen=True, slots=True)
class _Found:
    """A turn that a sweep is to look at."""

    organization_id: UUID
    turn_id: UUID


class Sweeper:
    """Sweeps each second, and when a lease runs out, until `stop`.

    Args:
        settings: The configuration.
        choices: The providers.
        worker_id: Who sweeps.
        database: A pool that does not compete with running turns.
        publisher: Publishes what was decided.
        loop: Runs the publisher.
        ring: Sends a doorbell for a turn and its trace context; False if Redis took none.
        metrics: Counts the turns that the sweeper ends; None to count none.
        recorder: Receives their spans; None if traces are off.
    """

    def __init__(
        self,
        settings: Settings,
        choices: Choices,
        worker_id: UUID,
        database: Database,
        publisher: Publisher,
        loop: asyncio.AbstractEventLoop,
        ring: Callable[[str, str], bool],
        metrics: WorkerMetrics | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._metrics = metrics or WorkerMetrics(Registry())
        self._recorder = recorder
        self._settings = settings
        self._choices = choices
        self._worker_id = worker_id
        self._database = database
        self._publisher = publisher
        self._loop = loop
        self._ring = ring
        self._redis = redis_client(
            settings.redis_url,
            socket_timeout=2,
            socket_connect_timeout=2,
            # A turn that is to end waits for no Redis that is away.
            retry=Retry(NoBackoff(), 1),
            client_name="turnkeeper-sweeper",
        )
        self._log_keeper = LogKeeper(self._redis, log_shares(settings), settings.log_ttl_seconds)
        failed = self._metrics.registry.counter(table.ROUNDS_FAILED, "sweeper")
        self._outages = Outages(_log, "turns were not swept", failed)
        self._round = 0
        self._told: list[Future[None]] = []
        self._stopping = threading.Event()
        self._thread = lasting_thread("sweeper", self._sweep_until_stopped)

    def start(self) -> None:
        """Start to sweep, in a separate thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the round and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_TELL_SECONDS)
        self._redis.close()

    def _sweep_until_stopped(self) -> None:
        pause = _EVERY_SECONDS
        while not self._stopping.wait(pause):
            pause = _EVERY_SECONDS
            try:
                pause = self.sweep()
                self._outages.passed()
            except Exception as error:  # noqa: BLE001
                # The sweeper is what ends turns when all else fails: one bad row must not end it.
                self._outages.failed(error)

    def sweep(self) -> float:
        """Do one round, if no other worker is doing it.

        Returns:
            The seconds until the next.
        """
        self._round += 1
        if not self._sweep():
            if self._round % _RING_ROUNDS == 0:
                ring_again(self._database, self._redis, self._ring)
            return _EVERY_SECONDS
        return self._pause()

    def _sweep(self) -> bool:
        with self._database.across() as db:
            if not db.execute(_TRY_LOCK, {"lock": _LOCK}).scalar_one():
                return False
            lost_turns = rows.every(_Found, db.execute(_LOST, {"most": _MOST_AT_ONCE}))
            overdue = rows.every(
                _Found,
                db.execute(
                    _OVERDUE, {"queue_seconds": self._settings.queue_timeout_seconds, "most": _MOST_AT_ONCE}
                ),
            )
            if self._round % _HOUSEKEEPING_ROUNDS == 0:
                self._keep_house(db)
        self._end_barred()
        for found in lost_turns:
            self._each(self._recover, found)
        for found in overdue:
            self._each(self._expire, found)
        self._await_told()
        # Last, so that turns that this round requeued or made their session's next are rung in this round.
        ring_again(self._database, self._redis, self._ring)
        self._log_keeper.keep()
        self._metrics.logs_dropped.set(self._log_keeper.dropped)
        if self._round % _RETENTION_ROUNDS == 0:
            self._forget_old_sessions()
        return True

    def _pause(self) -> float:
        """Return the seconds until the next round: a dead worker's turn is recovered as soon as its lease is over."""
        with self._database.across() as db:
            lease_end = db.execute(_NEXT_LEASE_END).scalar_one()
        return _EVERY_SECONDS if lease_end is None else max(_SOONEST_SECONDS, min(_EVERY_SECONDS, lease_end))

    def _each(self, step: Callable[[UUID, UUID], None], found: _Found) -> None:
        """Take a step for each turn found; a step that fails must not delay the turns behind it (I1)."""
        with log_ids(turn_id=found.turn_id):
            try:
                step(found.organization_id, found.turn_id)
            except ConflictError as error:
                _log.warning("a turn is taken up in the next round: %s", error)
            except UnavailableError:
                raise  # all others would fail the same way
            except Exception:  # noqa: BLE001 -- logged, and tried again in the next round
                _log.exception("a turn could not be taken up")

    def _await_told(self) -> None:
        """Wait until what was decided is published, before a doorbell starts the next attempts."""
        told, self._told = self._told, []
        done, late = wait(told, timeout=_TELL_SECONDS)
        if late:
            _log.warning("readers are told late", extra={"turns": len(late)})
        for each in done:
            if (error := each.exception()) is not None:
                _log.error("readers could not be told", exc_info=error)

    def _forget_old_sessions(self) -> None:
        """Runs last and in its own transaction: turns never wait for it or fail with it."""
        if self._settings.retention_days is None:
            return
        with self._database.across() as db:
            if db.execute(_TRY_LOCK, {"lock": _LOCK}).scalar_one():
                forget_old_sessions(db, self._settings.retention_days)

    def _keep_house(self, db: Connection) -> None:
        db.execute(
            _EXPIRE_SESSIONS,
            {
                "idle_seconds": self._settings.session_idle_seconds,
                "age_seconds": self._settings.session_age_seconds,
                "most": _MOST_AT_ONCE,
            },
        )
        db.execute(
            _FORGET_KEYS,
            {"older_than_seconds": self._settings.idempotency_seconds, "most": _MOST_AT_ONCE},
        )

    def _recover(self, organization_id: UUID, turn_id: UUID) -> None:
        """Settle or requeue a turn whose lease ran out; the first to do so wins (I2)."""
        with self._database.of(organization_id) as db:
            turn = read_left_behind(db, organization_id, turn_id)
        left = left_behind(turn, self._redis, self._settings.context_tokens)
        choice = self._choices.choose(turn)
        if left.done is not None:
            self._settle_as_told(organization_id, left, left.done, choice)
            return
        ending = _ending(left, Capabilities(continuation=choice.settings.continuation))
        try:
            settled = self._settle(organization_id, left, choice, ending)
        except UnpayableError:
            ending = Stopped(left.answer, StopReason.BUDGET)
            settled = self._settle(organization_id, left, choice, ending)
        events = _events(ending)
        if settled is None:
            return  # its worker came back, or another process settled it
        self._metrics.taken_up.add()
        self._metrics.settled(settled, ending)
        _log.warning("a lost turn was taken up", extra={"status": settled.status})
        done = None
        if not isinstance(ending, Requeued):
            self._record(settled, turn.traceparent)
            content = "" if settled.dropped else ending.answer.content
            done = done_event(settled, content)
        if left.is_log_lost:
            begin_log_again(self._redis, left, settled.attempt, self._settings.log_ttl_seconds)
        self._tell(organization_id, settled, left.last_seq, events, done)

    def _settle(
        self, organization_id: UUID, left: Left, choice: Choice, ending: Ending
    ) -> SettledTurn | None:
        last_seq = left.last_seq + len(_events(ending)) + (0 if isinstance(ending, Requeued) else 1)
        settlement = self._settlement(organization_id, left, last_seq)
        return settle(self._database, choice.settings, settlement, ending)

    def _settlement(self, organization_id: UUID, left: Left, last_seq: int) -> Settlement:
        turn, log_attempt = left.turn, left.log_attempt
        return Settlement(
            organization_id,
            turn.id,
            turn.attempt,
            last_seq,
            lost_to=self._worker_id,
            quote=read_quote(turn.hold_price),
            log_attempt=log_attempt,
        )

    def _settle_as_told(self, organization_id: UUID, left: Left, done: LoggedDone, choice: Choice) -> None:
        """Write the end that readers have; nothing is published, for it is in the log."""
        settlement = self._settlement(organization_id, left, left.turn.last_seq)
        settled, ending = settle_as_told(self._database, choice.settings, settlement, done, left.answer)
        if settled is None:
            return
        self._metrics.taken_up.add()
        self._metrics.settled(settled, ending)
        self._record(settled, left.turn.traceparent)
        _log.warning("a turn is settled as its readers were told", extra={"status": settled.status})

    def _tell(
        self,
        organization_id: UUID,
        turn: MovedTurn,
        last_seq: int,
        events: Sequence[Event],
        done: bytes | None,
    ) -> None:
        """Publish what was decided; all turns of a round at the same time."""

        async def tell() -> None:
            await self._publisher.open(turn.session_id, turn.id, accept_events(turn))
            channel = self._publisher.channel(
                turn.session_id, turn.id, turn.attempt, last_seq, turn.id, lambda: None, organization_id
            )
            for event in events:
                channel.event(event)
            if done is not None:
                channel.encoded(turn.last_seq, done)
                channel.close()
            else:
                await channel.drained(_SHOWN_SECONDS)
                channel.discard()

        self._told.append(asyncio.run_coroutine_threadsafe(tell(), self._loop))

    def _end_barred(self) -> None:
        """End waiting turns of organizations that are switched off or have nothing left to spend."""
        free = all(is_free(choice.settings) for choice in self._choices)
        try:
            for organization_id, ended in end_barred_turns(self._database, is_free=free):
                _log.warning("turns ended that may not start any more", extra={"turns": len(ended)})
                for turn in ended:
                    self._metrics.barred(TurnStatus(turn.status))
                    self._record(turn, turn.traceparent)
                    done = done_event(turn, turn.content)
                    self._tell(organization_id, turn, turn.last_seq - 2, last_events(turn), done)
                self._await_told()
        except UnavailableError:
            raise
        except Exception:  # noqa: BLE001 -- logged, and tried again in the next round: the others must not wait for it
            _log.exception("turns that may not start could not be ended")

    def _expire(self, organization_id: UUID, turn_id: UUID) -> None:
        with self._database.of(organization_id) as db:
            found = db.execute(
                _EXPIRE,
                {
                    "organization_id": organization_id,
                    "turn_id": turn_id,
                    "queue_seconds": self._settings.queue_timeout_seconds,
                },
            )
            expired = rows.one_or_none(ExpiredTurn, found)
        if expired is None:
            return
        self._metrics.expired()
        self._record(expired, expired.traceparent)
        events = (MessageReset(Fault.WORKER_LOST),) if expired.has_void_text else ()
        self._tell(
            organization_id, expired, expired.last_seq - 1 - len(events), events, done_event(expired, None)
        )

    def _record(self, turn: MovedTurn, traceparent: str) -> None:
        if self._recorder is not None:
            record_turn(self._recorder, turn, traceparent)


def _events(ending: Ending) -> Sequence[Event]:
    """Return the events that readers receive of a dead attempt, before `done` if that follows."""
    match ending:
        case Requeued(answer, keeps_text=False) if answer.content or answer.reasoning:
            return (MessageReset(Fault.WORKER_LOST),)
        case Stopped(_, reason):
            return (StopRequested(reason),)
        case _:
            error = error_of(ending)
            return () if error is None else (TurnError(error),)


def _ending(left: Left, capabilities: Capabilities) -> Ending:
    turn, answer = left.turn, left.answer
    if turn.status == TurnStatus.STOPPING:
        assert turn.stop_reason is not None, "a turn that is to stop says why"
        return Stopped(answer, StopReason(turn.stop_reason))
    has_text = bool(answer.content or answer.reasoning)
    if turn.attempt - turn.handed_back >= MOST_ATTEMPTS or (turn.recovery == Recovery.FAIL and has_text):
        return lost(answer)
    return Requeued(answer, keeps_text=left.is_open and is_continued(answer, capabilities))
