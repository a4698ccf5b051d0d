"""`turnkeeper users`: exports or erases the conversations of one user, as that person may request."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from shared.errors import SettingsError
from turnkeeper.exits import FAILED
from turnkeeper.owner import organization
from turnkeeper.up.records import Folder

if TYPE_CHECKING:
    from shared.postgres.database import Database

LOG_ENTRIES: Final = 20_000
LOG_SECONDS: Final = 3600
"""The lifetime of logs that a stop ends; they are deleted right afterwards."""
REDIS_SECONDS: Final = 5
_LOGINS: Final = ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL")
"""The variables, in the order of `Servers`."""


class Servers(NamedTuple):
    """The logins of the servers that hold the data."""

    database_url: str
    owner_url: str
    redis_url: str


def servers(environ: Mapping[str, str], data: Folder) -> Servers:
    """Return the logins from the environment, or those of the `turnkeeper up` that runs on a folder.

    A folder on the command line overrides the environment.

    Raises:
        SettingsError: Not all of them are known.
    """
    named = Servers(*(environ.get(name, "").strip() for name in _LOGINS))
    missing = [name for name, value in zip(_LOGINS, named, strict=True) if not value]
    if named.owner_url and not data.is_named:
        if missing:
            raise SettingsError([f"{name} is required beside DATABASE_OWNER_URL: set it" for name in missing])
        return named
    state = data.running() if data.is_named else data.state()
    if state is None:
        raise data.lacks(missing)
    return Servers(state.database_url, state.database_owner_url, state.redis_url)


@contextmanager
def application_database(url: str) -> Iterator["Database"]:
    """Open the database with the application's role, and no other.

    Raises:
        SettingsError: Row-level security does not bind the role.
    """
    from shared.postgres.database import Database

    database = Database(url, pool_size=1, prepare=False)
    try:
        database.refuse_powerful_role()
        yield database
    finally:
        database.dispose()


def export(where: Servers, org: str | None, user: str, path: Path | None) -> int:
    """Write a user's sessions, of the organization `org`, to a new file or standard output."""
    from turnkeeper.commands.export import export_user

    organization_id = organization(where.owner_url, org)
    count = 0
    with application_database(where.database_url) as database, output(path) as file:
        for line in export_user(database, organization_id, user):
            file.write(line + "\n")
            count += 1
    print(f"turnkeeper: {count} sessions", file=sys.stderr)
    return 0


@contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """Open a new file that only its owner may read; without a path, standard output.

    Raises:
        SettingsError: The file exists, or cannot be made.
    """
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise SettingsError([f"--output {path}: {exc.strerror}: name a new file"]) from exc
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yield file


def erase(where: Servers, org: str | None, user: str, *, wait_seconds: float, asks: bool) -> int:
    """Erase a user's content and print what was removed.

    Args:
        where: The servers that hold the data.
        org: Id or name of the organization; None for the only one.
        user: The user.
        wait_seconds: How long to wait for running turns to end.
        asks: Whether to ask for confirmation at the terminal first.
    """
    from redis import Redis

    from api.notices import Notices
    from turnkeeper.commands.erasure import Erasure

    organization_id = organization(where.owner_url, org)
    redis = Redis.from_url(
        where.redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
    )
    notices = Notices(
        redis,
        log_entries=LOG_ENTRIES,
        log_ttl_seconds=LOG_SECONDS,
        ended_ttl_seconds=LOG_SECONDS,
    )
    with application_database(where.database_url) as database, redis:
        erasure = Erasure(database, where.owner_url, redis, notices, organization_id, user)
        try:
            if asks and not confirmed(user, *erasure.count()):
                print("turnkeeper: nothing was erased", file=sys.stderr)
                return FAILED
            erased = erasure.erase(wait_seconds)
        finally:
            notices.close()
    print(f"sessions emptied and closed:  {erased.sessions}")
    print(f"turns stopped:                {erased.stopped}")
    print(f"messages deleted:             {erased.messages}")
    print(f"checkpoints deleted:          {erased.checkpoints}")
    print(f"idempotency keys deleted:     {erased.idempotency_keys}")
    print(f"logs deleted in Redis:        {erased.logs}")
    print(f"ledger rows kept, renamed:    {erased.renamed}")
    print(f"name in place of the user's:  {erased.pseudonym}")
    if erased.keys:
        print(f"API keys still valid:         {erased.keys} (see `turnkeeper keys list` and `revoke`)")
    if erased.unfinished:
        print(
            f"turnkeeper: {erased.unfinished} turns have not ended: their content is gone, and their names go when "
            "this is run again after their end",
            file=sys.stderr,
        )
        return FAILED
    return 0


def confirmed(user: str, sessions: int, messages: int) -> bool:
    """Ask for confirmation at the terminal.

    Raises:
        SettingsError: There is no terminal.
    """
    if not sys.stdin.isatty():
        raise SettingsError(["--yes is required where nobody can be asked: it cannot be undone"])
    print(f"This deletes {messages} messages in {sessions} sessions of {user!r}. It cannot be undone.")
    return input("Type the user's name to go on: ") == user
