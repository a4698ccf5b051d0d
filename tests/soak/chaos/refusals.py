"""A Redis that refuses for a while, and how soon a turn starts once it serves again."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import psycopg
import redis

from tests.refusing_redis import REFUSING
from tests.soak.chaos.service import Service

STARTS_SECONDS: Final = 5.0
"""A turn that waits when a refusal ends, or comes later, starts within this time."""
_REDIS_SECONDS: Final = 30.0
"""Outlasts a pause of the server by another fault: what was set must be undone."""
_LOOK_SECONDS: Final = 30.0
_NOW: Final = "select clock_timestamp()"
_FIRST: Final = """
    select extract(epoch from started_at - greatest(claimable_at, %(ended)s))::float8
    from turnkeeper.turns where started_at > %(ended)s and attempt = 1 order by started_at limit 1
"""


@dataclass(slots=True)
class Refusals:
    """Has Redis refuse, and measures.

    Attributes:
        alone: Seconds to the first turn after a refusal that no other fault disturbed.
        disturbed: Seconds, for the others.
    """

    service: Service
    alone: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    _ending: threading.Event = field(default_factory=threading.Event)
    _one: threading.Lock = field(default_factory=threading.Lock)

    def refuse(self, reply: str, for_seconds: float, *, is_alone: bool) -> None:
        """Have it refuse, in a thread of the caller's; one refusal at a time."""
        with (
            self._one,
            suppress(redis.RedisError, psycopg.Error),
            redis.Redis.from_url(self.service.redis_url, socket_timeout=_REDIS_SECONDS) as server,
        ):
            with REFUSING[reply](server):
                self._ending.wait(for_seconds)
            took = self._first_turn()
            if took is not None:
                (self.alone if is_alone else self.disturbed).append(took)

    def end(self) -> None:
        """End a refusal in progress."""
        self._ending.set()

    def _first_turn(self) -> float | None:
        """Wait for the next turn that starts; None if none does before the run's end."""
        with psycopg.connect(self.service.owner_url, connect_timeout=2, autocommit=True) as db:
            (ended,) = db.execute(_NOW).fetchone() or (None,)
            give_up_at = time.monotonic() + _LOOK_SECONDS
            while not self._ending.wait(0.1) and time.monotonic() < give_up_at:
                if row := db.execute(_FIRST, {"ended": ended}).fetchone():
                    return float(row[0])
        return None
