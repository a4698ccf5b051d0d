"""Removes the content of sessions that ended long ago; the record of what happened and what it cost stays.

It works in small batches, each in its own transaction, so that it can be interrupted anywhere and holds up nothing.
"""

import logging
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from shared.postgres import rows

_log = logging.getLogger("turnkeeper.retention")

_MOST_SESSIONS: Final = 50
"""In one transaction, and no more turns than the function's own bound."""
_DAY_SECONDS: Final = 86_400
_FORGET: Final = text("select sessions, messages from turnkeeper.forget_sessions(:older_than_seconds, :most)")


@dataclass(frozen=True, slots=True)
class _Forgotten:
    """How much was removed."""

    sessions: int
    messages: int


def forget_old_sessions(db: Connection, retention_days: int, most: int = _MOST_SESSIONS) -> int:
    """Remove the content of a batch of sessions that were closed or expired `retention_days` ago or earlier.

    Returns:
        How many sessions the batch had; 0 if none is left.
    """
    found = db.execute(_FORGET, {"older_than_seconds": retention_days * _DAY_SECONDS, "most": most})
    forgotten = rows.one(_Forgotten, found)
    if forgotten.sessions:
        _log.info(
            "the content of old sessions was removed",
            extra={"sessions": forgotten.sessions, "messages": forgotten.messages},
        )
    return forgotten.sessions
