"""How many connections the processes may open, and whether a pooler stands between them and PostgreSQL."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from turnkeeper.doctor.findings import Finding, Level, fine, judged, warning, wrong

WORKER_CONNECTIONS: Final = 6
"""A worker's three pools: see `worker.main`."""
_CONNECT_SECONDS: Final = 3
_APPLICATION: Final = "turnkeeper-doctor"
_LIMITS: Final = """
    select least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true), '0')::int,
        (select nullif(rolconnlimit, -1) from pg_roles where rolname = current_user),
        (select nullif(datconnlimit, -1) from pg_database where datname = current_database())) as most,
        -- Of other roles' connections a plain role sees whose they are, and no more.
        (select count(*) from pg_stat_activity
         where datid is not null and usesysid is not null
            and (usename <> current_user or application_name not like 'turnkeeper%%')) as others
"""


def connections_of(web: int, relay: int, worker: int, pool_size: int) -> int:
    """Return the most connections that this many processes open."""
    return (web + relay) * pool_size + worker * WORKER_CONNECTIONS


def check_connections(url: str, wanted: int, *, prepares: bool, owner_url: str = "") -> Iterator[Finding]:
    """Look for a pooler, and compare the pools with the server's limit.

    Args:
        url: The application's URL.
        wanted: The result of `connections_of`.
        prepares: Whether the processes prepare statements.
        owner_url: The owner's URL, if known: it must not lead through the pooler.
    """
    try:
        with _connect(url) as db:
            is_pooled = _is_pooled(db)
            most, others = db.execute(_LIMITS).fetchone() or (0, 0)
    except (psycopg.Error, ArgumentError, ValueError):
        return  # another check reports that it cannot be reached
    if is_pooled:
        yield from _of_pooler(url, prepares=prepares)
        if owner_url:
            yield from _of_owner(owner_url)
        return
    yield fine("postgres.pooler", "none: the processes connect to PostgreSQL itself")
    says = f"the processes open up to {wanted}, others have {others}, the server gives {most}"
    level = Level.OK if wanted + others <= most else Level.WRONG if wanted > most else Level.WARNING
    yield judged(
        "postgres.connections",
        says,
        level,
        "raise max_connections, lower DATABASE_POOL_SIZE, or put PgBouncer between",
    )


def _connect(url: str) -> psycopg.Connection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(
        plain,
        connect_timeout=_CONNECT_SECONDS,
        autocommit=True,
        application_name=_APPLICATION,
        prepare_threshold=None,
    )


def _is_pooled(db: psycopg.Connection[Any]) -> bool:
    """Return whether the server process that we were told of is not the one that answers."""
    return _backend(db) != db.info.backend_pid


def _backend(db: psycopg.Connection[Any]) -> int:
    row = db.execute("select pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def _of_pooler(url: str, *, prepares: bool) -> Iterator[Finding]:
    """Find out how the pooler lends connections: in transaction mode, the next client gets the one just returned."""
    name = "postgres.pooler"
    try:
        with ExitStack() as stack:
            first, second = (stack.enter_context(_connect(url)) for _ in range(2))
            with first.transaction():
                lent = _backend(first)
            with second.transaction():
                is_shared = _backend(second) == lent
    except psycopg.Error:
        yield wrong(name, "a pooler that allows no transactions", "set `pool_mode = transaction`")
        return
    if is_shared:
        yield fine(name, "a pooler, which lends connections for a transaction; its own limits count")
    else:
        yield warning(
            name,
            "a pooler that did not lend the connection again: it is in session mode, or busy",
            "set `pool_mode = transaction`",
        )
        return
    if prepares:
        yield from _of_prepared(url)


def _of_prepared(url: str) -> Iterator[Finding]:
    """Find out whether the pooler keeps prepared statements apart: look for one from the next client."""
    name = "postgres.prepared_statements"
    try:
        with ExitStack() as stack:
            first, second = (stack.enter_context(_connect(url)) for _ in range(2))
            first.prepare_threshold = 0
            lent = _backend(first)
            with second.transaction():
                if _backend(second) != lent:
                    return  # it is busy, so this shows nothing
                raw = second.execute(
                    "select name from pg_prepared_statements where name like '\\_pg3\\_%'"
                ).fetchall()
                if raw:
                    second.execute("deallocate all")  # nobody else can use them either
    except psycopg.Error:
        raw = [("",)]
    if raw:
        yield wrong(
            name,
            "the pooler does not know them, and DATABASE_PREPARE is true",
            "set DATABASE_PREPARE=false, or use PgBouncer 1.21 or newer with `max_prepared_statements`",
        )
    else:
        yield fine(name, "the pooler keeps them apart")


def _of_owner(owner_url: str) -> Iterator[Finding]:
    try:
        with _connect(owner_url) as db:
            is_pooled = _is_pooled(db)
    except psycopg.Error:
        return
    if is_pooled:
        yield warning(
            "postgres.owner",
            "DATABASE_OWNER_URL leads through the pooler, whose limits a migration may pass",
            "name PostgreSQL itself in DATABASE_OWNER_URL",
        )
