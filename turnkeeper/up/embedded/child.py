"""One server process: started tied to its parent, awaited, and ended within a time limit.

It also has what both servers share: the free port, the stored password and the lock on the data folder.
"""

import fcntl
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shared.errors import TurnkeeperError
from turnkeeper.up import parent_death

HOST: Final = "127.0.0.1"
POLL_SECONDS: Final = 0.01
"""How often a starting or ending server is polled: a start takes about 100 ms, so this adds little."""

_LEAST_PORT: Final = 20_000
_PORT_TRIES: Final = 20
_CLIENT_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class EmbeddedServerError(TurnkeeperError):
    """An embedded server could not be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that runs a server if we are root."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    cwd: Path | None = None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    environ: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` tied to this process, in a process group of its own, appending its output to `log`.

    The group keeps a Ctrl-C on the terminal from reaching the child: its parent ends it, in order. The child
    is tied to the calling *thread*, so call this from one that lives as long as the process.
    """
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  the callers choose the program
            tied(command, account=account, death_signal=death_signal),
            cwd=cwd,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def tied(
    command: Sequence[str],
    *,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> list[str]:
    """Return a command line that runs `command` and ends it when this process ends."""
    run_as = f"{account.uid}:{account.gid}" if account else "-"
    tie = [str(os.getpid()), str(int(death_signal)), run_as]
    return [sys.executable, "-I", "-S", str(Path(parent_death.__file__).resolve()), *tie, *command]


def end(process: subprocess.Popen[bytes], *, ask: signal.Signals, grace_seconds: float) -> bool:
    """Ask a process to end, and kill it if it has not ended within the grace; False if it had to be killed."""
    if process.poll() is not None:
        return True
    process.send_signal(ask)
    try:
        process.wait(timeout=grace_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=grace_seconds)
        return False
    return True


def await_ready(
    process: subprocess.Popen[bytes], is_ready: Callable[[], bool], *, limit_seconds: float
) -> bool:
    """Wait until the server is ready; False if its process ended first.

    Raises:
        TimeoutError: It was still starting after `limit_seconds`.
    """
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if is_ready():
            return True
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"not ready after {limit_seconds:g} seconds")


def _first_client_port() -> int:
    """Return the first port that the system assigns to clients, by Linux's setting or IANA's range (RFC 6335)."""
    with suppress(OSError, ValueError):
        first = int(_CLIENT_PORTS.read_text(encoding="ascii").split()[0])
        if first >= _LEAST_PORT + _PORT_TRIES:
            return first
    return 49_152


def free_port(preferred: int | None = None, *, only: bool = False) -> int:
    """Return a port of 127.0.0.1 on which nobody listens: the preferred one if it is free.

    Any other port lies below those that the system assigns to clients: until a server listens there, and while it is
    down, no client's connection takes its port.

    Raises:
        EmbeddedServerError: No port is free, or the preferred one is taken and `only` it will do.
    """
    candidates = [preferred] if preferred else []
    if not only:
        candidates += [
            *random.SystemRandom().sample(range(_LEAST_PORT, _first_client_port()), _PORT_TRIES),
            0,
        ]
    for port in candidates:
        with socket.socket() as probe, suppress(OSError):
            # As the servers do: a port whose last connections are in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise EmbeddedServerError(f"port {preferred} of {HOST} is in use" if only else f"no free port on {HOST}")


def kept_secret(path: Path) -> str:
    """Return the secret stored in `path`; the first call creates it, readable only by its owner."""
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
    try:
        return path.read_text().strip()
    except PermissionError as refused:
        raise not_ours(path.parent) from refused


def not_ours(folder: Path) -> EmbeddedServerError:
    """Return an error that says what to do about a folder that another user made."""
    return EmbeddedServerError(
        f"{folder} belongs to another user (uid {folder.stat().st_uid}): run as that user or as root, "
        f"name another folder with --data, or remove it if its data may go"
    )


def log_tail(log: Path, lines: int = 12) -> str:
    """Return the end of a server's log, for an error's message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))  # enough for the requested lines
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


class FolderLock:
    """Keeps two processes from running servers in one folder; the kernel releases it when its holder dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Take the lock.

        Raises:
            EmbeddedServerError: Another process holds it.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError as refused:
            raise not_ours(self._path.parent) from refused
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise EmbeddedServerError(
                f"{self._path.parent} is in use by process {holder or '(unknown)'}: stop that one first, "
                f"or name another folder with --data"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; the file stays, or a third process could lock a file that no longer has a name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
