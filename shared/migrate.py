"""Brings the schema up to date and makes the roles that row-level security needs."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url

from shared.database import engine_for

_LOCK: Final = 0x7475726E
"""Advisory lock of migrations: several processes may start at once."""
_LOCK_TIMEOUT: Final = "10s"

_GROUPS: Final = ("turnkeeper_app", "turnkeeper_across")


def migrate(owner_url: str, app_url: str = "") -> None:
    """Migrate to the newest schema; safe to repeat and to run from several places at once.

    Args:
        owner_url: Login that owns the schema and may create roles.
        app_url: The application's login; made with its password when it is missing, and put into the
            group role that the policies are written for.
    """
    engine = engine_for(owner_url)
    config = _config()
    try:
        with engine.begin() as db:
            db.execute(text(f"set local lock_timeout = '{_LOCK_TIMEOUT}'"))
            db.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            _create_groups(db)
            config.attributes["connection"] = db
            command.upgrade(config, "head")
            # So that `turnkeeper doctor` can tell an old schema, without the owner's login.
            db.execute(text("grant select on public.schema_version to turnkeeper_app"))
            if app_url:
                _admit(db, make_url(app_url))
    finally:
        engine.dispose()


def head_revision() -> str:
    """Return the revision of the newest migration of this release."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _create_groups(db: Connection) -> None:
    for name in _GROUPS:
        if not _role_exists(db, name):
            db.execute(text(f"create role {name} nologin nosuperuser nobypassrls"))
    # Handing functions to the role takes membership in it; a superuser needs none.
    db.execute(
        text(
            "do $$ begin if not pg_has_role(current_user, 'turnkeeper_across', 'member') then "
            "execute format('grant turnkeeper_across to %I', current_user); end if; end $$"
        )
    )


def _admit(db: Connection, app: URL) -> None:
    """Make the application's login where it is missing, and a member of its group."""
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
