"""The worker process: builds every part once and lets Celery ring it.

SIGTERM ends the claiming; what runs may finish for the drain's length, then it is handed back and rung
for, without waiting for a lease to run out.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from time import monotonic
from typing import Any, Final
from uuid import UUID

from celery import Celery, signals
from celery.exceptions import SecurityWarning

from shared import failpoints, open_files
from shared.collector import calm_collector
from shared.configuration.provider_settings import ProviderSettings
from shared.configuration.settings import Settings, load_settings, log_shares
from shared.errors import SettingsError, UnavailableError
from shared.ids import new_id, parse_id
from shared.lasting import lasting_task
from shared.metrics import listener
from shared.metrics.looking import looking_at_loop, looking_at_pool
from shared.metrics.registry import Registry
from shared.metrics.table import Service
from shared.observing.begin import begin_observing
from shared.postgres.database import Database
from shared.redis.cluster import refuse_cluster_at_boot
from shared.redis.doorbell import CANARY_NAME, QUEUE_NAME, TASK_NAME
from shared.tracing.begin import begin_tracing
from shared.tracing.span import Recorder
from worker.metrics import WorkerMetrics
from worker.process.asking import Asking
from worker.process.celery_settings import celery_settings
from worker.process.celery_strategy import begin, taken_places
from worker.process.hearing import Hearing
from worker.process.liveness import Liveness
from worker.process.loop import LoopThread
from worker.process.ringer import Ringer
from worker.providers import build_provider, build_transport
from worker.providers.breaker import Breaker
from worker.providers.choice import Choice, Choices
from worker.providers.context_page import learn_contexts
from worker.providers.oddities import Oddities
from worker.providers.traced import TracedProvider
from worker.publishing.publisher import Publisher
from worker.recovery.aborts import AbortWatcher
from worker.recovery.leases import LeaseKeeper
from worker.recovery.sweeper import Sweeper
from worker.runner import Runner
from worker.services import Services

_log = logging.getLogger("turnkeeper.worker")

_LAST_EVENTS_SECONDS: Final = 2.0
"""How long an ending process waits for the last `done` to reach Redis."""


_STRATEGY: Final = "worker.process.celery_strategy:doorbell_strategy"
_TRANSACTIONS_AT_ONCE: Final = 2
_SWITCH_SECONDS: Final = 0.0005
"""How long a thread may keep the interpreter while others want it. At Python's 5 ms a burst of claims
holds up every delta for tens of milliseconds."""
_LAST_SECONDS: Final = 15.0
"""A deaf process that has not ended by itself this long after its drain is killed."""


class Worker:
    """All parts of a worker process.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._id = new_id()
        self._loop_thread = LoopThread()
        self._registry = Registry()
        # More at once would only take the interpreter from the loop that streams.
        self._database = _database(settings, min(settings.database_pool_size, _TRANSACTIONS_AT_ONCE))
        # Renewals and sweeps must not wait behind five hundred turns for a connection.
        self._lease_database = _database(settings, 2)
        self._sweep_database = _database(settings, 2)
        self._hearing = Hearing()
        self._ringer = Ringer(settings.redis_url)
        self.celery = Celery("turnkeeper", set_as_current=False)
        self.celery.conf.update(celery_settings(settings.redis_url, self._hearing))
        self._liveness = Liveness(self._ringer.send_canary, self._is_full, self._end)
        self._executor: Executor | None = None

    def start(self) -> None:
        """Check the database's role, connect and register the task.

        Raises:
            SettingsError: The database's role is too powerful, the schema is missing, or Redis is in cluster mode.
            UnavailableError: PostgreSQL cannot be reached.
        """
        refuse_cluster_at_boot(self._settings.redis_url)
        self._database.refuse_powerful_role()
        self._database.refuse_older_schema()
        self._database.tell_session()
        self._loop_thread.__enter__()
        self._loop_thread.call(self._connect())
        self._look()
        self._metrics = listener.begin(self._settings, Service.WORKER, self._registry)
        self._leases.start()
        self._sweeper.start()

        @self.celery.task(name=TASK_NAME, Strategy=_STRATEGY)  # type: ignore[untyped-decorator]
        def run_turn(turn_id: str, traceparent: str = "") -> None:
            parsed = parse_id(turn_id)
            if parsed is None:
                _log.error("a doorbell named no turn")
                return
            self._liveness.hear()
            self.runner.run(parsed, traceparent)

        @self.celery.task(name=CANARY_NAME, Strategy=_STRATEGY)  # type: ignore[untyped-decorator]
        def canary() -> None:
            self._liveness.hear()

        self._liveness.start()
        self._ringer.start()
        signals.worker_shutting_down.connect(self._drain, weak=False)
        _log.info(
            "the worker is ready",
            extra={
                "worker_id": str(self._id),
                "provider": self._choices.first.provider.name,
                "model": self._choices.first.provider.model,
            },
        )

    def listen(self, executor: Executor) -> None:
        """Take turns in the threads of `executor`: those that doorbells name, or else those that are asked for."""
        self._executor = executor
        self._asking.start()

    def stop(self) -> None:
        """Send what is left to send, hand back what still runs and disconnect."""
        self._liveness.stop()
        self._asking.stop()
        self._sweeper.stop()
        self._loop_thread.call(self._publisher.stop(_LAST_EVENTS_SECONDS))
        self._leases.stop()
        self._loop_thread.call(self._disconnect())
        if self._metrics is not None:
            self._metrics.stop()
        self._loop_thread.__exit__(None, None, None)
        self._ringer.stop()
        for database in (self._database, self._lease_database, self._sweep_database):
            database.dispose()

    def _drain(self, **_signal: Any) -> None:
        """Stop claiming, and after the grace period hand back what still runs."""
        self._liveness.stop()
        self._asking.stop()
        self.runner.drain()
        _log.info("draining", extra={"running": self._leases.running()})
        timer = threading.Timer(self._settings.drain_seconds, self._leases.hand_back_all)
        timer.daemon = True
        timer.start()

    async def _connect(self) -> None:
        settings, loop = self._settings, asyncio.get_running_loop()
        recorder = begin_tracing(settings, "worker")
        self._choices = Choices(_choice(each, recorder) for each in settings.providers)
        self._learning: asyncio.Task[None] | None = None
        if not settings.is_context_given:
            self._learning = asyncio.create_task(learn_contexts(self._choices, build_transport))
        self._leases = LeaseKeeper(
            self._lease_database,
            self._id,
            loop,
            lease_seconds=settings.lease_seconds,
            renew_seconds=settings.lease_renew_seconds,
            trust_seconds=settings.lease_trust_seconds,
            silent_seconds=self._silent_seconds,
            registry=self._registry,
        )
        self._publisher = Publisher(
            settings.redis_url,
            is_trusted=self._leases.is_trusted,
            holds_lease=self._holds_lease,
            max_entries=settings.log_max_entries,
            live_ttl_seconds=int(
                settings.queue_timeout_seconds + settings.turn_timeout_seconds + settings.log_ttl_seconds
            ),
            done_ttl_seconds=settings.log_ttl_seconds,
            buffer_bytes=settings.publish_buffer_bytes,
            shares=log_shares(settings),
            registry=self._registry,
        )
        self._publisher.start()
        self._aborts = AbortWatcher(settings.redis_url, self._leases)
        self._watching = lasting_task("aborts", asyncio.create_task(self._aborts.run()))
        metrics = WorkerMetrics(self._registry)
        self.runner = Runner(
            Services(
                settings=settings,
                worker_id=self._id,
                database=self._database,
                choices=self._choices,
                publisher=self._publisher,
                leases=self._leases,
                aborts=self._aborts,
                loop=loop,
                ring=self._ringer.ring,
                must_ask=self._must_ask,
                metrics=metrics,
                recorder=recorder,
            )
        )
        self._asking = Asking(
            must_ask=self._must_ask,
            room=self._room,
            begin=self._begin,
            take=self.runner.take,
            tell=self._tell,
        )
        self._sweeper = Sweeper(
            settings,
            self._choices,
            self._id,
            self._sweep_database,
            self._publisher,
            loop,
            self._ringer.ring,
            metrics,
            recorder,
        )

    def _look(self) -> None:
        registry = self._registry
        for name, database in (
            ("turns", self._database),
            ("leases", self._lease_database),
            ("sweeper", self._sweep_database),
        ):
            registry.on_sample(looking_at_pool(registry, database, name))
        registry.on_sample(looking_at_loop(registry, self._loop_thread.call_soon))

    async def _disconnect(self) -> None:
        ending = {task for task in (self._watching, self._learning) if task is not None}
        for task in ending:
            task.cancel()
        await asyncio.wait(ending, timeout=_LAST_EVENTS_SECONDS)
        await self._choices.aclose()

    async def _holds_lease(self, turn_id: UUID, attempt: int) -> bool:
        return await asyncio.to_thread(self._leases.holds_lease, turn_id, attempt)

    def _must_ask(self) -> bool:
        """Return whether doorbells cannot be relied on: none would be heard, or none can be rung."""
        if self._executor is None:
            return False  # it does not listen at all
        if self._is_full():
            self._hearing.prove()  # it does not listen, for it has no room
        return not (self._hearing.is_proved() and self._ringer.is_taking())

    def _room(self) -> int:
        """Return how many more turns this process may run."""
        return self._settings.worker_turns - max(taken_places(), self._leases.running())

    def _begin(self, work: Callable[[], None]) -> bool:
        return self._executor is not None and begin(self._executor, work)

    def _tell(self, has_asked: bool) -> None:
        self._leases.tell(
            is_deaf=not self._hearing.is_proved(), is_mute=not self._ringer.is_taking(), has_asked=has_asked
        )

    def _silent_seconds(self) -> float:
        return min(self._liveness.silent_seconds(), self._asking.silent_seconds())

    def _is_full(self) -> bool:
        return self._room() <= 0

    def _end(self) -> None:
        """End this process as a deploy would; its supervisor starts another."""
        os.kill(os.getpid(), signal.SIGTERM)
        last = threading.Timer(self._settings.drain_seconds + _LAST_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to end.

    Args:
        argv: `--concurrency N` overrides `WORKER_TURNS`.

    Returns:
        The exit status: 0 after a clean end, 2 if the configuration was refused.
    """
    parser = argparse.ArgumentParser(prog="turnkeeper worker", description=__doc__)
    parser.add_argument("--concurrency", type=int, help="turns at once (default: WORKER_TURNS)")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(os.environ)
        if arguments.concurrency is not None:
            settings = replace(settings, worker_turns=arguments.concurrency)
        begin_observing(settings, "worker")
        failpoints.arm(os.environ, production=settings.production)
        for warning in settings.warnings:
            _log.warning(warning)
        settings = within_open_files(settings)
        sys.setswitchinterval(_SWITCH_SECONDS)
        worker = Worker(settings)
        worker.start()
        calm_collector()
    except (SettingsError, UnavailableError) as error:
        print(error, file=sys.stderr)  # noqa: T201 -- refused before logging is set up
        return 2
    try:
        # The broker carries only JSON and remote control is off, so root may run it, as in a container.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        controller = worker.celery.Worker(
            pool="threads",
            concurrency=settings.worker_turns,
            queues=[QUEUE_NAME],
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel=settings.log_level,
            hostname=f"{worker_name()}@%h",
            quiet=True,
        )
        worker.listen(controller.pool.executor)
        controller.start()
    finally:
        worker.stop()
    return 0


def within_open_files(settings: Settings) -> Settings:
    """Raise the limit of open files; return the settings with no more turns at once than it allows, and log that."""
    open_files.raise_limit()
    most = open_files.share(open_files.TURNS)
    if settings.worker_turns <= most:
        return settings
    _log.info(
        "WORKER_TURNS is more than the limit of open files allows: fewer turns run at once",
        extra={"asked": settings.worker_turns, "allowed": most, "open_files": open_files.limit()},
    )
    return replace(settings, worker_turns=most)


def _choice(settings: ProviderSettings, recorder: Recorder | None) -> Choice:
    oddities = Oddities()
    provider = build_provider(settings, oddities=oddities)
    if recorder is not None:
        provider = TracedProvider(provider, settings, recorder)
    return Choice(settings, provider, Breaker(monotonic, settings.breaker_seconds), oddities=oddities)


def _database(settings: Settings, pool_size: int) -> Database:
    return Database(
        settings.database_url,
        pool_size=pool_size,
        prepare=settings.database_prepare,
        # A burst of turns queues here: a claim that gave up would only be rung for again.
        pool_wait_seconds=settings.lease_seconds,
    )


def worker_name() -> str:
    """Return the process's name for Celery, unique on its host."""
    return f"turnkeeper-{os.getpid()}"


if __name__ == "__main__":
    sys.exit(main())
