"""What any process writes that a test starts is searched at its end for secrets and content (I10).

`subprocess.Popen` itself is replaced for the tests' process, so that no fixture can forget it: a file that a child
writes to is searched when it was waited for, what goes to /dev/null goes to such a file, and what comes through a pipe
is searched where `run` or `communicate` reads it, or by `search_rest`. A service is searched with all logs in its data
folder.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tests.marks import banner_of, leaks, leaks_in_files, secrets_of

HEARD: list[str] = []
"""Leaks that no test was told of yet."""
WRITTEN = ("logs/*", "*/server.log", "traces/*")
"""Where in its data folder a service writes. The spans of a test's exporter belong into `traces/`."""
FOLDERS = ("--data", "-p")
"""Arguments before a folder with logs: of a service, and of nginx."""

_Popen = subprocess.Popen


class SearchedPopen(_Popen):
    """A child whose output is searched once, when it has ended."""

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        self._is_searched = False
        self._environ = dict(options.get("env") or os.environ)
        self._folder = _folder_of(args, options.get("cwd"))
        self._files, self._ours = [], []
        with ExitStack() as opened:
            for stream in ("stdout", "stderr"):
                target = options.get(stream)
                if target == subprocess.DEVNULL:
                    target = options[stream] = opened.enter_context(
                        tempfile.NamedTemporaryFile("wb", prefix="tk-output-", delete=False)
                    )
                    self._ours.append(Path(target.name))
                # A terminal, a pipe and what is not redirected have no name that is a file's.
                name = getattr(target, "name", None)
                self._files += [Path(name).absolute()] if isinstance(name, str) else []
            super().__init__(args, *more, **options)

    def wait(self, timeout: float | None = None) -> int:
        status = super().wait(timeout)
        self._search()
        return status

    def poll(self) -> int | None:
        status = super().poll()
        if status is not None:
            self._search()
        return status

    def communicate(self, *more: Any, **options: Any) -> tuple[Any, Any]:
        said, complained = super().communicate(*more, **options)
        # What a command prints is for who asked for it, who may be shown content.
        for text, may_have_content in ((said, True), (complained, False)):
            decoded = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
            self._hear(leaks(decoded, secrets_of(self._environ, ""), content=not may_have_content))
        return said, complained

    def _search(self) -> None:
        if self._is_searched:
            return
        self._is_searched = True
        self._hear(leaks_in_outputs(self._files, self._folder, self._environ))
        for path in self._ours:
            path.unlink(missing_ok=True)

    def _hear(self, found: Iterable[str]) -> None:
        HEARD.extend(f"{' '.join(map(str, _words(self.args)))[:200]}: {leak}" for leak in found)


def search_children() -> None:
    """Have every process searched that this process starts from now on."""
    subprocess.Popen = SearchedPopen


def leaks_in_outputs(files: Iterable[Path], folder: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Return the leaks in what a process and its children wrote.

    Args:
        files: Where its own output went.
        folder: Its data folder, or nginx' folder; None where it has none.
        environ: Its environment variables.
    """
    found = set(files)
    known, shown = secrets_of(environ, ""), []
    if folder is not None:
        found |= {path for pattern in (*WRITTEN, "*.log") for path in folder.glob(pattern)}
        known += [path.read_text().strip() for path in folder.glob("*/*password")]
        with suppress(OSError):
            keys = (folder / "keys.json").read_text()
            known += secrets_of({}, keys)
            shown = banner_of(keys)
    return leaks_in_files(sorted(path for path in found if path.is_file()), known, shown=shown)


def leaks_in_sections(sections: Iterable[tuple[str, str]]) -> list[str]:
    """Return the leaks in what was captured; what was logged is heard by the listener, as the product writes it."""
    return leaks("\n".join(text for title, text in sections if "log" not in title))


def search_rest(child: subprocess.Popen[str]) -> None:
    """Search what is left in the pipes of a child that has ended, which a fixture did not read."""
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            HEARD.extend(leaks(pipe.read()))


def taken(heard: list[str]) -> list[str]:
    """Return what was heard, which is then told."""
    found = heard[:]
    heard.clear()
    return found


def _words(args: Any) -> Sequence[Any]:
    return [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)


def _folder_of(args: Any, folder: Any) -> Path | None:
    words = [os.fspath(word) if isinstance(word, os.PathLike) else word for word in _words(args)]
    for name in FOLDERS:
        if name in words[:-1]:
            return Path(folder or ".").resolve() / str(words[words.index(name) + 1])
    return None
