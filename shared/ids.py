"""Identifiers: UUIDv7, so that rows of the same time are neighbours in an index."""

from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["first_id_of", "new_id", "parse_id"]


def new_id() -> UUID:
    """Return a new UUIDv7 (RFC 9562 section 5.7)."""
    return uuid7()


def first_id_of(moment: datetime) -> UUID:
    """Return an id that sorts before every UUIDv7 made at `moment` or later, to the millisecond."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


def parse_id(text: str) -> UUID | None:
    """Return the id that `text` spells in its canonical form, or None for anything else.

    `uuid.UUID` also accepts braces, URNs and missing dashes. Two spellings of one id would be two cache keys
    and two Redis names, so only the canonical one is accepted here.
    """
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text else None
