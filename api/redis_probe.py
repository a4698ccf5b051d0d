"""Whether Redis takes writes, for readiness checks: a small write says so, at most once a second."""

import threading
from time import monotonic
from typing import TYPE_CHECKING, Final

from redis import RedisError

from api import models
from shared.redis.names import PROBE
from shared.redis.refusals import refusal_of, word_of

if TYPE_CHECKING:
    from redis import Redis

_PROBE_SECONDS: Final = 1.0
"""How long an answer holds: however often it is asked for, Redis is written to once a second."""


class Probe:
    """Whether Redis takes a write, looked at no more than once a second.

    Args:
        redis: Its calls take a bounded time; nothing else uses it.
    """

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._lock = threading.Lock()
        self._found = models.Check(ok=True)
        self._looked_at: float | None = None

    def check(self) -> models.Check:
        """Return what was found."""
        with self._lock:
            if self._looked_at is None or monotonic() - self._looked_at > _PROBE_SECONDS:
                self._found = self._look()
                self._looked_at = monotonic()
            return self._found

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _look(self) -> models.Check:
        try:
            self._redis.execute_command(*PROBE)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            if refusal_of(error) is None:
                return models.Check(ok=False, detail="cannot be reached")
            return models.Check(ok=False, detail=f"refuses writes: {word_of(error)}")
        return models.Check(ok=True)
