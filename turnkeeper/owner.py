"""Work as the database's owner: finds its login and the organization of a command, and reports refusals in one line."""

import os
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import ParamSpec
from uuid import UUID

from shared.errors import SettingsError
from turnkeeper.up.records import Folder

_Options = ParamSpec("_Options")


def as_owner(command: Callable[_Options, int]) -> Callable[_Options, int]:
    """Wrap a command so that it prints what the database refused, in one line."""

    @wraps(command)
    def run_command(*args: _Options.args, **options: _Options.kwargs) -> int:
        from turnkeeper.up.logins import owning_database

        with owning_database():
            return command(*args, **options)

    return run_command


def environment() -> Mapping[str, str]:
    """Return the environment, with the additions of `.env`."""
    from turnkeeper.dotenv import read_dotenv

    return {**read_dotenv(Path(".env")), **os.environ}


def owner_url(environ: Mapping[str, str], data: Folder) -> str:
    """Return the owner's login: `DATABASE_OWNER_URL`, or that of the `turnkeeper up` that runs on a folder.

    A folder on the command line overrides the environment: it names the database of that `up`.

    Raises:
        SettingsError: There is neither.
    """
    if data.is_named:
        return data.running().database_owner_url
    if named := environ.get("DATABASE_OWNER_URL", "").strip():
        return named
    state = data.state()
    if state is None:
        raise data.lacks(["DATABASE_OWNER_URL"])
    return state.database_owner_url


def organization(url: str, named: str | None) -> UUID:
    """Return the organization of a command.

    Raises:
        SettingsError: It is unknown, or none was named and there are several.
    """
    from shared.postgres import accounts

    known = accounts.list_organizations(url)
    meant = [row_id for row_id, name in known if named is None or named in {str(row_id), name}]
    if len(meant) != 1:
        names = (
            ", ".join(f"{name!r} ({row_id})" for row_id, name in known)
            or "none yet: `turnkeeper orgs create NAME`"
        )
        raise SettingsError([f"--org must name one organization; there are: {names}"])
    return meant[0]
