"""PostgreSQL and a Redis-compatible server that `turnkeeper up` brings along, from packages on PyPI.

Real servers, started as children on free ports of 127.0.0.1, each with a folder and a password of its own.
"""

from turnkeeper.up.embedded.child import EmbeddedServerError
from turnkeeper.up.embedded.postgres import EmbeddedPostgres, temporary_postgres
from turnkeeper.up.embedded.redis import EmbeddedRedis, temporary_redis

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "EmbeddedServerError",
    "temporary_postgres",
    "temporary_redis",
]
