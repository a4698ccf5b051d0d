"""Reads a `.env` file: `NAME=value` lines, as people write them for a shell and for Docker."""

import codecs
import re
from pathlib import Path
from typing import Final

from shared.errors import SettingsError

_LINE: Final = re.compile(
    r"""^\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
        (?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>.*?))\s*(?:(?<=\s)\#.*)?$""",
    re.VERBOSE,
)

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
"""Those of any system; `str.splitlines` also splits at characters that a value may contain."""


def parse_dotenv(text: str) -> dict[str, str]:
    """Return the variables of a `.env` file.

    Values may be quoted; ` #` begins a comment. Nothing is expanded or unescaped.

    Raises:
        SettingsError: A line is neither blank, a comment nor an assignment, or its quotes
            do not match; its value is not repeated.
    """
    values: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(_LINE_END.split(text), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.match(line)
        if found is None:
            problems.append(f".env line {number} is not of the form NAME=value: mend or remove it")
            continue
        if (found["plain"] or "").startswith(('"', "'")):
            problems.append(f".env line {number} has a quote that does not end with the value: mend it")
            continue
        values[found["name"]] = next(
            part for part in (found["double"], found["single"], found["plain"], "") if part is not None
        )
    if problems:
        raise SettingsError(problems)
    return values


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the variables of a file; none if it does not exist.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise SettingsError([f"{path} is in UTF-16: save it as UTF-8"])
        if b"\0" in content:
            raise SettingsError([f"{path} holds NUL, as text in UTF-16 does: save it as UTF-8"])
        return parse_dotenv(content.decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as unreadable:
        raise SettingsError(
            [f"{path} cannot be read ({unreadable.__class__.__name__}): mend it"]
        ) from unreadable
