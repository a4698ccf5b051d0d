"""A Redis in cluster mode is refused, in one sentence: our connections go to one server, which holds every key."""

from typing import TYPE_CHECKING, Final

from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.errors import SettingsError
from shared.redis.client import redis_client

if TYPE_CHECKING:
    from redis import Redis

CLUSTER: Final = "REDIS_URL names a Redis in cluster mode, which Turnkeeper does not use: it needs one server"
_SECONDS: Final = 2.0


def refuse_cluster(redis: "Redis") -> str | None:
    """Return why a server cannot be used; None if it is not in cluster mode.

    Raises:
        RedisError: It cannot be reached, or does not say.
    """
    return CLUSTER if redis.info("cluster").get("cluster_enabled") else None


def refuse_cluster_at_boot(url: str) -> None:
    """Look at the server once, before anything is built on it; one that is away or silent may be what it likes.

    Raises:
        SettingsError: It is in cluster mode.
    """
    with redis_client(
        url,
        socket_timeout=_SECONDS,
        socket_connect_timeout=_SECONDS,
        retry=Retry(NoBackoff(), 0),
        client_name="turnkeeper-boot",
    ) as redis:
        try:
            refused = refuse_cluster(redis)
        except (RedisError, OSError):
            return  # no process waits for Redis
    if refused:
        raise SettingsError([refused])
