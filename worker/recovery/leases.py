"""Renews the leases of all turns of a process, in one statement every few seconds.

The same round saves the texts that changed and learns of stops and lost leases, so that Stop works
without Redis. It runs in its own thread and on its own connection: a busy pool must not cost a lease.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.errors import UnavailableError
from shared.lasting import lasting_thread
from shared.metrics import table
from shared.metrics.registry import Registry
from shared.postgres import rows
from shared.postgres.database import Database
from shared.postgres.refusals import STATEMENT_ERRORS
from shared.turn.turns import StopReason
from worker.recovery.outages import Outages
from worker.turn.attempt import Attempt
from worker.turn.outcome import Answer

_log = logging.getLogger("turnkeeper.leases")

_RENEW: Final = text(
    "select turn_id, stop_reason from turnkeeper.renew_leases(:worker_id, :lease_seconds, :turns, :attempts)"
)
_COUNTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "input_tokens": "inputs",
        "cache_read_tokens": "cache_reads",
        "cache_write_tokens": "cache_writes",
        "output_tokens": "outputs",
        "reasoning_tokens": "reasoning_counts",
        "cache_write_1h_tokens": "cache_writes_1h",
    }
)
"""The names of `save_checkpoints`' parameters, by column."""
_SAVED: Final = f"""
    :worker_id, :turns, :attempts, :seqs, :calls, :contents, :reasonings,
    {", ".join(f"{name} => :{name}" for name in _COUNTS.values())}, sources => :sources
"""
_SAVE: Final = text(f"select turnkeeper.save_checkpoints({_SAVED})")
_SAVE_REPORTED: Final = text(f"select turnkeeper.save_checkpoints({_SAVED}, reports => :reports)")
"""For a round in which a provider's figures are disputed, or contradict each other."""
_HEARTBEAT: Final = text(
    """
    insert into turnkeeper.workers as w (id, running, claimed_at, heard_at)
    values (:worker_id, :running, case when :claimed then now() end,
            now() - make_interval(secs => cast(:silent_seconds as float8)))
    on conflict (id) do update set renewed_at = now(), running = excluded.running, heard_at = excluded.heard_at,
        -- Three canaries: a silence that long is no idleness.
        hearing_since = case when excluded.heard_at - w.heard_at > interval '45 seconds' then excluded.heard_at
                             else w.hearing_since end,
        claimed_at = coalesce(excluded.claimed_at, w.claimed_at)
    """
)
_TELL: Final = text(
    """
    update turnkeeper.workers set
        deaf_since = case when :is_deaf then coalesce(deaf_since, clock_timestamp()) end,
        mute_since = case when :is_mute then coalesce(mute_since, clock_timestamp()) end,
        asked_at = case when :has_asked then clock_timestamp() else asked_at end
    where id = :worker_id
    """
)
_FORGET_DEAD_WORKERS: Final = text(
    "delete from turnkeeper.workers where renewed_at < now() - interval '1 hour'"
)
_GOODBYE: Final = text("delete from turnkeeper.workers where id = :worker_id")


@dataclass(frozen=True, slots=True)
class _Renewed:
    """A turn that is still owned; why it is to stop, if it is."""

    turn_id: UUID
    stop_reason: str | None


@dataclass(slots=True)
class _Held:
    session_id: UUID
    attempt_number: int
    attempt: Attempt
    saved_seq: int = 0


class LeaseKeeper:
    """Renews the lease of each turn from `hold` to `release`.

    Args:
        database: A separate pool, so that a busy one costs no lease.
        worker_id: The worker that holds the leases.
        loop: Runs the attempts; stops and fences are handed to it.
        lease_seconds: How long a lease lasts.
        renew_seconds: How often it is renewed.
        trust_seconds: Age of the last renewal at which `is_trusted` turns false.
        silent_seconds: Returns for how long this process has neither received a doorbell nor asked for turns; the
            readiness check shows it, and the time does not count against a queue.
        registry: Receives the count of rounds that failed.
    """

    def __init__(
        self,
        database: Database,
        worker_id: UUID,
        loop: asyncio.AbstractEventLoop,
        *,
        lease_seconds: float,
        renew_seconds: float,
        trust_seconds: float,
        silent_seconds: Callable[[], float],
        registry: Registry | None = None,
    ) -> None:
        self._database = database
        self._worker_id = worker_id
        self._loop = loop
        self._lease_seconds = lease_seconds
        self._renew_seconds = renew_seconds
        self._trust_seconds = trust_seconds
        self._silent_seconds = silent_seconds
        self._held: dict[UUID, _Held] = {}
        self._guard = threading.Lock()
        self._renewed_at = monotonic()
        self._claimed = False
        self._has_handed_back = False
        failed = (registry or Registry()).counter(table.ROUNDS_FAILED, "leases")
        self._outages = Outages(_log, "leases were not renewed", failed)
        self._stopping = threading.Event()
        self._thread = lasting_thread("leases", self._keep)

    def start(self) -> None:
        """Register the worker and start to renew.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        self._renew()
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing and remove the worker's row, if PostgreSQL answers."""
        self._stopping.set()
        self._thread.join(timeout=self._lease_seconds)
        try:
            with self._database.across() as db:
                db.execute(_GOODBYE, {"worker_id": self._worker_id})
        except (UnavailableError, *STATEMENT_ERRORS):
            _log.warning("the worker's row stays until it is an hour old: the database cannot be reached")

    def hold(self, session_id: UUID, turn_id: UUID, attempt_number: int, attempt: Attempt) -> None:
        """Renew the lease of a turn that was just claimed."""
        with self._guard:
            self._held[turn_id] = _Held(session_id, attempt_number, attempt)
            self._claimed = True

    def release(self, turn_id: UUID, attempt_number: int) -> None:
        """Stop renewing the lease of a turn."""
        with self._guard:
            held = self._held.get(turn_id)
            if held is not None and held.attempt_number == attempt_number:
                del self._held[turn_id]

    def is_trusted(self) -> bool:
        """Return whether this process may still publish and settle, by its own monotonic clock (I3)."""
        return monotonic() - self._renewed_at < self._trust_seconds

    def attempt_of(self, turn_id: UUID) -> Attempt | None:
        """Return the attempt that runs a turn here, if one does."""
        held = self._held.get(turn_id)
        return None if held is None else held.attempt

    def held_turns(self) -> Sequence[tuple[UUID, UUID]]:
        """Return the turns that run here, each as session and turn."""
        with self._guard:
            return [(held.session_id, turn_id) for turn_id, held in self._held.items()]

    def hand_back_all(self) -> None:
        """Hand back every turn that runs here, for another worker to continue: this one is ending."""
        self._has_handed_back = True
        with self._guard:
            held = list(self._held.values())
        for entry in held:
            self._loop.call_soon_threadsafe(entry.attempt.hand_back)

    def has_handed_back(self) -> bool:
        """Return whether the time to drain is over: nothing is waited for any longer than it must."""
        return self._has_handed_back

    def running(self) -> int:
        """Return how many turns run here."""
        return len(self._held)

    def holds_lease(self, turn_id: UUID, attempt_number: int) -> bool:
        """Ask PostgreSQL whether an attempt still owns its turn, and renew it if so.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        with self._database.across() as db:
            return bool(self._renew_all(db, {turn_id: attempt_number}))

    def tell(self, *, is_deaf: bool, is_mute: bool, has_asked: bool) -> None:
        """Write down how this process learns of turns, for readiness checks.

        Args:
            is_deaf: Nothing proves that it would hear a doorbell.
            is_mute: Its Redis takes no doorbells.
            has_asked: It asked for turns itself just now, or had no room for one.

        Raises:
            UnavailableError: PostgreSQL cannot be reached.
        """
        with self._database.across() as db:
            db.execute(
                _TELL,
                {
                    "worker_id": self._worker_id,
                    "is_deaf": is_deaf,
                    "is_mute": is_mute,
                    "has_asked": has_asked,
                },
            )

    def _keep(self) -> None:
        while not self._stopping.wait(self._renew_seconds):
            try:
                self._renew()
            except (UnavailableError, *STATEMENT_ERRORS) as error:
                # Whatever a statement answers is an outage here: without this thread every turn is taken for dead.
                self._outages.failed(error)
            else:
                self._outages.passed()

    def _renew(self) -> None:
        with self._guard:
            held = dict(self._held)
            claimed, self._claimed = self._claimed, False
        asked_at = monotonic()
        with self._database.across() as db:
            db.execute(
                _HEARTBEAT,
                {
                    "worker_id": self._worker_id,
                    "running": len(held),
                    "claimed": claimed,
                    "silent_seconds": self._silent_seconds(),
                },
            )
            db.execute(_FORGET_DEAD_WORKERS)
            numbers = {turn_id: entry.attempt_number for turn_id, entry in held.items()}
            owned = self._renew_all(db, numbers) if held else {}
            self._save(db, {turn_id: held[turn_id] for turn_id in owned})
        for turn_id, entry in held.items():
            if turn_id not in owned:
                self._tell(turn_id, entry, entry.attempt.fence)
            elif (reason := owned[turn_id]) is not None:
                self._tell(turn_id, entry, partial(entry.attempt.stop, StopReason(reason)))
        # Not earlier: the publisher would trust attempts that are about to be fenced.
        self._renewed_at = asked_at

    def _tell(self, turn_id: UUID, entry: _Held, what: Callable[[], None]) -> None:
        """Hand a stop or a fence to the loop, unless the turn was settled while the statement ran."""
        if self._held.get(turn_id) is entry:
            self._loop.call_soon_threadsafe(what)

    def _renew_all(self, db: Connection, attempts: Mapping[UUID, int]) -> dict[UUID, str | None]:
        """Renew the leases of turns by their attempts; return those still owned, with why they are to stop."""
        found = db.execute(
            _RENEW,
            {
                "worker_id": self._worker_id,
                "lease_seconds": self._lease_seconds,
                "turns": list(attempts),
                "attempts": list(attempts.values()),
            },
        )
        return {turn.turn_id: turn.stop_reason for turn in rows.every(_Renewed, found)}

    def _save(self, db: Connection, owned: Mapping[UUID, _Held]) -> None:
        """Checkpoint the texts that grew since they were last saved."""
        changed: dict[UUID, tuple[int, Answer]] = {}
        for turn_id, entry in owned.items():
            if entry.attempt.has_called() and entry.attempt.channel.seq != entry.saved_seq:
                checkpoint = entry.attempt.checkpoint()
                if checkpoint is not None:
                    changed[turn_id] = checkpoint
        if not changed:
            return
        seqs = [seq for seq, _ in changed.values()]
        answers = [answer for _, answer in changed.values()]
        used = [asdict(answer.usage) for answer in answers]
        parameters = {
            "worker_id": self._worker_id,
            "turns": list(changed),
            "attempts": [owned[turn_id].attempt_number for turn_id in changed],
            "seqs": seqs,
            "calls": [answer.called for answer in answers],
            "contents": [answer.content for answer in answers],
            "reasonings": [answer.reasoning for answer in answers],
            **{name: [usage[column] for usage in used] for column, name in _COUNTS.items()},
            "sources": [answer.usage_source.value for answer in answers],
        }
        reports = [_encoded(answer) for answer in answers]
        if any(reports):
            db.execute(_SAVE_REPORTED, {**parameters, "reports": reports})
        else:
            db.execute(_SAVE, parameters)
        for turn_id, (seq, _) in changed.items():
            owned[turn_id].saved_seq = seq


def _encoded(answer: Answer) -> str | None:
    return None if answer.reported is None else json.dumps(answer.reported.as_dict())
