"""The address on which the service listens, and the folder of sockets on which its processes take connections over."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from shared.errors import SettingsError

DEFAULT_PORT: Final = 8080
PORTS_TRIED: Final = 50
SOCKET_PATH_LIMIT: Final = 90
"""A Unix socket's path has at most 104 bytes on macOS, 108 on Linux."""


@contextmanager
def listening_at(host: str, port: int | None) -> Iterator[socket.socket]:
    """Bind the service's address, so that nobody takes it while the rest starts.

    Raises:
        SettingsError: The requested port is taken.
    """
    wanted = [port] if port is not None else [*range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED), 0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in wanted:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen()
        except OSError as taken:
            listener.close()
            if port is not None:
                raise SettingsError(
                    [f"port {port} of {host} cannot be used ({taken.strerror}): name another"]
                ) from taken
            continue
        with listener:
            yield listener
        return
    raise SettingsError([f"no free port on {host}"])


@contextmanager
def socket_folder(data: Path) -> Iterator[Path]:
    """Create the folder of the hand-off sockets: next to the data, or elsewhere if that path is too long."""
    folder = data / "run"
    if len(str(folder).encode()) > SOCKET_PATH_LIMIT - len("/relay-99.sock"):
        with tempfile.TemporaryDirectory(prefix="turnkeeper-") as short:
            yield Path(short)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def shown(path: Path) -> str:
    """Return the shortest form of a path that is valid here."""
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
