"""Checks PostgreSQL as the application's role: only that shows what the service will see."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import ArgumentError

from shared.errors import UnavailableError
from shared.postgres.database import SESSION, Database, session_differences
from shared.postgres.migrate import head_revision
from turnkeeper.doctor.clock import Clock, judged_clock
from turnkeeper.doctor.findings import Finding, Level, fine, judged, looked_at, reason, warning, wrong

OLDEST_VERSION: Final = 15
LONGEST_STATEMENT_SECONDS: Final = 60
"""A statement that holds its connection for longer is a danger to the others."""
_HEARD_SECONDS: Final = 15
_DEAF_SECONDS: Final = 60
_RENEWED_SECONDS: Final = 5
"""All as `/readyz` counts them."""

_ROLE: Final = """
    select r.rolname as name, r.rolsuper as is_superuser, r.rolbypassrls as bypasses,
        exists (select from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
                where n.nspname = 'turnkeeper' and pg_has_role(current_user, c.relowner, 'member')) as owns
    from pg_roles as r where r.rolname = current_user
"""
_UNPROTECTED: Final = """
    select c.relname as name, c.relrowsecurity as is_on, c.relforcerowsecurity as is_forced
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname = 'turnkeeper' and c.relkind in ('r', 'p')
        and (c.relname = 'organizations' or exists (
            select from pg_attribute as a
            where a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped))
        and not (c.relrowsecurity and c.relforcerowsecurity)
    order by c.relname
"""
_TABLES: Final = "select count(*) from pg_tables where schemaname = 'turnkeeper'"
_REVISION: Final = """
    select case when to_regclass('public.schema_version') is null then 'none'
                when not has_table_privilege(to_regclass('public.schema_version'), 'select') then 'hidden'
                else 'known' end
"""
_TIMEOUTS: Final = """
    select name, setting::bigint as milliseconds from pg_settings
    where name in ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout') order by name
"""
_WORKERS: Final = """
    select count(*) as alive,
        count(*) filter (where renewed_at > clock_timestamp() - make_interval(secs => :renewed)) as renewing,
        count(*) filter (where heard_at > clock_timestamp() - make_interval(secs => :deaf)
            and deaf_since is null and mute_since is null) as hearing,
        count(*) filter (where asked_at > clock_timestamp() - make_interval(secs => :renewed)) as asking
    from turnkeeper.workers where renewed_at > clock_timestamp() - make_interval(secs => :heard)
"""


def check_postgres(url: str, now: Clock) -> Iterator[Finding]:
    """Check the server, the role, the schema and the workers that report there that they are alive."""
    try:
        database = Database(url, pool_size=1, prepare=False)
    except (ArgumentError, ValueError):
        yield wrong(
            "postgres", "DATABASE_URL cannot be read", "use postgresql://user:password@host:5432/name"
        )
        return
    try:
        try:
            yield _version(database)
        except UnavailableError as failure:
            yield wrong(
                "postgres", f"cannot be reached: {reason(failure)}", "check DATABASE_URL and the server"
            )
            return
        questions: dict[str, Callable[[Database], Finding]] = {
            "postgres.role": _role,
            "postgres.schema": _schema,
            "postgres.row_level_security": _row_level_security,
            "postgres.writable": _writable,
            "postgres.timeouts": _timeouts,
            "postgres.session": _session,
            "postgres.clock": lambda database: _clock(database, now),
            "workers": _workers,
        }
        for name, question in questions.items():
            yield looked_at(name, lambda question=question: question(database))  # type: ignore[misc]
    finally:
        database.dispose()


def _rows(database: Database, statement: str, **parameters: Any) -> list[Any]:
    with database.across() as db:
        return list(db.execute(text(statement), parameters))


def _version(database: Database) -> Finding:
    (row,) = _rows(
        database,
        "select current_setting('server_version') as said, current_setting('server_version_num')::int as number",
    )
    level = Level.OK if row.number >= OLDEST_VERSION * 10_000 else Level.WRONG
    return judged("postgres", f"version {row.said}", level, f"use PostgreSQL {OLDEST_VERSION} or newer")


def _role(database: Database) -> Finding:
    (row,) = _rows(database, _ROLE)
    powers = [
        words
        for has_it, words in (
            (row.is_superuser, "is a superuser"),
            (row.bypasses, "bypasses row-level security"),
            (row.owns and not row.is_superuser, "owns the tables"),
        )
        if has_it
    ]
    if powers:
        return wrong(
            "postgres.role",
            f"{row.name!r} {' and '.join(powers)}, so no policy binds it",
            "name a plain role in DATABASE_URL: `turnkeeper migrate` makes it",
        )
    return fine("postgres.role", f"{row.name!r} owns nothing and is bound by every policy")


def _schema(database: Database) -> Finding:
    newest, remedy = head_revision(), "run `turnkeeper migrate`"
    match _rows(database, _REVISION)[0][0]:
        case "none":
            return wrong("postgres.schema", "there is none yet", remedy)
        case "hidden":
            return wrong("postgres.schema", "the role may not read its version", remedy)
    found = [row.version_num for row in _rows(database, "select version_num from public.schema_version")]
    if found == [newest]:
        return fine("postgres.schema", f"at {newest}, the newest")
    said = ", ".join(found) or "nothing"
    return wrong(
        "postgres.schema",
        f"at {said}, this release needs {newest}",
        f"{remedy}; if the schema is newer than this release, run the release that it is of",
    )


def _row_level_security(database: Database) -> Finding:
    name, remedy = (
        "postgres.row_level_security",
        "`ALTER TABLE … ENABLE` and `FORCE ROW LEVEL SECURITY`, as the owner",
    )
    bare = _rows(database, _UNPROTECTED)
    if bare:
        which = ", ".join(f"{row.name} ({'not forced' if row.is_on else 'off'})" for row in bare)
        return wrong(name, f"does not bind {which}", remedy)
    if not _rows(database, _TABLES)[0][0]:
        return wrong(name, "there are no tables", "run `turnkeeper migrate`")
    return fine(name, "on and forced for every table of an organization")


def _writable(database: Database) -> Finding:
    (row,) = _rows(
        database,
        "select pg_is_in_recovery() as is_replica, current_setting('transaction_read_only')::boolean as is_read_only",
    )
    if row.is_replica or row.is_read_only:
        what = "a replica" if row.is_replica else "read only"
        return wrong("postgres.writable", f"it is {what}", "name the primary in DATABASE_URL")
    return fine("postgres.writable", "it takes writes")


def _timeouts(database: Database) -> Finding:
    found = {row.name: row.milliseconds / 1000 for row in _rows(database, _TIMEOUTS)}
    said = ", ".join(f"{name} {seconds:g} s" for name, seconds in found.items())
    unbounded = [name for name, seconds in found.items() if not 0 < seconds <= LONGEST_STATEMENT_SECONDS]
    if unbounded:
        return warning(
            "postgres.timeouts",
            f"{', '.join(unbounded)} not in force, or over {LONGEST_STATEMENT_SECONDS} s",
            "take `options` out of DATABASE_URL; behind PgBouncer set `connect_query`",
        )
    return fine("postgres.timeouts", said)


def _session(database: Database) -> Finding:
    """Compare what statements rely on; the limits have a finding of their own."""
    with database.across() as db:
        found = session_differences(db)
        is_durable = db.execute(text("show synchronous_commit")).scalar_one() != "off"
    others = {name: value for name, value in found.items() if not name.endswith("_timeout")}
    if others:
        said = ", ".join(
            f"{name} is {value!r} instead of {SESSION[name]!r}" for name, value in others.items()
        )
        return warning(
            "postgres.session",
            said,
            "take `options` out of DATABASE_URL; behind PgBouncer set `connect_query`",
        )
    if not is_durable:
        return warning(
            "postgres.session",
            "synchronous_commit is off, so what was answered 202 may be lost with the server",
            "switch it on for the service's role",
        )
    return fine("postgres.session", "as the statements need it")


def _clock(database: Database, now: Clock) -> Finding:
    with database.across() as db:
        db.execute(text("select 1"))  # connecting is not measured
        before = now()
        theirs = db.execute(text("select clock_timestamp()")).scalar_one()
        after = now()
    return judged_clock("postgres.clock", theirs, before, after, timedelta())


def _workers(database: Database) -> Finding:
    (row,) = _rows(database, _WORKERS, heard=_HEARD_SECONDS, deaf=_DEAF_SECONDS, renewed=_RENEWED_SECONDS)
    if not row.alive:
        return warning(
            "workers",
            f"none was heard of for {_HEARD_SECONDS} seconds, so turns wait",
            "start one: `turnkeeper worker`",
        )
    if row.renewing < row.alive:
        return judged(
            "workers",
            f"{row.alive - row.renewing} of {row.alive} renewed no lease for {_RENEWED_SECONDS} seconds",
            Level.WARNING if row.renewing else Level.WRONG,
            "see its log; it is gone, or hangs, or cannot reach PostgreSQL",
        )
    if row.asking and row.hearing + row.asking >= row.alive:
        return warning(
            "workers",
            f"{row.asking} of {row.alive} ask for turns once a second, for they cannot rely on doorbells",
            "check Redis: turns start up to a second later meanwhile, and their text arrives late",
        )
    if row.hearing < row.alive:
        level = Level.WARNING if row.hearing else Level.WRONG
        return judged(
            "workers",
            f"{row.alive - row.hearing} of {row.alive} heard no doorbell for {_DEAF_SECONDS} seconds",
            level,
            "check Redis; a worker that stays deaf ends itself, so its supervisor has to start it again",
        )
    return fine("workers", f"{row.alive} alive and hearing")
