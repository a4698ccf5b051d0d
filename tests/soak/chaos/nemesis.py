"""Faults and when they happen: a schedule that a seed fixes, and the code that carries it out.

The schedule names a fault, the process of its kind and a duration, never a pid or a moment that the run
decides. So the same seed gives the same faults at the same intervals.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final

import psutil
import redis

from tests.soak.chaos.recovery import RecoveryWatch
from tests.soak.chaos.refusals import Refusals
from tests.soak.chaos.service import Service

READ_ONLY_SECONDS: Final = 6.0
"""Longer than two renewals of a lease are apart, shorter than a lease."""
REDIS_SECONDS: Final = 2.0
"""Bounds the wait for a Redis that the nemesis has hurt: it does nothing else meanwhile."""


class Fault(StrEnum):
    """Everything that the nemesis can do."""

    WORKER_KILL = "worker SIGKILL"
    WORKER_PAUSE = "worker SIGSTOP, SIGCONT"
    WORKER_DRAIN = "worker SIGTERM"
    WORKERS_ALL_KILL = "all workers SIGKILL"
    RELAY_KILL = "relay SIGKILL"
    RELAY_PAUSE = "relay SIGSTOP, SIGCONT"
    WEB_KILL = "web SIGKILL"
    REDIS_CONNECTIONS = "redis CLIENT KILL"
    REDIS_SUBSCRIPTIONS = "redis CLIENT KILL TYPE pubsub"
    REDIS_FLUSH = "redis FLUSHALL"
    REDIS_KILL = "redis SIGKILL"
    REDIS_PAUSE = "redis SIGSTOP, SIGCONT"
    POSTGRES_KILL = "postgres SIGKILL"
    POSTGRES_RESTART = "postgres SIGINT"
    POSTGRES_CONNECTIONS = "postgres pg_terminate_backend"
    POSTGRES_READ_ONLY = "postgres read-only"
    REDIS_READONLY = "redis refuses READONLY"
    REDIS_NOREPLICAS = "redis refuses NOREPLICAS"
    REDIS_MISCONF = "redis refuses MISCONF"
    REDIS_MASTERDOWN = "redis refuses MASTERDOWN"
    REDIS_NOPERM = "redis refuses NOPERM"
    REDIS_WRONGPASS = "redis refuses WRONGPASS"
    REDIS_OOM = "redis refuses OOM"
    REDIS_BUSY = "redis refuses BUSY"


WEIGHTS: Final = {
    Fault.WORKER_KILL: 8,
    Fault.WORKER_PAUSE: 5,
    Fault.WORKER_DRAIN: 4,
    Fault.WORKERS_ALL_KILL: 1,
    Fault.RELAY_KILL: 5,
    Fault.RELAY_PAUSE: 2,
    Fault.WEB_KILL: 4,
    Fault.REDIS_CONNECTIONS: 4,
    Fault.REDIS_SUBSCRIPTIONS: 4,
    Fault.REDIS_FLUSH: 4,
    Fault.REDIS_KILL: 3,
    Fault.REDIS_PAUSE: 2,
    Fault.POSTGRES_KILL: 1,
    Fault.POSTGRES_RESTART: 1,
    Fault.POSTGRES_CONNECTIONS: 2,
    Fault.POSTGRES_READ_ONLY: 1,
    Fault.REDIS_READONLY: 1,
    Fault.REDIS_NOREPLICAS: 1,
    Fault.REDIS_MISCONF: 1,
    Fault.REDIS_MASTERDOWN: 1,
    Fault.REDIS_NOPERM: 1,
    Fault.REDIS_WRONGPASS: 1,
    Fault.REDIS_OOM: 1,
    Fault.REDIS_BUSY: 1,
}
REFUSALS: Final = {fault: fault.value.split()[-1] for fault in Fault if " refuses " in fault.value}
"""The reply of each fault that is a refusal."""
DISTURBING: Final = frozenset(Fault) - {Fault.RELAY_KILL, Fault.RELAY_PAUSE, Fault.WEB_KILL}
"""The faults that may delay the recovery of a killed worker's turns."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault of the schedule.

    Attributes:
        after_seconds: Since the previous fault.
        fault: The fault.
        which: The process of its kind, modulo how many there are.
        for_seconds: How long a process is paused.
    """

    after_seconds: float
    fault: Fault
    which: int
    for_seconds: float


def schedule(
    seed: int, every_seconds: float, longest_pause_seconds: float, kinds: frozenset[Fault] = frozenset(Fault)
) -> Iterator[Blow]:
    """Yield the faults of a seed, endlessly.

    Args:
        seed: Fixes the whole schedule.
        every_seconds: Mean interval; the shortest is a tenth of it.
        longest_pause_seconds: Of a worker, past its lease; other processes are paused for at most a third of it.
        kinds: The faults that may happen.
    """
    random = Random(f"nemesis {seed}")
    weights = {fault: weight for fault, weight in WEIGHTS.items() if fault in kinds}
    while weights:
        after = every_seconds * (0.1 + 1.8 * random.random())
        (fault,) = random.choices(list(weights), list(weights.values()))
        which, share = random.randrange(1 << 16), random.random()
        longest = longest_pause_seconds if fault is Fault.WORKER_PAUSE else longest_pause_seconds / 3
        yield Blow(after, fault, which, 0.2 + share * longest)


@dataclass(slots=True)
class Nemesis:
    """Carries out a schedule until it is cancelled; then it leaves nothing stopped.

    Args:
        service: The service that it hurts.
        watch: Learns of killed workers, to measure how soon their turns resume.
        refusals: Has Redis refuse, and measures how soon a turn starts after that.
    """

    service: Service
    watch: RecoveryWatch
    refusals: Refusals
    done: Counter[Fault] = field(default_factory=Counter)
    history: list[tuple[float, Blow]] = field(default_factory=list)
    _paused: set[psutil.Process] = field(default_factory=set)
    _resuming: set[asyncio.Task[None]] = field(default_factory=set)
    _is_read_only: bool = False
    _refusing: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, blows: Iterator[Blow]) -> None:
        """Carry out one fault after another until cancelled."""
        try:
            for blow in blows:
                await asyncio.sleep(blow.after_seconds)
                if await self._deal(blow):
                    self.done[blow.fault] += 1
                    self.history.append((time.time(), blow))
        finally:
            self.refusals.end()
            for task in self._resuming:
                task.cancel()
            await asyncio.gather(*self._refusing, return_exceptions=True)
            for process in self._paused:
                _signal(process, signal.SIGCONT)
            if self._is_read_only:
                # Shielded: the run is being cancelled.
                await asyncio.shield(asyncio.create_task(self._accept_writes()))

    async def _deal(self, blow: Blow) -> bool:
        lasts = READ_ONLY_SECONDS if blow.fault is Fault.POSTGRES_READ_ONLY else blow.for_seconds
        is_alone = self.watch.disturb(lasts) if blow.fault in DISTURBING else True
        match blow.fault:
            case Fault.WORKER_KILL:
                return await self._kill_workers([self.service.process("worker", blow.which)], is_alone)
            case Fault.WORKERS_ALL_KILL:
                count = len(self.service.pids("worker"))
                victims = [self.service.process("worker", number) for number in range(count)]
                return await self._kill_workers(victims, is_alone)
            case Fault.WORKER_DRAIN:
                return _signal(self.service.process("worker", blow.which), signal.SIGTERM)
            case Fault.RELAY_KILL:
                return _signal(self.service.process("relay", blow.which), signal.SIGKILL)
            case Fault.WEB_KILL:
                return _signal(self.service.process("web", blow.which), signal.SIGKILL)
            case Fault.REDIS_KILL | Fault.POSTGRES_KILL:
                return _signal(self.service.process(blow.fault.value.split()[0], 0), signal.SIGKILL)
            case Fault.POSTGRES_RESTART:
                return _signal(self.service.process("postgres", 0), signal.SIGINT)
            case Fault.WORKER_PAUSE | Fault.RELAY_PAUSE | Fault.REDIS_PAUSE:
                kind = blow.fault.value.split()[0]
                return self._pause(self.service.process(kind, blow.which), blow.for_seconds)
            case Fault.POSTGRES_READ_ONLY:
                return await self._refuse_writes(is_alone)
            case Fault.POSTGRES_CONNECTIONS:
                return await asyncio.to_thread(self.watch.terminate_connections)
            case fault if fault in REFUSALS:
                return self._refuse(REFUSALS[fault], blow.for_seconds, is_alone=is_alone)
            case _:
                return await asyncio.to_thread(self._hurt_redis, blow)

    def _refuse(self, reply: str, for_seconds: float, *, is_alone: bool) -> bool:
        """Have Redis refuse, in a thread; one refusal at a time."""
        if self._refusing:
            return False
        work = asyncio.to_thread(self.refusals.refuse, reply, for_seconds, is_alone=is_alone)
        task = asyncio.create_task(work)
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)
        return True

    async def _kill_workers(self, victims: list[psutil.Process | None], is_alone: bool) -> bool:
        """Kill workers that are running turns, and have the watch follow those turns."""
        alive = [victim for victim in victims if victim is not None]
        running = await asyncio.to_thread(self.watch.turns_of, alive)
        killed = [_signal(victim, signal.SIGKILL) for victim in alive]
        if any(killed):
            self.watch.follow(running, is_alone=is_alone)
        return any(killed)

    async def _refuse_writes(self, is_alone: bool) -> bool:
        if self._is_read_only or not await asyncio.to_thread(self.watch.set_read_only, True):
            return False
        self._is_read_only = True

        async def resume() -> None:
            await asyncio.sleep(READ_ONLY_SECONDS)
            await self._accept_writes()
            if is_alone:
                self.watch.expect_first_turn()

        task = asyncio.create_task(resume())
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)
        return True

    async def _accept_writes(self) -> None:
        """Try until it answers: another fault may have ended it meanwhile."""
        while not await asyncio.to_thread(self.watch.set_read_only, False):  # noqa: ASYNC110 -- the server tells nobody
            await asyncio.sleep(0.2)
        self._is_read_only = False

    def _pause(self, process: psutil.Process | None, for_seconds: float) -> bool:
        if process is None or process in self._paused or not _signal(process, signal.SIGSTOP):
            return False
        self._paused.add(process)

        async def resume() -> None:
            await asyncio.sleep(for_seconds)
            self._paused.discard(process)
            _signal(process, signal.SIGCONT)

        task = asyncio.create_task(resume())
        self._resuming.add(task)
        task.add_done_callback(self._resuming.discard)
        return True

    def _hurt_redis(self, blow: Blow) -> bool:
        try:
            with redis.Redis.from_url(
                self.service.redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
            ) as client:
                match blow.fault:
                    case Fault.REDIS_FLUSH:
                        client.flushall()
                    case Fault.REDIS_SUBSCRIPTIONS:
                        client.client_kill_filter(_type="pubsub")
                    case Fault.REDIS_CONNECTIONS:
                        for kind in ("pubsub", "normal"):
                            client.client_kill_filter(_type=kind, skipme=True)
        except redis.RedisError:
            return False
        return True


def _signal(process: psutil.Process | None, number: signal.Signals) -> bool:
    if process is None:
        return False
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
        return True
    return False
