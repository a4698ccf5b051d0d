"""Clients for calls that wait for their reply, which leave a server that does not serve.

redis-py keeps a connection on which an error was answered. A connection to a server that answers "not now" or "not
here" would go on to be used for as long as that server runs, though the name may long lead to another.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from redis import Connection, ConnectionPool, Redis, SSLConnection
from redis.connection import ConnectionInterface, UnixDomainSocketConnection, parse_url
from redis.exceptions import RedisError

from shared.redis.refusals import Refusal, refusal_of

if TYPE_CHECKING:
    _Base = Connection
else:
    _Base = object


class _Leaving(_Base):
    """A connection that is given up once a reply said that its server does not serve."""

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Read a reply; the connection stays open until it is released, for the replies that follow."""
        try:
            return super().read_response(*arguments, **options)
        except RedisError as error:
            if refusal_of(error) is Refusal.NOT_SERVING:
                self.mark_for_reconnect()  # type: ignore[no-untyped-call]
            raise


class _LeavingTCP(_Leaving, Connection):
    """By TCP."""


class _LeavingTLS(_Leaving, SSLConnection):
    """By TLS."""


class _LeavingUnix(_Leaving, UnixDomainSocketConnection):
    """By a socket in the file system."""


_LEAVING: Final[Mapping[type, type]] = MappingProxyType(
    {SSLConnection: _LeavingTLS, UnixDomainSocketConnection: _LeavingUnix}
)


class _Pool(ConnectionPool):
    """Drops its idle connections with one that is given up: they lead to the same server."""

    def release(self, connection: ConnectionInterface) -> None:
        """Take a connection back."""
        is_left = connection.should_reconnect()  # type: ignore[no-untyped-call]
        super().release(cast("Connection", connection))
        if is_left:
            self.disconnect(inuse_connections=False)


def redis_client(url: str, **options: Any) -> "Redis":
    """Return a client whose connections are dropped when their server says that it does not serve.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        options: As of `redis.Redis.from_url`.

    Raises:
        ValueError: `url` is not a Redis URL.
    """
    connection_class = parse_url(url).get("connection_class", Connection)  # type: ignore[no-untyped-call]
    leaving = _LEAVING.get(connection_class, _LeavingTCP)
    # The scheme of the URL would choose redis-py's own class over ours.
    pool = _Pool.from_url(url, **options)
    pool.connection_class = leaving
    return Redis.from_pool(pool)
