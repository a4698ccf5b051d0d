"""The figures of all processes of a service on one host: one page per process, in a folder that they share.

A page is a small file in memory that its process maps and keeps locked. The kernel releases the lock however the
process ends, so nobody has to trust a process id. What a dead process counted is added to `gone`, so no counter goes
backwards; its gauges are forgotten with it.
"""

import fcntl
import json
import logging
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final
from uuid import uuid4

from shared.metrics.registry import PLACES, SIZE, Figures
from shared.metrics.table import METRICS, Kind, Service

_log = logging.getLogger("turnkeeper.metrics")

_BYTES: Final = 8 * SIZE
_LAYOUT: Final = sha256(
    repr([(m.name, m.labels, m.series, m.buckets) for m in METRICS]).encode()
).hexdigest()[:12]
"""A page of another version has another layout and is left out of every sum."""
_SUFFIX: Final = f".{_LAYOUT}.page"
_GONE: Final = "gone.json"
_LOCK_SECONDS: Final = 2.0
"""Whoever holds the folder's lock reads a few files of 3 KB."""
_LOCK_PAUSE_SECONDS: Final = 0.002


class PagesError(OSError):
    """The folder cannot be used."""


@dataclass(frozen=True, slots=True)
class Sum:
    """The figures of a service.

    Args:
        values: As in a `Registry`; counters include those of processes that have ended.
        processes: How many processes keep figures now.
    """

    values: "array[float]"
    processes: int


def folder_of(port: int, service: Service) -> Path:
    """Return the folder where this user's processes keep a service's figures, in memory where possible."""
    shared_memory = Path("/dev/shm")  # noqa: S108 -- the folder below must be this user's alone, or it is not used
    top = shared_memory if os.access(shared_memory, os.W_OK) else Path(tempfile.gettempdir())
    return top / f"turnkeeper-metrics-{os.geteuid()}-{port}" / service.value


class Pages:
    """A service's folder.

    Args:
        folder: Created if it is missing, for this user alone.

    Raises:
        PagesError: The folder is another user's, or cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[int, mmap.mmap] | None = None
        for each in (folder.parent, folder):
            _make(each)

    def open(self) -> Figures:
        """Return this process's own page, all zeros. Call it in the process that counts, not before a fork."""
        assert self._own is None
        with self._locked():
            path = self._folder / f"{uuid4().hex}{_SUFFIX}"
            page = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.ftruncate(page, _BYTES)
            fcntl.flock(page, fcntl.LOCK_EX)
        memory = mmap.mmap(page, _BYTES)
        self._own = (page, memory)
        return memoryview(memory).cast("d")

    def total(self) -> Sum:
        """Add up all pages.

        Raises:
            PagesError: The folder could not be locked in time.
            OSError: The folder cannot be read.
        """
        with self._locked():
            return self._total()

    def _total(self) -> Sum:
        gone = self._gone()
        folded = set(gone["folded"])
        total = array("d", bytes(_BYTES))
        of_gone = array("d", (gone["figures"].get(name, 0.0) for name in _NAMES))
        dead: list[Path] = []
        processes = 0
        for path in sorted(self._folder.glob("*.page")):
            if path.name in folded or not path.name.endswith(_SUFFIX):
                _forget(path)
                continue
            values, is_alive = _read(path)
            if is_alive:
                _add(total, values)
                processes += 1
            else:
                _add(of_gone, values)
                dead.append(path)
        if dead:
            self._fold(of_gone, dead)
        for place in _RISING:
            total[place] += of_gone[place]
        return Sum(total, processes)

    def _gone(self) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = json.loads((self._folder / _GONE).read_text())
        except FileNotFoundError:
            return {"folded": [], "figures": {}}
        except ValueError:
            _log.warning("what ended processes counted cannot be read: it begins again")
            return {"folded": [], "figures": {}}
        return found

    def _fold(self, of_gone: "array[float]", dead: list[Path]) -> None:
        """Keep what dead processes counted; if the writer is killed halfway, they are still counted once."""
        figures = {name: of_gone[place] for name, place in _NAMES.items() if place in _RISING}
        fresh = self._folder / f"{_GONE}.new"
        fresh.write_text(json.dumps({"folded": [path.name for path in dead], "figures": figures}))
        fresh.replace(self._folder / _GONE)
        for path in dead:
            _forget(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(lock)
            yield
        finally:
            os.close(lock)


def _names() -> dict[str, int]:
    names: dict[str, int] = {}
    for (metric, labels), place in PLACES.items():
        for number in range(metric.width):
            names["|".join((metric.name, *labels, str(number)))] = place + number
    return names


_NAMES: Final = _names()
_RISING: Final = frozenset(
    place + number
    for (metric, _), place in PLACES.items()
    if metric.kind is not Kind.GAUGE
    for number in range(metric.width)
)


def _make(folder: Path) -> None:
    """Create a folder that nobody else can write to; an existing one must already be such a folder.

    Raises:
        PagesError: It is not, or cannot be created.
    """
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError as failed:
        raise PagesError(f"{folder} cannot be made: {failed.strerror}") from failed
    if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PagesError(f"{folder} must be a folder that only this user can open")


def _lock(lock: int) -> None:
    until = monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if monotonic() > until:
                raise PagesError("the folder of the figures is locked") from None
            sleep(_LOCK_PAUSE_SECONDS)


def _read(path: Path) -> "tuple[array[float], bool]":
    """Return a page and whether its process is alive."""
    page = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(page, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alive = False
        except BlockingIOError:
            is_alive = True
        content = os.read(page, _BYTES)
    finally:
        os.close(page)
    # A process that was killed before it had extended its page had counted nothing.
    return array("d", content.ljust(_BYTES, b"\0")), is_alive


def _add(total: "array[float]", values: "array[float]") -> None:
    for place, value in enumerate(values):
        if value:
            total[place] += value


def _forget(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
