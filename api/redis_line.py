"""A connection to Redis that is written at once and read later.

A request must not wait for Redis, and a thread that sends for it would run only once the request has nothing left to
do. Writing a kilobyte on an idle connection does not wait: the kernel takes it.
"""

from collections.abc import Sequence
from typing import Any, Final

from redis import Redis, RedisError, ResponseError

from shared.redis.refusals import Refusal, refusal_of

_MOST_BYTES: Final = 16_384
"""Less than any kernel takes at once on an idle connection."""


class Line:
    """One connection; `write` and `read` are called in turn, and nothing else in between.

    Args:
        redis: The client from whose pool the connection comes.
    """

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._connection: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._connection is not None

    def open(self) -> None:
        """Connect, for as long as the pool allows.

        Raises:
            RedisError: Redis cannot be reached.
        """
        self._connection = self._redis.connection_pool.get_connection()

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()
            self._redis.connection_pool.release(connection)

    def forget(self) -> None:
        """Drop, without closing it, a connection that belongs to the parent of this forked process."""
        self._connection = None

    def write(self, commands: Sequence[Sequence[Any]]) -> bool:
        """Write commands without waiting; False if they must be sent another way.

        The replies must be read before this is called again.
        """
        connection = self._connection
        if connection is None:
            return False
        packed = connection.pack_commands(commands)
        if sum(map(len, packed)) > _MOST_BYTES:
            return False
        try:
            is_idle = not connection.can_read(timeout=0)  # otherwise it was closed
            if is_idle:
                connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError):
            is_idle = False
        if not is_idle:
            self.close()
        return is_idle

    def read(self, count: int) -> Sequence[object]:
        """Wait for the replies to `count` commands; the reply to a refused command is its error.

        If one says that the server does not serve us, the line is closed.

        Raises:
            RedisError: The connection was lost or does not answer in time; it is closed.
            OSError: The same.
        """
        try:
            replies = [self._reply() for _ in range(count)]
        except BaseException:
            self.close()
            raise
        if any(_turns_away(reply) for reply in replies):
            self.close()
        return replies

    def _reply(self) -> object:
        try:
            found: object = self._connection.read_response()
        except ResponseError as refused:
            return refused
        return found


def _turns_away(reply: object) -> bool:
    return isinstance(reply, RedisError) and refusal_of(reply) is Refusal.NOT_SERVING
