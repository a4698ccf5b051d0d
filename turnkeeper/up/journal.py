"""The children's logs: bounded files, whose warnings are shown on the terminal.

Each child writes its file itself, so a log costs the supervisor nothing and a stuck terminal stops nobody.
The file is opened for appending, so it may be truncated while the child writes.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Of one log; together with its predecessor a process keeps at most twice this."""
READ_BYTES: Final = 64 * 1024
"""How much is read at a time; the rest of a flood is skipped, and stays in the file."""
LINE_LIMIT: Final = 200
SHOWN_PER_PERIOD: Final = 10
PERIOD_SECONDS: Final = 10.0
SHOWN_LEVELS: Final = frozenset({"warning", "error", "critical"})


class Journal:
    """Follows one log file."""

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        self._read_to = path.stat().st_size if path.exists() else 0
        self._period_ends_at = 0.0
        self._shown = 0

    def news(self) -> Iterator[str]:
        """Yield what a person should see of the lines since the last call, shortened and bounded."""
        for line in self._new_lines():
            warning = warning_of(line)
            if warning is not None and self._may_show():
                yield f"{self._name}: {warning}"
        self._rotate()

    def _new_lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                size = self._path.stat().st_size
                # Smaller than before: it was truncated. Much larger: only its end is of interest.
                start = 0 if size < self._read_to else max(self._read_to, size - READ_BYTES)
                file.seek(start)
                whole, _, _ = file.read(READ_BYTES).rpartition(b"\n")
        except OSError:  # it is not there yet, or no open files are left: the next call reads it
            return []
        if not whole:
            return []
        self._read_to = start + len(whole) + 1
        return whole.decode(errors="replace").splitlines()

    def _may_show(self) -> bool:
        now = time.monotonic()
        if now >= self._period_ends_at:
            self._period_ends_at, self._shown = now + PERIOD_SECONDS, 0
        self._shown += 1
        return self._shown <= SHOWN_PER_PERIOD

    def _rotate(self) -> None:
        with suppress(OSError):  # on a full disk it grows on: the next call tries again
            if self._path.stat().st_size > LIMIT_BYTES:
                shutil.copyfile(self._path, self._path.with_suffix(".log.1"))
                with self._path.open("r+b") as file:
                    file.truncate(0)
                self._read_to = 0


def warning_of(line: str) -> str | None:
    """Return what to show of a log line; None unless it is one of ours and at least a warning."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or str(record.get("level", "")).lower() not in SHOWN_LEVELS:
        return None
    said = record.get("message") or record.get("event") or line
    return f"{str(record['level']).lower()}: {said}"[:LINE_LIMIT]
