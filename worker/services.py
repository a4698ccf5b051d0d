"""The services that every turn of a process uses; `main` builds them once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from shared.configuration.settings import Settings
from shared.postgres.database import Database
from shared.tracing.span import Recorder
from worker.metrics import WorkerMetrics
from worker.providers.choice import Choices
from worker.publishing.publisher import Publisher
from worker.recovery.aborts import AbortWatcher
from worker.recovery.leases import LeaseKeeper


@dataclass(frozen=True, slots=True)
class Services:
    """The services of a worker process that a turn uses.

    Args:
        worker_id: The worker that claims.
        database: Only for claims and settlements: renewals and sweeps have their own pools.
        choices: The providers, one of which answers each turn.
        loop: Runs the network part.
        ring: Sends a doorbell for a turn that is handed back, with its trace context; False if Redis took none.
        must_ask: Returns whether doorbells cannot be relied on, so that whoever is free asks for a turn.
        recorder: Receives spans; None if traces are off.
    """

    settings: Settings
    worker_id: UUID
    database: Database
    choices: Choices
    publisher: Publisher
    leases: LeaseKeeper
    aborts: AbortWatcher
    loop: asyncio.AbstractEventLoop
    ring: Callable[[str, str], bool]
    must_ask: Callable[[], bool]
    metrics: WorkerMetrics
    recorder: Recorder | None
