"""Rings for turns, and knows whether Redis takes what is rung: a small write says so once a second.

A worker that cannot ring, and one whose Redis takes no writes, learn it from the same list of refusals. Nobody waits
for a Redis that is known not to take anything: between two looks, ringing fails at once.
"""

import logging
import threading
from time import monotonic
from typing import Final
from uuid import UUID

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.ids import new_id
from shared.lasting import lasting_thread
from shared.redis.client import redis_client
from shared.redis.doorbell import QUEUE_KEY, canary, doorbell
from shared.redis.names import PROBE
from shared.redis.refusals import word_of

_log = logging.getLogger("turnkeeper.ringer")

_LOOK_SECONDS: Final = 1.0
_REPLY_SECONDS: Final = 1.5
"""A Redis that needs longer for one small write is as good as away."""
_FRESH_SECONDS: Final = 4.0
"""Longer than a look that times out takes, with the pause before it: older news is none."""
_CONNECTIONS: Final = 8


class Ringer:
    """Rings over a connection of its own. Every method may be called from any thread.

    Args:
        redis_url: The Redis that holds the queue.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis = redis_client(
            redis_url,
            socket_timeout=_REPLY_SECONDS,
            socket_connect_timeout=_REPLY_SECONDS,
            max_connections=_CONNECTIONS,
            retry=Retry(NoBackoff(), 0),
            client_name="turnkeeper-ringer",
        )
        self._is_taking = True
        self._looked_at = monotonic()
        self._stopping = threading.Event()
        self._thread = lasting_thread("ringer", self._look_until_stopped)

    def start(self) -> None:
        """Start to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, and close the connections."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * _REPLY_SECONDS)
        self._redis.close()

    def is_taking(self) -> bool:
        """Return whether Redis took the last thing that was written, lately."""
        return self._is_taking and monotonic() - self._looked_at < _FRESH_SECONDS

    def ring(self, turn_id: UUID | str, traceparent: str) -> bool:
        """Ring for a turn; False if that failed, after which the turn waits to be asked for."""
        return self._push(doorbell(UUID(str(turn_id)), traceparent))

    def send_canary(self) -> bool:
        """Send a message that wakes nobody; False if Redis did not take it."""
        return self._push(canary(new_id()))

    def look(self) -> bool:
        """Write something small; return whether Redis took it."""
        try:
            self._redis.execute_command(*PROBE)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            self._note(error)
        else:
            self._note(None)
        return self._is_taking

    def _push(self, message: bytes) -> bool:
        if not self._is_taking:
            return False
        try:
            self._redis.lpush(QUEUE_KEY, message)
        except (RedisError, OSError) as error:
            self._note(error)
            return False
        return True

    def _note(self, error: BaseException | None) -> None:
        was_taking, self._is_taking = self._is_taking, error is None
        self._looked_at = monotonic()
        if error is not None and was_taking:
            _log.warning("redis takes no doorbells, so turns are asked for: %s", word_of(error))
        elif error is None and not was_taking:
            _log.info("redis takes doorbells again")

    def _look_until_stopped(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            self.look()
