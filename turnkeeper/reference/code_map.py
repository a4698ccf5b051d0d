"""The map of the code in docs/ARCHITECTURE.md: every module with the first paragraph of its docstring."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDERS: Final = ("api", "worker", "shared", "turnkeeper")
BEGIN: Final = "<!-- map: written by `python -m turnkeeper.reference` from the modules' docstrings -->\n"
END: Final = "<!-- /map -->"
_NO_MODULES: Final = frozenset({"versions", "__pycache__"})
"""Migrations are files that alembic runs by number."""


def with_map(page: str, root: Path) -> str:
    """Return the page with the map of the current tree between its marks.

    Raises:
        ValueError: The page has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError("docs/ARCHITECTURE.md has no place for the map: put its two marks back")
    parts = [line for folder in FOLDERS for line in _folder(root / folder, root)]
    return f"{before}{BEGIN}{''.join(parts)}\n{END}{after}"


def _folder(folder: Path, root: Path) -> Iterator[str]:
    """Describe one folder, then the folders below it."""
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    if modules:
        yield f"\n### `{folder.relative_to(root)}/`\n\n{_first_sentence(folder / '__init__.py')}\n"
        yield "\n| module | |\n| --- | --- |\n"
        for module in modules:
            yield f"| `{module.relative_to(root)}` | {_first_sentence(module)} |\n"
    for below in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in _NO_MODULES):
        yield from _folder(below, root)


def _first_sentence(module: Path) -> str:
    if not module.exists():
        return ""
    said = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(said.partition("\n\n")[0].split()).replace("|", "\\|")
