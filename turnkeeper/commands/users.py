"""`turnkeeper users`: what a person may ask of whoever keeps their conversations: a copy, or an end."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from shared.errors import SettingsError
from turnkeeper.options import FAILED
from turnkeeper.owner import as_owner, environment, organization
from turnkeeper.up.records import DATA_FOLDER, STATE_NAME, read_state

if TYPE_CHECKING:
    from shared.postgres.database import Database

_WAIT_SECONDS: Final = 30.0
_MOST_WAIT_SECONDS: Final = 3600.0
_LOG_ENTRIES: Final = 20_000
_LOG_SECONDS: Final = 3600
"""Of the logs that a stop ends, which are deleted right afterwards."""
_REDIS_SECONDS: Final = 5


class Servers(NamedTuple):
    """Where the data is."""

    database_url: str
    owner_url: str
    redis_url: str


def add_users(users_parser: argparse.ArgumentParser) -> None:
    """Give `users` its commands."""
    commands = users_parser.add_subparsers(required=True, metavar="COMMAND")
    erase_parser = commands.add_parser("erase", help="remove all that a user wrote and was answered")
    erase_parser.add_argument("--yes", action="store_true", help="do not ask")
    erase_parser.add_argument(
        "--wait",
        type=wait_seconds,
        default=_WAIT_SECONDS,
        metavar="SECONDS",
        help="for running turns to end (default: %(default)g)",
    )
    erase_parser.set_defaults(command=as_owner(erase))
    export_parser = commands.add_parser("export", help="write a user's sessions as JSON lines")
    export_parser.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: stdout)")
    export_parser.set_defaults(command=as_owner(export))
    for one in (erase_parser, export_parser):
        one.add_argument("user", help="the user's name, as in the sessions")
        one.add_argument("--organization", "--org", dest="org", help="id or name (default: the only one)")


def wait_seconds(text: str) -> float:
    """Parse a wait."""
    seconds = float(text)
    if not 0 <= seconds <= _MOST_WAIT_SECONDS:
        raise argparse.ArgumentTypeError(f"use 0 to {_MOST_WAIT_SECONDS:g}")
    return seconds


def servers() -> Servers:
    """Return the logins of the environment, or those of the `turnkeeper up` that runs here.

    Raises:
        SettingsError: They are not all known.
    """
    environ = environment()
    named = Servers(
        *(environ.get(name, "").strip() for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL"))
    )
    if not named.owner_url and (state := read_state(DATA_FOLDER / STATE_NAME)) is not None:
        return Servers(state.database_url, state.database_owner_url, state.redis_url)
    missing = [
        f"{name} is required where no `turnkeeper up` runs: set it"
        for name, value in zip(("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL"), named, strict=True)
        if not value
    ]
    if missing:
        raise SettingsError(missing)
    return named


@contextmanager
def application_database(url: str) -> Iterator["Database"]:
    """Open the database as the application's role, and no other.

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


def export(options: argparse.Namespace) -> int:
    """Write a user's sessions."""
    from turnkeeper.commands.export import export_user

    where = servers()
    organization_id = organization(where.owner_url, options.org)
    count = 0
    with application_database(where.database_url) as database, output(options.output) as file:
        for line in export_user(database, organization_id, options.user):
            file.write(line + "\n")
            count += 1
    print(f"turnkeeper: {count} sessions", file=sys.stderr)
    return 0


@contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """Open a new file that only we may read; without a path, standard output.

    Raises:
        SettingsError: There is such a file, or it cannot be made.
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


def erase(options: argparse.Namespace) -> int:
    """Erase a user's content and say what was removed."""
    from redis import Redis

    from api.notices import Notices
    from turnkeeper.commands.erasure import Erasure

    where = servers()
    organization_id = organization(where.owner_url, options.org)
    redis = Redis.from_url(
        where.redis_url, socket_timeout=_REDIS_SECONDS, socket_connect_timeout=_REDIS_SECONDS
    )
    notices = Notices(
        redis,
        log_entries=_LOG_ENTRIES,
        log_ttl_seconds=_LOG_SECONDS,
        ended_ttl_seconds=_LOG_SECONDS,
    )
    with application_database(where.database_url) as database, redis:
        erasure = Erasure(database, where.owner_url, redis, notices, organization_id, options.user)
        try:
            if not options.yes and not confirmed(options.user, *erasure.count()):
                print("turnkeeper: nothing was erased", file=sys.stderr)
                return FAILED
            erased = erasure.erase(options.wait)
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
    """Ask whoever sits at the terminal.

    Raises:
        SettingsError: There is no terminal.
    """
    if not sys.stdin.isatty():
        raise SettingsError(["--yes is required where nobody can be asked: it cannot be undone"])
    print(f"This deletes {messages} messages in {sessions} sessions of {user!r}. It cannot be undone.")
    return input("Type the user's name to go on: ") == user
