"""A program in a terminal: types as a person does, Ctrl-C included, and reads what that person would see."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_SECONDS = 120.0
CTRL_C, CTRL_D = "\x03", "\x04"
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """A terminal; `shown` is its output so far, without colours."""

    def __init__(self, process: subprocess.Popen, side: int) -> None:
        self.process = process
        self._side = side
        self._bytes = b""

    @property
    def shown(self) -> str:
        return _CONTROLS.sub("", self._bytes.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._side, text.encode())

    def await_text(self, pattern: str, begin: int = 0) -> re.Match[str]:
        """Wait until the output after a position matches a pattern; return the match."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (found := re.compile(pattern, re.MULTILINE).search(self.shown, begin)):
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.shown[begin:]!r}"
            assert self._read(1.0), f"it ended without {pattern!r}: {self.shown[begin:]!r}"
        return found

    def await_end(self) -> int:
        """Wait until the program has ended; return its exit code."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self._read(1.0):
            assert time.monotonic() < deadline, f"it does not end: {self.shown!r}"
        return self.process.wait(LIMIT_SECONDS)

    def _read(self, limit_seconds: float) -> bool:
        """Read the output that is there; False once the other side is closed."""
        if select.select([self._side], [], [], limit_seconds)[0]:
            try:
                read = os.read(self._side, 1 << 16)
            except OSError:  # on Linux: the other side is closed
                return False
            self._bytes += read
            return bool(read)
        return True


@contextmanager
def terminal(line: str, folder: Path, environ: dict[str, str]) -> Iterator[Terminal]:
    """Run a shell line in a separate terminal; it has ended when the context has."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            # Ctrl-C is a signal only in the terminal that controls its session.
            ["setsid", "--ctty", "--wait", "bash", "-eu", "-c", line],
            cwd=folder,
            env={**environ, "TERM": "xterm", "COLUMNS": "200"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            process_group=0,
        )
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(LIMIT_SECONDS)
    finally:
        os.close(ours)  # processes still running in it get a hangup
