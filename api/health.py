"""Health checks: whether the process answers, and whether the service can do its work."""

import logging
from dataclasses import dataclass
from typing import Final

from redis import RedisError

from api import models
from api.operation import Operation, Reply
from api.services import Services
from shared.errors import UnavailableError
from shared.postgres.statement import Statement

_log = logging.getLogger("turnkeeper.health")

WORKER_SECONDS: Final = 15
"""A worker that has not renewed for this long counts as dead."""
DEAF_SECONDS: Final = 60
"""Four canaries of a worker that receives nothing else (see `worker.process.liveness`)."""


@dataclass(frozen=True, slots=True)
class _Workers:
    """How many workers are alive, and how many of them receive doorbells."""

    alive: int
    hearing: int


_WORKERS: Final = Statement(
    """
    select count(*) as alive,
        count(*) filter (where heard_at > clock_timestamp() - make_interval(secs => :deaf_seconds)) as hearing
    from turnkeeper.workers where renewed_at > clock_timestamp() - make_interval(secs => :seconds)
    """,
    _Workers,
)


def healthz(services: Services) -> Reply:
    """Say that the process answers."""
    del services
    return Reply(200, models.Health())


def readyz(services: Services) -> Reply:
    """Check PostgreSQL, Redis and whether a worker lives and hears; 503 when one of them does not."""
    checks = {**_of_database(services), "redis": _of_redis(services)}
    is_ready = all(check.ok for check in checks.values())
    return Reply(
        200 if is_ready else 503, models.Readiness(status="ok" if is_ready else "degraded", checks=checks)
    )


def _of_database(services: Services) -> dict[str, models.Check]:
    try:
        with services.database.across() as db:
            workers = _WORKERS.one(db, {"seconds": WORKER_SECONDS, "deaf_seconds": DEAF_SECONDS})
    except UnavailableError:
        return {
            "postgres": models.Check(ok=False, detail="cannot be reached"),
            "worker": models.Check(ok=False, detail="not known without postgres"),
        }
    if workers.hearing:
        worker = models.Check(ok=True)
    elif workers.alive:
        worker = models.Check(ok=False, detail=f"none has heard a doorbell for {DEAF_SECONDS} seconds")
    else:
        worker = models.Check(ok=False, detail=f"none was heard of for {WORKER_SECONDS} seconds")
    return {"postgres": models.Check(ok=True), "worker": worker}


def _of_redis(services: Services) -> models.Check:
    try:
        services.redis.ping()
    except RedisError:
        return models.Check(ok=False, detail="cannot be reached")
    return models.Check(ok=True)


_TAG: Final = "Service"
OPERATIONS: Final = (
    Operation("GET", "/healthz", _TAG, {200: models.Health}, healthz, roles=frozenset()),
    Operation(
        "GET", "/readyz", _TAG, {200: models.Readiness, 503: models.Readiness}, readyz, roles=frozenset()
    ),
)
