"""Real servers for the tests that need them: started and migrated once, emptied before each test.

Tests run as the application's role: an owner is exempt from row-level security and would hide what is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import redis
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from shared.configuration.settings import Settings, load_settings
from shared.postgres.accounts import KeyRole, create_organization, insert_key, mint_key
from shared.postgres.database import Database
from shared.postgres.migrate import migrate
from tests import doorbells
from tests.marks import leaks_in_files, leaks_in_redis
from turnkeeper.up.embedded import EmbeddedPostgres, EmbeddedRedis, temporary_postgres, temporary_redis

# Before any of them is imported: their assertions should show what they compared, as those of tests do.
pytest.register_assert_rewrite("tests.e2e.protocol_client", "tests.faults.proxy", "tests.faults.world")


@dataclass(frozen=True)
class Keys:
    """One organization's keys: two users', a service's and an admin's."""

    alice: str
    bob: str
    service: str
    admin: str


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server with a migrated database."""
    with temporary_postgres() as server:
        migrate(server.owner_url, server.app_url)
        yield server
        found = leaks_in_files([Path(server.log)])
    assert not found, found


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A Redis server; its contents belong to the running test."""
    with temporary_redis() as server:
        with doorbells.listening(server.url):
            yield server
        found = leaks_in_files([Path(server.log)])
    assert not found, found


@pytest.fixture
def empty_postgres(postgres: EmbeddedPostgres) -> EmbeddedPostgres:
    """The server with empty tables and nobody else connected.

    Cloning a template for each test isolates no better and costs two checkpoints, about 0.2 s.
    """
    with psycopg.connect(postgres.owner_url, connect_timeout=10) as db:
        # What an earlier test forgot to end must not write into this one.
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        db.execute(
            "set local session_replication_role = replica"
        )  # the order of foreign keys does not matter
        tables = db.execute("select tablename from pg_tables where schemaname = 'turnkeeper'").fetchall()
        for (table,) in tables:
            db.execute(sql.SQL("delete from turnkeeper.{}").format(sql.Identifier(table)))
    return postgres


@pytest.fixture
def database_url(empty_postgres: EmbeddedPostgres) -> str:
    """The application's URL of the database."""
    return empty_postgres.app_url


@pytest.fixture
def owner_url(empty_postgres: EmbeddedPostgres) -> str:
    """The owner's URL of the database."""
    return empty_postgres.owner_url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The test's database as the application uses it."""
    database = Database(database_url, pool_size=16)
    yield database
    database.dispose()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> Iterator[str]:
    """An empty Redis; at the end it may hold no secret, and content only in the logs of turns."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    yield redis_server.url
    found = leaks_in_redis(redis_server.url)
    assert not found, found


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
    """Keys of another organization whose users have the same names."""
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
    """The configuration that results from `environment`."""
    return load_settings(environment)


def _keys(owner_url: str, organization: UUID) -> Keys:
    # One connection for all four: logging in costs more than everything else here.
    engine = create_engine(make_url(owner_url).set(drivername="postgresql+psycopg"))
    minted = {}
    with engine.begin() as db:
        for name, role, user in (
            ("alice", KeyRole.USER, "alice"),
            ("bob", KeyRole.USER, "bob"),
            ("service", KeyRole.SERVICE, None),
            ("admin", KeyRole.ADMIN, None),
        ):
            minted[name] = mint_key()
            insert_key(db, organization, minted[name], role=role, user=user, name=name)
    engine.dispose()
    return Keys(**{name: key.secret for name, key in minted.items()})
