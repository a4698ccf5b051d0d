"""Lists the JavaScript modules that a page needs at its start, so that the browser fetches them all at once.

Without the list the browser learns of a module only once it has read the one that imports it: one wait for each level
of the tree. The list is made from the files' own imports, so that it cannot fall behind them.
"""

import posixpath
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

_MOST_FILES: Final = 256
"""More files than the page has; an edited file counts twice."""
_IMPORT: Final = re.compile(
    r"""^(?:import\s+(?:[\w$*{},\s]+\sfrom\s+)?|export\s+[\w$*{},\s]+\sfrom\s+)["'](\.[^"']+)["']""",
    re.MULTILINE,
)
"""An `import` or `export … from` of a file. An `import()`, which is fetched later, never starts a line."""


def modules_of(folder: Path, entry: str) -> list[str]:
    """Return all modules that `entry` needs before it runs, nearest first, without itself.

    Args:
        folder: The folder of the page's files; names are relative to it.
        entry: The name of the first module.

    Raises:
        FileNotFoundError: A module imports one that does not exist.
    """
    found = {entry: None}
    waiting = [entry]
    for name in waiting:
        file = folder / name
        new = [one for one in _imports(file, name, file.stat().st_mtime_ns) if one not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    return waiting[1:]


@lru_cache(maxsize=_MOST_FILES)
def _imports(file: Path, name: str, _changed_ns: int) -> tuple[str, ...]:
    targets = _IMPORT.findall(file.read_text(encoding="utf-8"))
    return tuple(
        dict.fromkeys(posixpath.normpath(posixpath.join(posixpath.dirname(name), at)) for at in targets)
    )
