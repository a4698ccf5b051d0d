"""What PostgreSQL and Redis know: the queue, the holds, the workers.

They are queried on a scrape, but at most once every few seconds, over connections that are closed afterwards. A scrape
waits a second for each: a server that hangs costs one thread, and its figures are left out.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final, TypeAlias

from redis import Redis, RedisError, ResponseError
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import text
from sqlalchemy.engine import make_url

from shared.configuration.settings import Settings
from shared.errors import UnavailableError
from shared.metrics.table import (
    DOORBELLS,
    HELD,
    HOLDS,
    POSTGRES_UP,
    QUEUE_OLDEST,
    QUEUE_TURNS,
    REDIS_UP,
    REDIS_WRITABLE,
    TURNS_ACTIVE,
    WORKERS,
    WORKERS_ASKING,
    WORKERS_HEARING,
    Metric,
)
from shared.postgres.database import Database
from shared.redis.doorbell import QUEUE_KEY
from shared.redis.names import PROBE

_log = logging.getLogger("turnkeeper.metrics")

Known: TypeAlias = Mapping[Metric, Mapping[tuple[str, ...], float]]

FRESH_SECONDS: Final = 5.0
"""Scrapes within this time share one reading."""
WAIT_SECONDS: Final = 1.0
"""How long a scrape waits for a reading."""
_CONNECT_SECONDS: Final = 2
"""The least that libpq accepts."""
_FIGURES: Final = text("select * from turnkeeper.service_figures()")
_WORKERS: Final = text(
    """
    select count(*) filter (where heard_at > clock_timestamp() - interval '60 seconds'
            and deaf_since is null and mute_since is null) as hearing,
        count(*) filter (where asked_at > clock_timestamp() - interval '5 seconds') as asking
    from turnkeeper.workers where renewed_at > clock_timestamp() - interval '15 seconds'
    """
)
_LIMIT: Final = text("set local statement_timeout = 1000")
_NAME: Final = "turnkeeper-metrics"
"""Not the pools' name: the health check recognises a worker by its pools' connections."""


class Reading:
    """One server's figures, cached for a few seconds and read in a thread of their own.

    Args:
        read: Queries the server.
        up: The metric that says whether it answered.
        clock: Monotonic seconds.
    """

    def __init__(self, read: Callable[[], Known], up: Metric, clock: Callable[[], float] = monotonic) -> None:
        self._read = read
        self._up = up
        self._clock = clock
        self._changed = threading.Condition()
        self._known: Known | None = None
        self._read_at: float | None = None
        self._is_reading = False

    def get(self, wait_seconds: float = WAIT_SECONDS) -> Known:
        """Return what the server knows; only that it is down if it does not answer."""
        with self._changed:
            if not self._is_fresh() and not self._is_reading:
                self._is_reading = True
                threading.Thread(target=self._run, name="metrics-reading", daemon=True).start()
            self._changed.wait_for(self._is_fresh, wait_seconds)
            known = self._known if self._is_fresh() else None
        is_up = known is not None
        return {**(known or {}), self._up: {(): float(is_up)}}

    def _is_fresh(self) -> bool:
        return self._read_at is not None and self._clock() - self._read_at < FRESH_SECONDS

    def _run(self) -> None:
        known: Known | None = None
        try:
            known = self._read()
        except (UnavailableError, RedisError, OSError) as error:
            _log.info("a server's figures could not be read: %s", type(error).__name__)
        except Exception:  # noqa: BLE001 -- the next scrape tries again
            _log.exception("a server's figures could not be read")
        with self._changed:
            self._known, self._read_at, self._is_reading = known, self._clock(), False
            self._changed.notify_all()


class Servers:
    """PostgreSQL and Redis together."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._postgres = Reading(self._ask_postgres, POSTGRES_UP)
        self._redis = Reading(self._ask_redis, REDIS_UP)

    def known(self) -> Known:
        """Return what both know, within two seconds."""
        return {**self._postgres.get(), **self._redis.get()}

    def _ask_postgres(self) -> Known:
        of_metrics = {"application_name": _NAME, "connect_timeout": str(_CONNECT_SECONDS)}
        url = make_url(self._settings.database_url).update_query_dict(of_metrics)
        database = Database(url.render_as_string(hide_password=False), pool_size=1, prepare=False)
        try:
            with database.across() as db:
                db.execute(_LIMIT)
                row = db.execute(_FIGURES).one()
                workers = db.execute(_WORKERS).one()
        finally:
            database.dispose()
        return {
            TURNS_ACTIVE: {(status,): getattr(row, status) for (status,) in TURNS_ACTIVE.series},
            QUEUE_TURNS: {(): row.claimable},
            QUEUE_OLDEST: {(): row.oldest_seconds},
            HOLDS: {(): row.holds},
            HELD: {(): float(row.held_usd)},
            WORKERS: {(): row.workers},
            WORKERS_HEARING: {(): workers.hearing},
            WORKERS_ASKING: {(): workers.asking},
        }

    def _ask_redis(self) -> Known:
        with Redis.from_url(
            self._settings.redis_url,
            socket_timeout=WAIT_SECONDS,
            socket_connect_timeout=WAIT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            client_name=_NAME,
        ) as redis:
            return {DOORBELLS: {(): float(redis.llen(QUEUE_KEY))}, REDIS_WRITABLE: {(): _takes_writes(redis)}}


def _takes_writes(redis: "Redis") -> float:
    try:
        redis.execute_command(*PROBE)  # type: ignore[no-untyped-call]
    except ResponseError:
        return 0.0
    return 1.0
