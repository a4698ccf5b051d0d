"""Brings the schema up to date and creates the roles that row-level security needs."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError

from shared.errors import UnavailableError
from shared.postgres.database import engine_for

_log = logging.getLogger("turnkeeper.migrate")

SCRIPTS: Final = Path(__file__).parents[1] / "migrations"
_LOCK: Final = 0x7475726E
"""The migrations' advisory lock: several processes may start at once."""
_LOCK_TIMEOUT_MS: Final = 2000
"""While a migration waits for a table, all of its readers and writers wait behind it; so it waits no longer than they
can without noticing, and tries again.
"""
_TRIES: Final = 15
_PAUSE_SECONDS: Final = 2.0
_TURN_SECONDS: Final = 600.0
"""How long to wait for another process that migrates; it may be building a large index."""
_TURN_PAUSE_SECONDS: Final = 0.2

_GROUPS: Final = ("turnkeeper_app", "turnkeeper_across")


def migrate(owner_url: str, app_url: str = "", *, scripts: Path = SCRIPTS) -> None:
    """Migrate to the newest schema; safe to repeat, to run from several places at once, and while the service is up.

    Each migration is a transaction of its own: one that fails leaves the earlier ones in place, and the next run starts
    with it.

    Args:
        owner_url: The login that owns the schema and may create roles.
        app_url: The application's login; created with its password if it is missing, and made a member of the group
            role that the policies are written for.
        scripts: The folder of the migrations.

    Raises:
        UnavailableError: Others held the locks that a migration needs, or the right to migrate, for too long.
    """
    engine = engine_for(owner_url)
    try:
        with engine.connect() as holder, _alone(holder):
            with engine.begin() as db:
                _create_groups(db)
            for attempt in range(1, _TRIES + 1):
                try:
                    _upgrade(engine, scripts)
                    break
                except OperationalError as exc:
                    if not isinstance(exc.orig, LockNotAvailable):
                        raise
                    if attempt == _TRIES:
                        raise UnavailableError(
                            "a migration did not get its locks: try again when less runs"
                        ) from exc
                    _log.warning(
                        "a migration did not get its locks and is tried again", extra={"tries": attempt}
                    )
                    time.sleep(_PAUSE_SECONDS)
            with engine.begin() as db:
                # So that `turnkeeper doctor` can recognise an old schema without the owner's login.
                db.execute(text("grant select on public.schema_version to turnkeeper_app"))
                if app_url:
                    _admit(db, make_url(app_url))
    finally:
        engine.dispose()


@contextmanager
def _alone(holder: Connection) -> Iterator[None]:
    """Keep other migrating processes out, on a connection that is in no transaction meanwhile.

    A statement that waits has a snapshot, and CREATE INDEX CONCURRENTLY waits for snapshots: for ever, if it holds this
    lock itself. So instead of waiting we try again and again.
    """
    holder = holder.execution_options(isolation_level="AUTOCOMMIT")
    give_up_at = time.monotonic() + _TURN_SECONDS
    while not holder.execute(text("select pg_try_advisory_lock(:lock)"), {"lock": _LOCK}).scalar_one():
        if time.monotonic() > give_up_at:
            raise UnavailableError("another process has been migrating for ten minutes")
        time.sleep(_TURN_PAUSE_SECONDS)
    try:
        yield
    finally:
        holder.execute(text("select pg_advisory_unlock(:lock)"), {"lock": _LOCK})


def _upgrade(engine: Engine, scripts: Path) -> None:
    """Run the missing migrations, each in a transaction of its own (`migrations/env.py`)."""
    config = _config(scripts)
    with engine.connect() as db:
        # Set on the connection, so that it also covers what a migration does outside its transaction, in
        # `autocommit_block`.
        db.execute(text(f"set lock_timeout = {_LOCK_TIMEOUT_MS}"))
        db.commit()
        config.attributes["connection"] = db
        command.upgrade(config, "head")


def head_revision() -> str:
    """Return the revision of this release's newest migration."""
    return ScriptDirectory.from_config(_config(SCRIPTS)).get_current_head() or ""


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "os")
    return config


def _create_groups(db: Connection) -> None:
    for name in _GROUPS:
        if not _role_exists(db, name):
            db.execute(text(f"create role {name} nologin nosuperuser nobypassrls"))
    # Handing functions to the role requires membership in it; a superuser needs none.
    db.execute(
        text(
            "do $$ begin if not pg_has_role(current_user, 'turnkeeper_across', 'member') then "
            "execute format('grant turnkeeper_across to %I', current_user); end if; end $$"
        )
    )


def _admit(db: Connection, app: URL) -> None:
    """Create the application's login if it is missing, and make it a member of its group."""
    name = sql.Identifier(app.username or "")
    raw = db.connection.driver_connection
    if not _role_exists(db, app.username or ""):
        statement = sql.SQL("create role {} login nosuperuser nobypassrls password {}").format(
            name, sql.Literal(app.password or "")
        )
        db.exec_driver_sql(statement.as_string(raw))
    if app.username == "turnkeeper_app":
        return  # the login is the group itself
    db.exec_driver_sql(sql.SQL("grant turnkeeper_app to {}").format(name).as_string(raw))


def _role_exists(db: Connection, name: str) -> bool:
    found = db.execute(text("select exists (select from pg_roles where rolname = :name)"), {"name": name})
    return bool(found.scalar_one())
