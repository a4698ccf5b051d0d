"""Cursors of lists: where the last page ended, opaque to clients.

They name a position in the order, not a count, so rows that appear or disappear between two pages neither
repeat nor hide others.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from uuid import UUID

from shared.errors import ProblemCode, RefusedError
from shared.ids import parse_id

_LONGEST: Final = 1_200
"""A name of 200 characters, each of four bytes or escaped."""
_LARGEST: Final = 2**63 - 1
_UNSAFE: Final = re.compile("[\0\ud800-\udfff]")
"""The character that PostgreSQL accepts in no text."""


@dataclass(frozen=True, slots=True)
class TimeCursor:
    """A position in a list ordered by time: sessions by their last activity, or the ledger."""

    at: datetime
    id: UUID

    def encode(self) -> str:
        """Return the wire form."""
        return _encode([self.at.isoformat(), str(self.id)])

    @classmethod
    def decode(cls, text: str) -> "TimeCursor":
        """Read what `encode` wrote.

        Raises:
            RefusedError: `text` is not one of our cursors.
        """
        match _decode(text):
            case [str(moment), str(id_text)]:
                found = parse_id(id_text)
                try:
                    at = datetime.fromisoformat(moment)
                except ValueError:
                    raise _refused() from None
                if found is not None and at.tzinfo is not None:
                    return cls(at, found)
        raise _refused()


@dataclass(frozen=True, slots=True)
class NumberCursor:
    """A position in a numbered list: a session's messages or turns."""

    number: int

    def encode(self) -> str:
        """Return the wire form."""
        return _encode([self.number])

    @classmethod
    def decode(cls, text: str) -> "NumberCursor":
        """Read what `encode` wrote.

        Raises:
            RefusedError: `text` is not one of our cursors.
        """
        match _decode(text):
            case [int(number)] if not isinstance(number, bool) and 0 <= number <= _LARGEST:
                return cls(number)
        raise _refused()


@dataclass(frozen=True, slots=True)
class IdCursor:
    """A position in a list ordered by id, which is the order of creation."""

    id: UUID

    def encode(self) -> str:
        """Return the wire form."""
        return _encode([str(self.id)])

    @classmethod
    def decode(cls, text: str) -> "IdCursor":
        """Read what `encode` wrote.

        Raises:
            RefusedError: `text` is not one of our cursors.
        """
        match _decode(text):
            case [str(id_text)] if (found := parse_id(id_text)) is not None:
                return cls(found)
        raise _refused()


@dataclass(frozen=True, slots=True)
class NameCursor:
    """A position among groups ordered by name."""

    name: str

    def encode(self) -> str:
        """Return the wire form."""
        return _encode([self.name])

    @classmethod
    def decode(cls, text: str) -> "NameCursor":
        """Read what `encode` wrote.

        Raises:
            RefusedError: `text` is not one of our cursors.
        """
        match _decode(text):
            case [str(name)] if not _UNSAFE.search(name):
                return cls(name)
        raise _refused()


@dataclass(frozen=True, slots=True)
class DayCursor:
    """A position among days."""

    day: date

    def encode(self) -> str:
        """Return the wire form."""
        return _encode([self.day.isoformat()])

    @classmethod
    def decode(cls, text: str) -> "DayCursor":
        """Read what `encode` wrote.

        Raises:
            RefusedError: `text` is not one of our cursors.
        """
        match _decode(text):
            case [str(day)]:
                try:
                    return cls(date.fromisoformat(day))
                except ValueError:
                    raise _refused() from None
        raise _refused()


def _encode(parts: list[str | int]) -> str:
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(text: str) -> object:
    if len(text) > _LONGEST or not text.isascii():
        raise _refused()
    try:
        decoded: object = json.loads(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError, RecursionError):
        raise _refused() from None
    return decoded


def _refused() -> RefusedError:
    return RefusedError(
        ProblemCode.VALIDATION_FAILED,
        "the cursor is not one that this list gave: begin without one",
        errors=[{"pointer": "/query/cursor", "detail": "must be the `next_cursor` of an earlier page"}],
    )
