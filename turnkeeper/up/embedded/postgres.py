"""The embedded PostgreSQL server.

Its data survives it, even a `kill -9`. It listens on 127.0.0.1 only and asks for a password, which is stored next to
the data, so another user of the machine cannot get in.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import psutil
import psycopg
from psycopg import sql

from turnkeeper.up.embedded.child import (
    HOST,
    POLL_SECONDS,
    Account,
    EmbeddedServerError,
    FolderLock,
    await_ready,
    end,
    free_port,
    kept_secret,
    log_tail,
    not_ours,
    spawn,
)
from turnkeeper.up.embedded.programs import account_for, postgres_programs

SUPERUSER: Final = "postgres"
APP_ROLE: Final = "turnkeeper_login"
"""A login; the migration makes it a member of the group role that the policies are written for."""
DATABASE: Final = "turnkeeper"
INIT_LIMIT_SECONDS: Final = 120.0
"""It takes 1 to 2 s; the limit allows for a slow disk."""
START_LIMIT_SECONDS: Final = 120.0
"""A start takes 100 ms; replaying the log after a crash can take a minute."""
STOP_LIMIT_SECONDS: Final = 20.0
"""A fast shutdown writes one checkpoint."""
CONNECT_LIMIT_SECONDS: Final = 10
LEFTOVER_LIMIT_SECONDS: Final = 10.0
"""Back ends of a killed server notice within a second or two; until then its memory is in use."""
START_TRIES: Final = 5
"""A port that was free when probed may be taken a moment later."""

SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": HOST,
        "unix_socket_directories": "",  # one way in: TCP with a password
        "max_connections": "200",
        "shared_buffers": "64MB",
        "io_method": "sync",  # no I/O worker processes for a database that fits in memory
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        # PostgreSQL's own log repeats a failed statement with its parameters: no content in a log (I10)
        "log_min_error_statement": "panic",
        "log_parameter_max_length_on_error": "0",
        "log_error_verbosity": "terse",
    }
)
UNDURABLE: Final[Mapping[str, str]] = MappingProxyType(
    {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
)


class EmbeddedPostgres:
    """A server in a folder; `with` starts and stops it.

    Args:
        folder: Holds its data, password and log; created if it is missing.
        port: The port to try first; if it is taken, another free one is used.
        durable: False trades the safety of commits for speed, for tests, whose data nobody misses.
    """

    def __init__(self, folder: Path, *, port: int | None = None, durable: bool = True) -> None:
        self._folder = folder.absolute()
        self._port = port
        self._durable = durable
        self._is_known = False  # to clients: the port may not change any more
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = FolderLock(self._folder / "lock")

    @property
    def pid(self) -> int:
        """The postmaster's process id; 0 if it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._folder / "server.log"

    @property
    def owner_url(self) -> str:
        """The superuser's URL of the `turnkeeper` database."""
        return self.url(SUPERUSER)

    @property
    def app_url(self) -> str:
        """The application's URL: its role and password are chosen here and created by the migration."""
        return self.url(APP_ROLE)

    def url(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """Return a role's URL of a database on this server, for tests that clone a template database."""
        return f"postgresql://{role}:{self._password(role)}@{HOST}:{self._port}/{database}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _password(self, role: str) -> str:
        return kept_secret(self._folder / f"{role}.password")

    def start(self) -> str:
        """Start the server, with new or existing data, and return the owner's URL.

        If the same object starts it again, it listens on the same port, so that its clients find it.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock.__enter__()
        try:
            account = account_for(self._data)
            programs = postgres_programs(account)
            self._prepare(programs, account)
            self._run(programs, account)
            self._ensure_database()
            self._is_known = True
        except BaseException:
            self.stop()
            raise
        return self.owner_url

    def _prepare(self, programs: Path, account: Account | None) -> None:
        """Create the data folder on the first start; on later ones, end the server that a killed parent left."""
        if not self._data.exists():
            initialize(
                self._data, programs, account, self._password(SUPERUSER), self.log, durable=self._durable
            )
        elif account is None and self._data.stat().st_uid != os.geteuid():
            raise not_ours(self._data)
        check_version(self._data, programs)
        end_leftover(self._data)

    def _run(self, programs: Path, account: Account | None) -> None:
        give_up_at = time.monotonic() + LEFTOVER_LIMIT_SECONDS
        tries = 0
        while not self._start_once(programs, account):
            tail = log_tail(self.log)
            is_memory_in_use = "shared memory block" in tail and time.monotonic() < give_up_at
            tries += not is_memory_in_use
            if tries >= START_TRIES or not (is_memory_in_use or "Address already in use" in tail):
                raise EmbeddedServerError(f"PostgreSQL did not start; its log ends:\n{tail}")
            time.sleep(POLL_SECONDS * 10)

    def _start_once(self, programs: Path, account: Account | None) -> bool:
        self._port = free_port(self._port, only=self._is_known)
        settings = {**SETTINGS, **({} if self._durable else UNDURABLE), "port": str(self._port)}
        self._process = spawn(
            [
                str(programs / "postgres"),
                *("-D", seen_from_inside(self._data, account)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            log=self.log,
            cwd=self._data,
            account=account,
            environ=clean_environment(),
            death_signal=signal.SIGINT,  # a fast shutdown
        )
        try:
            return await_ready(self._process, self._is_ready, limit_seconds=START_LIMIT_SECONDS)
        except TimeoutError as late:
            raise EmbeddedServerError(f"PostgreSQL is {late}; its log ends:\n{log_tail(self.log)}") from late

    def _is_ready(self) -> bool:
        lines = lock_file_lines(self._data)
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _ensure_database(self) -> None:
        with psycopg.connect(
            self.url(SUPERUSER, "postgres"), autocommit=True, connect_timeout=CONNECT_LIMIT_SECONDS
        ) as db:
            exists = db.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if not exists:
                db.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def stop(self) -> None:
        """Stop the server with a fast shutdown: open connections are cut, commits are kept."""
        if self._process is not None:
            end(self._process, ask=signal.SIGINT, grace_seconds=STOP_LIMIT_SECONDS)
            self._process = None
        self._lock.__exit__(None, None, None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def seen_from_inside(folder: Path, account: Account | None) -> str:
    """Return the folder's name for a server whose current directory it is.

    Root's other user may have no access to the path (a clone under `/root`), but a current directory that was entered
    as root stays open to it, and Linux has a name for it.
    """
    return "/proc/self/cwd" if account is not None and sys.platform.startswith("linux") else str(folder)


def initialize(
    data: Path, programs: Path, account: Account | None, password: str, log: Path, *, durable: bool
) -> None:
    """Create a data folder; it gets its name once it is complete, so an interrupted one is created again."""
    working = data.with_name(data.name + ".new")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(mode=0o700)
    with ExitStack() as stack:
        word = stack.enter_context(tempfile.NamedTemporaryFile("w", prefix="turnkeeper-", suffix=".once"))
        word.write(password + "\n")
        word.flush()
        if account is not None:
            os.chown(working, account.uid, account.gid)
            os.chown(word.name, account.uid, account.gid)
        output = stack.enter_context(log.open("ab"))
        command = initdb_command(
            programs, seen_from_inside(working, account), Path(word.name), durable=durable
        )
        try:
            finished = subprocess.run(  # noqa: S603  see postgres_programs
                command,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                cwd=working,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=INIT_LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise EmbeddedServerError(f"initdb took more than {INIT_LIMIT_SECONDS:g} seconds") from late
    if finished.returncode != 0:
        raise EmbeddedServerError(f"initdb failed; its log ends:\n{log_tail(log)}")
    working.rename(data)


def clean_environment() -> dict[str, str]:
    """Return the server's environment: the caller's contains secrets, and `PG…` variables that would affect it."""
    loading = {"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} & os.environ.keys()  # our own Python may need them
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C"} | {name: os.environ[name] for name in loading}


def initdb_command(programs: Path, folder: str, password_file: Path, *, durable: bool) -> Sequence[str]:
    """Return initdb's command line: the database is the same whatever the machine's locale."""
    return [
        str(programs / "initdb"),
        *("-D", folder, "-U", SUPERUSER, "--encoding=UTF8", "--locale=C"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *("--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"),
        *(() if durable else ("--no-sync",)),
    ]


def check_version(data: Path, programs: Path) -> None:
    """Refuse data of another major version, which PostgreSQL cannot read, before starting it.

    Raises:
        EmbeddedServerError: The versions differ, or the data cannot be read.
    """
    try:
        of_data = (data / "PG_VERSION").read_text().strip()
    except PermissionError as refused:
        raise not_ours(data) from refused
    except FileNotFoundError:
        raise EmbeddedServerError(f"{data} is not a PostgreSQL data folder: move it away") from None
    said = subprocess.run(  # noqa: S603  see postgres_programs
        [str(programs / "postgres"), "--version"], capture_output=True, text=True, timeout=10, check=True
    ).stdout
    of_program = said.split()[-1].split(".")[0]
    if of_data != of_program:
        raise EmbeddedServerError(
            f"the data in {data} is of PostgreSQL {of_data}, the program is {of_program}: run the older one "
            f"with TURNKEEPER_POSTGRES_BIN and move the data with pg_dump, or remove the folder"
        )


def lock_file_lines(data: Path) -> list[str]:
    """Return the lines of `postmaster.pid`: pid, folder, start, port, sockets, address, memory, status."""
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []


def end_leftover(data: Path) -> None:
    """End the server that a killed parent left on this data, and remove a lock file without a server.

    The caller holds the folder's lock, so no living parent owns that server. If the recorded process id now belongs to
    another process (common in containers), PostgreSQL would refuse to start for ever.
    """
    lines = lock_file_lines(data)
    if not lines:
        return
    leftover = server_of(data, lines[0])
    if leftover is not None:
        with suppress(psutil.NoSuchProcess):
            leftover.send_signal(signal.SIGINT)
            try:
                leftover.wait(STOP_LIMIT_SECONDS)
            except psutil.TimeoutExpired:
                leftover.kill()
                leftover.wait(STOP_LIMIT_SECONDS)
    (data / "postmaster.pid").unlink(missing_ok=True)


def server_of(data: Path, pid: str) -> psutil.Process | None:
    """Return the process `pid` if it is a PostgreSQL server that works in `data`."""
    try:
        process = psutil.Process(int(pid))
        is_server = process.name().startswith("postgres") and Path(process.cwd()) == data.resolve()
    except (ValueError, psutil.Error):
        return None
    return process if is_server else None


@contextmanager
def temporary_postgres() -> Iterator[EmbeddedPostgres]:
    """Run a server with new data that is not durable and is removed afterwards: for tests."""
    with (
        tempfile.TemporaryDirectory(prefix="turnkeeper-postgres-") as folder,
        EmbeddedPostgres(Path(folder), durable=False) as server,
    ):
        yield server
