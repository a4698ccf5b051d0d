"""`turnkeeper dump`: writes the database to a file, with the `pg_dump` that fits its server.

The embedded server's programs lie deep in a package, and those of a machine may be too old for it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy.engine import make_url

from shared.errors import SettingsError, TurnkeeperError
from turnkeeper.up.embedded import EmbeddedServerError
from turnkeeper.up.embedded.programs import packaged_programs, runs

_PROGRAM: Final = "pg_dump"
_VERSION: Final = re.compile(r"\b(\d{1,3})(?:\.\d+|devel|beta\d+|rc\d+)")
_CONNECT_SECONDS: Final = 10
_PROBE_SECONDS: Final = 10
_PARAMETERS: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}
"""libpq's variables (PostgreSQL's documentation, section 34.15): a command line is seen by every user of a machine."""


def dump(owner_url: str, file: Path, environ: Mapping[str, str]) -> int:
    """Write the database in pg_dump's custom format; `file` is made by a success alone.

    Args:
        owner_url: A login that row-level security does not bind.
        file: Where to; must not exist.
        environ: Its `TURNKEEPER_POSTGRES_BIN` names other programs.

    Returns:
        The exit code.

    Raises:
        SettingsError: The file exists, or no `pg_dump` is new enough.
        TurnkeeperError: The server could not be asked.
    """
    if file.exists():
        raise SettingsError([f"{str(file)!r} exists: name a new file"])
    program = fitting(server_version(owner_url), environ)
    fresh = file.with_name(f"{file.name}.{os.getpid()}.part")
    options = ["--format=custom", "--no-password", f"--file={fresh}"]
    try:
        fresh.touch(mode=0o600, exist_ok=False)
        done = subprocess.run(  # noqa: S603 -- PostgreSQL's own program
            [str(program), *options], env={**environ, **login(owner_url)}, check=False
        )
        if done.returncode == 0:
            fresh.rename(file)
    except OSError as failed:
        raise TurnkeeperError(f"{str(file)!r} cannot be written: {failed.strerror}") from failed
    finally:
        fresh.unlink(missing_ok=True)
    if done.returncode != 0:
        print(f"turnkeeper: {program} ended with {done.returncode}; nothing was written", file=sys.stderr)
        return 1
    restore = program.with_name("pg_restore")
    print(f"{file}  {file.stat().st_size} bytes; restore it with {restore}")
    return 0


def server_version(owner_url: str) -> int:
    """Return the server's major version.

    Raises:
        TurnkeeperError: It does not answer.
    """
    try:
        with psycopg.connect(_conninfo(owner_url), connect_timeout=_CONNECT_SECONDS) as connection:
            return connection.info.server_version // 10_000
    except psycopg.Error as failed:
        raise TurnkeeperError("the database could not be reached with its owner's login") from failed


def fitting(version: int, environ: Mapping[str, str]) -> Path:
    """Return a `pg_dump` of the server's major version or a newer one.

    Raises:
        SettingsError: There is none.
    """
    found: list[str] = []
    for program in candidates(environ):
        own = version_of(program)
        if own is not None and own >= version:
            return program
        found.append(f"{program} is of {own or 'no known'} version")
    known = "; ".join(found) or "there is none"
    raise SettingsError(
        [f"the server is PostgreSQL {version} and needs a pg_dump of that version or a newer one: {known}"]
    )


def candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield each `pg_dump` there is: the one that is named, that of the machine, the packaged one."""
    if named := environ.get("TURNKEEPER_POSTGRES_BIN"):
        yield Path(named).absolute() / _PROGRAM
    if on_path := shutil.which(_PROGRAM, path=environ.get("PATH")):
        yield Path(on_path)
    try:
        packaged = packaged_programs() / _PROGRAM
    except EmbeddedServerError:
        return
    if runs(packaged, None):
        yield packaged


def version_of(program: Path) -> int | None:
    """Return a program's major version; None if it does not run or does not say."""
    try:
        asked = subprocess.run(  # noqa: S603 -- as above
            [str(program), "--version"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(asked.stdout)
    return int(found[1]) if found and asked.returncode == 0 else None


def login(owner_url: str) -> dict[str, str]:
    """Return a login as libpq's variables.

    Raises:
        SettingsError: It has a parameter that pg_dump would not be told.
    """
    parameters = psycopg.conninfo.conninfo_to_dict(_conninfo(owner_url))
    unknown = sorted(
        parameters.keys() - _PARAMETERS.keys() - {"connect_timeout", "application_name", "options"}
    )
    if unknown:
        raise SettingsError(
            [f"DATABASE_OWNER_URL has parameters that cannot be passed on: {', '.join(unknown)}"]
        )
    return {_PARAMETERS[name]: str(value) for name, value in parameters.items() if name in _PARAMETERS}


def _conninfo(owner_url: str) -> str:
    return make_url(owner_url).set(drivername="postgresql").render_as_string(hide_password=False)
