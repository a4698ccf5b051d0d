"""Whatever the processes write that tests start is searched for secrets and content when they end (I10).

`subprocess.Popen` itself is replaced in the tests' process, so that no fixture can forget it: a file that a child
writes to is searched after the child was waited for, output to /dev/null goes to such a file instead, and output
through a pipe is searched where `run` or `communicate` reads it, or by `search_rest`. For a service, all logs in its
data folder are searched.
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
"""Leaks that have not been reported to a test yet."""
WRITTEN = ("logs/*", "*/server.log", "traces/*")
"""Where a service writes in its data folder. The spans of a test's exporter belong in `traces/`."""
FOLDERS = ("--data", "-p")
"""Arguments that precede a folder with logs: of a service, and of nginx."""

_Popen = subprocess.Popen


class SearchedPopen(_Popen):
    """A child whose output is searched once, after it has ended."""

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
                # The name of a terminal, a pipe or an unredirected stream is not a file's.
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
        # A command prints for the person who ran it, who may be shown content.
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
    """Search every process that this process starts from now on."""
    subprocess.Popen = SearchedPopen


def leaks_in_outputs(files: Iterable[Path], folder: Path | None, environ: Mapping[str, str]) -> list[str]:
    """Return the leaks in what a process and its children wrote.

    Args:
        files: The files that its own output went to.
        folder: Its data folder, or nginx's folder; None if it has none.
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
    """Return the leaks in captured output; the listener receives what was logged, as the product writes it."""
    return leaks("\n".join(text for title, text in sections if "log" not in title))


def search_rest(child: subprocess.Popen[str]) -> None:
    """Search what is left in the pipes of a child that has ended, if a fixture did not read them."""
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            HEARD.extend(leaks(pipe.read()))


def taken(heard: list[str]) -> list[str]:
    """Return the leaks so far, and mark them as reported."""
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
