"""Real servers for the tests that need them: started once, a migrated database cloned for each test.

Tests run as the application's role: an owner, whom row-level security does not bind, would hide what
is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from uuid import UUID

import psycopg
import pytest
import redis
from psycopg import sql

from shared.accounts import create_key, create_organization
from shared.database import Database
from shared.migrate import migrate
from shared.settings import Settings, load_settings
from turnkeeper.embedded import EmbeddedPostgres, EmbeddedRedis, temporary_postgres, temporary_redis
from turnkeeper.embedded.postgres import APP_ROLE, SUPERUSER

TEMPLATE = "tk_template"
_numbers = count(1)


@dataclass(frozen=True)
class Keys:
    """One organization's keys: two users', a service's and an admin's."""

    alice: str
    bob: str
    service: str
    admin: str


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server with a migrated template database."""
    with temporary_postgres() as server:
        _execute(server, sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
        migrate(server.url(SUPERUSER, TEMPLATE), server.url(APP_ROLE, TEMPLATE))
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A Redis server; what is in it belongs to the running test."""
    with temporary_redis() as server:
        yield server


@pytest.fixture
def database_name(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database of the test's own."""
    name = f"tk_test_{next(_numbers)}"
    identifier = sql.Identifier(name)
    _execute(
        postgres,
        sql.SQL("create database {} template {} strategy file_copy").format(
            identifier, sql.Identifier(TEMPLATE)
        ),
    )
    yield name
    _execute(postgres, sql.SQL("drop database {} with (force)").format(identifier))


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, database_name: str) -> str:
    """The application's URL of the test's database."""
    return postgres.url(APP_ROLE, database_name)


@pytest.fixture
def owner_url(postgres: EmbeddedPostgres, database_name: str) -> str:
    """The owner's URL of the test's database."""
    return postgres.url(SUPERUSER, database_name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The test's database as the application uses it."""
    database = Database(database_url, pool_size=16)
    yield database
    database.dispose()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """A Redis that holds nothing yet."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def organization(owner_url: str) -> UUID:
    """An organization."""
    return create_organization(owner_url, "Acme")


@pytest.fixture
def keys(owner_url: str, organization: UUID) -> Keys:
    """The organization's keys."""
    return _keys(owner_url, organization)


@pytest.fixture
def strangers(owner_url: str) -> Keys:
    """Keys of another organization, whose users have the same names."""
    return _keys(owner_url, create_organization(owner_url, "Globex"))


@pytest.fixture
def environment(database_url: str, redis_url: str) -> dict[str, str]:
    """Environment variables of a service on the test's servers; a test may change its copy."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "MCP_LLM_PROVIDER": "scripted",
        "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    """The configuration that `environment` makes."""
    return load_settings(environment)


def _keys(owner_url: str, organization: UUID) -> Keys:
    return Keys(
        alice=create_key(owner_url, organization, "user", user="alice", name="alice"),
        bob=create_key(owner_url, organization, "user", user="bob", name="bob"),
        service=create_key(owner_url, organization, "service", name="service"),
        admin=create_key(owner_url, organization, "admin", name="admin"),
    )


def _execute(server: EmbeddedPostgres, statement: sql.Composed) -> None:
    with psycopg.connect(server.url(SUPERUSER, "postgres"), autocommit=True, connect_timeout=10) as db:
        db.execute(statement)
