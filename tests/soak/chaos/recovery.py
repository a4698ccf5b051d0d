"""Measures how soon the turns of a killed worker run again, by asking PostgreSQL ten times a second.

A turn has recovered once a later attempt runs it or it is over. Turns during whose recovery another fault happened
are counted separately: their time is not the cost of a single death.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from uuid import UUID

import psutil
import psycopg

from tests.soak.chaos.service import Service

EVERY_SECONDS: Final = 0.1
MOST_SLOW: Final = 5
CONNECT_SECONDS: Final = 2
SETTLING_SECONDS: Final = 5.0
"""How long after a fault its effects may last: the restart of a process."""
_RUNNING: Final = (
    "select id, attempt from turnkeeper.turns where worker_id = any(%s) and status in ('running', 'stopping')"
)
_STATE: Final = "select id, attempt, status from turnkeeper.turns where id = any(%s)"
_TERMINATE: Final = """
    select count(pg_terminate_backend(pid)) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


@dataclass(slots=True)
class _Lost:
    attempt: int
    killed_at: float
    is_disturbed: bool


_FIRST_SINCE: Final = """
    select extract(epoch from min(started_at) - to_timestamp(%s))::float8 from turnkeeper.turns
    where queued_at >= to_timestamp(%s)
"""
_READ_ONLY: Final = "alter system set default_transaction_read_only = on"
_WRITABLE: Final = "alter system reset default_transaction_read_only"


@dataclass(slots=True)
class RecoveryWatch:
    """Follows turns in a separate thread, for as long as the context lasts.

    Attributes:
        alone: Seconds, for turns whose recovery nothing else disturbed.
        disturbed: Seconds, for the others.
        slowest: Seconds and turns of the slowest recoveries, to look up in the logs.
        first_turns: Seconds from the end of a refusal that nothing else disturbed to the start of the first turn that
            was asked for after it.
    """

    service: Service
    alone: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    first_turns: list[float] = field(default_factory=list)
    _refused_until: float | None = None
    _lost: dict[UUID, _Lost] = field(default_factory=dict)
    _disturbed_until: float = 0.0
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, name="recovery", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ending.set()
        assert self._thread is not None
        self._thread.join(10)

    @property
    def unrecovered(self) -> int:
        """How many turns are still lost."""
        return len(self._lost)

    def disturb(self, for_seconds: float) -> bool:
        """Note that a fault begins and how long it lasts; return whether no other was in progress."""
        now = time.monotonic()
        with self._guard:
            for lost in self._lost.values():
                lost.is_disturbed = True
            self._refused_until = None
            is_alone = now > self._disturbed_until
            self._disturbed_until = max(self._disturbed_until, now + for_seconds + SETTLING_SECONDS)
        return is_alone

    def turns_of(self, workers: Sequence[psutil.Process]) -> dict[UUID, int]:
        """Return the turns that run in these processes, with their attempts."""
        ids = [found for worker in workers if (found := _worker_id(worker)) is not None]
        with suppress(psycopg.Error), self._connected() as db:
            return dict(db.execute(_RUNNING, [ids]).fetchall())
        return {}

    def follow(self, turns: dict[UUID, int], *, is_alone: bool) -> None:
        """Follow turns whose worker was just killed, with or without another fault in progress."""
        now = time.monotonic()
        with self._guard:
            for turn_id, attempt in turns.items():
                self._lost[turn_id] = _Lost(attempt, now, not is_alone)

    def set_read_only(self, is_read_only: bool) -> bool:
        """Have the server refuse writes, or accept them again; False if it did not answer."""
        with suppress(psycopg.Error), self._connected() as db:
            db.execute(_READ_ONLY if is_read_only else _WRITABLE)
            db.execute("select pg_reload_conf()")
            return True
        return False

    def expect_first_turn(self) -> None:
        """Measure how soon a turn starts that is asked for from now on."""
        with self._guard:
            if time.monotonic() < self._disturbed_until:
                self._refused_until = time.time()

    def terminate_connections(self) -> bool:
        """End all connections to the database except the watch's own."""
        with suppress(psycopg.Error), self._connected() as db:
            db.execute(_TERMINATE)
            return True
        return False

    def _connected(self) -> psycopg.Connection:
        return psycopg.connect(self.service.owner_url, connect_timeout=CONNECT_SECONDS, autocommit=True)

    def _watch(self) -> None:
        while not self._ending.wait(EVERY_SECONDS):
            with suppress(psycopg.Error), self._connected() as db:
                while not self._ending.wait(EVERY_SECONDS):
                    self._look(db)

    def _look_for_first_turn(self, db: psycopg.Connection) -> None:
        since = self._refused_until
        if since is None:
            return
        (took,) = db.execute(_FIRST_SINCE, [since, since]).fetchone() or (None,)
        with self._guard:
            if took is not None and self._refused_until == since:
                self.first_turns.append(took)
                self._refused_until = None

    def _look(self, db: psycopg.Connection) -> None:
        self._look_for_first_turn(db)
        with self._guard:
            lost = dict(self._lost)
        if not lost:
            return
        rows = db.execute(_STATE, [list(lost)]).fetchall()
        now = time.monotonic()
        with self._guard:
            for turn_id, attempt, status in rows:
                one = lost[turn_id]
                is_over = status not in {"queued", "running", "stopping"}
                if self._lost.get(turn_id) is one and (
                    is_over or (attempt > one.attempt and status != "queued")
                ):
                    took = now - one.killed_at
                    (self.disturbed if one.is_disturbed else self.alone).append(took)
                    self.slowest = sorted([*self.slowest, (round(took, 2), str(turn_id))])[-MOST_SLOW:]
                    del self._lost[turn_id]


def _worker_id(process: psutil.Process) -> UUID | None:
    """Return the id with which a worker claims: the last one in its log."""
    with suppress(OSError, ValueError):
        log = Path(f"/proc/{process.pid}/fd/2").readlink()
        with log.open(errors="replace") as lines:
            ready = [line for line in lines if '"the worker is ready"' in line]
        return UUID(ready[-1].partition('"worker_id": "')[2][:36])
    return None
