"""What every turn of a process is run with; `main` builds it once."""

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
        worker_id: Who claims.
        database: For claims and settlements alone: renewals and sweeps have pools of their own.
        choices: The providers, one of which answers each turn.
        loop: Where the network part runs.
        ring: Sends a doorbell, given turn and trace context: for what is handed back.
        recorder: Where spans go; None where traces are off.
    """

    settings: Settings
    worker_id: UUID
    database: Database
    choices: Choices
    publisher: Publisher
    leases: LeaseKeeper
    aborts: AbortWatcher
    loop: asyncio.AbstractEventLoop
    ring: Callable[[str, str], None]
    metrics: WorkerMetrics
    recorder: Recorder | None
