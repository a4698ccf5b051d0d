"""The logins of PostgreSQL: makes two out of one, and reports refusals in one line.

The service's processes must not have the owner's login, which may do everything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from shared.errors import SettingsError, TurnkeeperError
from shared.postgres.database import LIVENESS
from turnkeeper.up.embedded.child import kept_secret


def split_roles(url: str, data: Path) -> tuple[str, str]:
    """Make two logins out of one: `DATABASE_URL` may be the owner's, which the processes must not have.

    Returns:
        The application's URL, for a login that the migration creates, and the owner's.

    Raises:
        SettingsError: The login cannot create roles, so the owner must be named.
    """
    parsed = make_url(url).set(drivername="postgresql")
    plain = parsed.render_as_string(hide_password=False)
    try:
        with psycopg.connect(make_conninfo(plain, connect_timeout=5, **LIVENESS)) as db:
            row = db.execute(
                "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
    except psycopg.OperationalError as failed:
        raise SettingsError(["DATABASE_URL does not lead to a PostgreSQL that answers: check it"]) from failed
    if not row or not row[0]:
        raise SettingsError(
            ["DATABASE_OWNER_URL is required beside a DATABASE_URL that may not make roles: set it"]
        )
    password = kept_secret(data / "database.password")
    # A role belongs to the whole server: its name distinguishes the logins of several data folders.
    suffix = kept_secret(data / "database.role")[:8].lower().replace("-", "_")
    app = parsed.set(username=f"turnkeeper_{suffix}", password=password)
    return app.render_as_string(hide_password=False), plain


@contextmanager
def owning_database() -> Iterator[None]:
    """Report PostgreSQL's refusals in one line, like any other error that the operator can fix.

    Raises:
        SettingsError: The login is no URL.
        TurnkeeperError: It could not be reached, or one of the owner's statements failed.
    """
    try:
        yield
    except ArgumentError as malformed:
        raise SettingsError(
            ["DATABASE_OWNER_URL is no URL: use the form postgresql://user:password@host:5432/database"]
        ) from malformed
    except DBAPIError as failed:
        # psycopg reports host, port and user of a failed connection; of a failed statement only its first
        # line is used.
        reason = str(failed.orig).strip().splitlines()[:1] or [type(failed.orig).__name__]
        raise TurnkeeperError(f"PostgreSQL, as the owner: {reason[0]}") from failed
