"""nginx with the configuration from deploy/, on other addresses: an ordinary process with a folder of its own."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.documents import allotted
from tests.ports import free_port

__all__ = [
    "LIMIT_SECONDS",
    "MISSING",
    "PROGRAM",
    "ROOT",
    "await_listening",
    "configuration",
    "free_port",
    "running_nginx",
]

ROOT = Path(__file__).parents[1]
GROUPS, TLS = allotted("tests/integration/test_nginx.py")
"""From the how-to page: groups of several processes, and the lines for TLS."""
LIMIT_SECONDS = 60.0
PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MISSING = "nginx is not installed here: apt-get install nginx-light"


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """Return the text with each of these replaced; one that is missing is a mistake."""
    for ours, here in changes:
        assert ours in text, ours
        text = text.replace(ours, here)
    return text


def configuration(port: int, web: Sequence[int], relay: Sequence[int], *changes: tuple[str, str]) -> str:
    """Return the file as it is, with the page's groups of several processes, on these ports."""
    ours = {8080: web[0], 8082: web[-1], 8081: relay[0], 8083: relay[-1]}
    groups = replaced(
        GROUPS.take(), *((f"127.0.0.1:{one} ", f"127.0.0.1:{here} ") for one, here in ours.items())
    )
    maps = re.search(
        r'    map "" \$web .*?resolver [^\n]*\n',
        text := (ROOT / "deploy" / "nginx.conf").read_text(),
        re.DOTALL,
    )
    return replaced(
        text,
        (maps[0], groups),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("worker_processes auto", "worker_processes 1"),
        ("/tmp/", "temporary/"),
        ("/dev/stdout", "access.log"),
        ("/dev/stderr", "error.log"),
        *changes,
    )


@contextlib.contextmanager
def running_nginx(folder: Path, port: int, text: str) -> Iterator[subprocess.Popen]:
    """Run nginx in a folder that receives its files; it has ended when the context has."""
    (folder / "temporary").mkdir()
    folder.chmod(0o755)
    (folder / "nginx.conf").write_text(text)
    command = [PROGRAM or "", "-p", str(folder), "-c", "nginx.conf", "-g", "daemon off; user root;"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        await_listening(port, process, folder / "output")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_SECONDS)


def await_listening(
    port: int, process: subprocess.Popen, output: Path, limit_seconds: float = LIMIT_SECONDS
) -> None:
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        else:
            return
