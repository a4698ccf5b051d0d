"""Health checks: whether the process answers, and whether the service can do its work."""

import logging
from dataclasses import dataclass
from typing import Final

from api import models
from api.operation import Operation, Reply
from api.services import Services
from shared.errors import UnavailableError
from shared.postgres.statement import Statement

_log = logging.getLogger("turnkeeper.health")

WORKER_SECONDS: Final = 15
"""A worker that has not renewed for this long counts as dead."""
RENEWED_SECONDS: Final = 5
"""A worker renews every three: one that has not for so long does not do its work, whatever the reason."""
_LATE_SECONDS: Final = 2
"""How much later than it is due a renewal may be, where renewals are rarer."""
DEAF_SECONDS: Final = 60
"""Four canaries of a worker that receives nothing else (see `worker.process.liveness`)."""


@dataclass(frozen=True, slots=True)
class _Workers:
    """How many workers are alive, renew their leases, listen to a Redis that takes doorbells, and find turns at all."""

    alive: int
    renewing: int
    listening: int
    finding: int


_WORKERS: Final = Statement(
    """
    select count(*) as alive, count(*) filter (where w.renews) as renewing,
        count(*) filter (where w.renews and w.listens) as listening,
        count(*) filter (where w.renews and (w.listens or w.asks)) as finding
    from (
        select renewed_at > clock_timestamp() - make_interval(secs => :renewed_seconds) as renews,
            heard_at > clock_timestamp() - make_interval(secs => :deaf_seconds)
                and deaf_since is null and mute_since is null as listens,
            coalesce(asked_at > clock_timestamp() - make_interval(secs => :renewed_seconds), false) as asks
        from turnkeeper.workers where renewed_at > clock_timestamp() - make_interval(secs => :seconds)
    ) as w
    """,
    _Workers,
)


def healthz(services: Services) -> Reply:
    """Say that the process answers."""
    del services
    return Reply(200, models.Health())


def readyz(services: Services) -> Reply:
    """Check PostgreSQL, Redis and whether workers do their work; 503 while no new turn could start.

    What only makes the service slower, such as a Redis that is away, is `degraded` with 200: it is the same for every
    process, so a load balancer that sent nobody to any of them would make an outage of it.
    """
    parts = _of_database(services)
    checks = {**parts.checks, "redis": services.probe.check()}
    is_ready = all(check.ok for check in checks.values())
    return Reply(
        200 if parts.can_start_turns else 503,
        models.Readiness(status="ok" if is_ready else "degraded", checks=checks),
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What PostgreSQL tells."""

    checks: dict[str, models.Check]
    can_start_turns: bool


def _of_database(services: Services) -> _Parts:
    renewed_seconds = max(RENEWED_SECONDS, services.settings.lease_renew_seconds + _LATE_SECONDS)
    try:
        with services.database.across() as db:
            workers = _WORKERS.one(
                db,
                {
                    "seconds": WORKER_SECONDS,
                    "deaf_seconds": DEAF_SECONDS,
                    "renewed_seconds": renewed_seconds,
                },
            )
    except UnavailableError:
        checks = {
            "postgres": models.Check(ok=False, detail="cannot be reached"),
            "worker": models.Check(ok=False, detail="not known without postgres"),
        }
        return _Parts(checks, can_start_turns=False)
    return _Parts(
        {"postgres": models.Check(ok=True), "worker": _of_workers(workers, renewed_seconds)},
        can_start_turns=workers.finding > 0,
    )


def _of_workers(workers: _Workers, renewed_seconds: float) -> models.Check:
    if not workers.alive:
        return models.Check(ok=False, detail=f"none was heard of for {WORKER_SECONDS} seconds")
    if not workers.renewing:
        return models.Check(ok=False, detail=f"none has renewed its leases for {renewed_seconds:g} seconds")
    if not workers.finding:
        return models.Check(ok=False, detail="none hears a doorbell, and none asks for turns")
    if not workers.listening:
        return models.Check(ok=False, detail="none hears a doorbell: they ask for turns once a second")
    return models.Check(ok=True)


_TAG: Final = "Service"
OPERATIONS: Final = (
    Operation("GET", "/healthz", _TAG, {200: models.Health}, healthz, roles=frozenset()),
    Operation(
        "GET", "/readyz", _TAG, {200: models.Readiness, 503: models.Readiness}, readyz, roles=frozenset()
    ),
)
