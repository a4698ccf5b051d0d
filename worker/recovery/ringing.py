"""Rings again for turns that no worker has heard of: their doorbells were lost, or never rung.

Only a bounded number of doorbells is out, since any doorbell that wakes a worker will do. Whoever cannot ring leaves
the turns alone, for another process that can.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import redis
from sqlalchemy import text

from shared.postgres import rows
from shared.postgres.database import Database
from shared.redis.doorbell import QUEUE_KEY
from shared.redis.refusals import word_of

_log = logging.getLogger("turnkeeper.sweeper")

_AGAIN_SECONDS: Final = 2.0
_MOST_DOORBELLS: Final = 200
"""Most unheard doorbells in Redis: with so many, all workers are busy or dead, and more would wake nobody."""
_UNHEARD: Final = text("select turn_id, traceparent from turnkeeper.unheard_turns(:again_seconds, :most)")


@dataclass(frozen=True, slots=True)
class _Unheard:
    """A turn for which no worker has received a doorbell."""

    turn_id: UUID
    traceparent: str


def ring_again(database: Database, client: "redis.Redis", ring: Callable[[str, str], bool]) -> None:
    """Ring for the turns that have waited for it.

    Args:
        database: Knows the turns; each is given out to one caller at a time.
        client: Knows how many doorbells are out.
        ring: Sends a doorbell for a turn and its trace context; False if Redis took none.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    most = _MOST_DOORBELLS - _doorbells(client)
    if most <= 0:
        return
    with database.across() as db:
        found = db.execute(_UNHEARD, {"again_seconds": _AGAIN_SECONDS, "most": most})
        unheard = rows.every(_Unheard, found)
    for turn in unheard:
        if not ring(str(turn.turn_id), turn.traceparent):
            return  # workers ask for turns meanwhile


def _doorbells(client: "redis.Redis") -> int:
    """Count the doorbells that no worker has received; the most that may be out if Redis does not answer."""
    try:
        return client.llen(QUEUE_KEY)
    except (redis.RedisError, OSError) as error:
        _log.warning("no turn is rung for: %s", word_of(error))
        return _MOST_DOORBELLS
