"""What PostgreSQL's refusals mean, by SQLSTATE.

The codes are those of PostgreSQL's documentation, appendix A. A server that answers "not now" or "not here" is treated
as one that is away: whoever gets such an answer drops the connection, and goes on later.
"""

from typing import Final

import psycopg
from psycopg import pq
from sqlalchemy.exc import DBAPIError

from shared.errors import ConflictError, NotServingError, UnavailableError

STATEMENT_ERRORS: Final = (DBAPIError, psycopg.Error)
"""What a statement raises that is wrong, or is refused for a reason that no list knows."""
_CLASS: Final = 2
_NOT_SERVING: Final = frozenset(
    {
        "08",  # the connection broke
        "28",  # the login is refused
        "53",  # no memory, no disk, no connection left
        "57P01",  # it is shutting down
        "57P02",  # another of its processes crashed
        "57P03",  # it is starting, or recovering
        "57P04",  # the database was dropped
        "57P05",  # this connection was idle for too long
        "58",  # its disk fails
        "XX",  # it is damaged
        "F0",  # its configuration cannot be read
        "25006",  # it is read-only: a standby, or a primary that was told to be
        "25P02",  # this transaction had failed before, unseen
        "25P03",  # this transaction was idle for too long
        "25P04",  # this transaction took too long
        "26000",  # it does not know a statement that was prepared: a pooler lends another connection
        "42P05",  # it knows a statement already that is prepared: likewise
        "0A000",  # a plan no longer fits the tables, which were changed meanwhile
        "40003",  # nobody knows whether the statement was completed
        "42501",  # our role may not, or no longer: rights are being changed, or the server is another
        "3D000",  # it has not our database
        "3F000",  # it has not our schema: it is another server, or is being restored
        "42P01",  # likewise for a table
        "42703",  # likewise for a column
        "42883",  # likewise for a function
    }
)
"""Codes and whole classes of them: this server, or this connection to it, does not serve us now."""
_GIVES_WAY: Final = frozenset({"40001", "40P01"})
"""A serialization failure or a deadlock: the same transaction may succeed when it is tried again."""
_LATE: Final = frozenset({"57014", "55P03", "55006"})
"""A limit of time ended the statement, or something it needs is in use; the connection is good."""


def refusal_of(error: BaseException) -> UnavailableError | None:
    """Return what a statement's error means if it says nothing of the statement; None if the statement is wrong.

    Args:
        error: Of the driver, or SQLAlchemy's around it.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return None
    refusal = refusal_by(cause.sqlstate)
    if refusal is None and isinstance(cause, psycopg.OperationalError):
        # Without a code: the connection could not be made, or ended.
        return UnavailableError("the database cannot be reached or did not answer in time")
    return refusal


def refusal_by(sqlstate: str | None) -> UnavailableError | None:
    """Return what a code means; None if it says nothing of the server."""
    if sqlstate is None:
        return None
    if sqlstate in _NOT_SERVING or sqlstate[:_CLASS] in _NOT_SERVING:
        return NotServingError(f"the database does not serve us now (SQLSTATE {sqlstate})")
    if sqlstate in _GIVES_WAY:
        return ConflictError(f"the transaction had to give way to another (SQLSTATE {sqlstate})")
    if sqlstate in _LATE:
        return UnavailableError("the database cannot be reached or did not answer in time")
    return None


def sqlstate_of(result: "pq.abc.PGresult") -> str | None:
    """Return the code of a result that is an error."""
    code = result.error_field(pq.DiagnosticField.SQLSTATE)
    return None if code is None else code.decode("ascii", "replace")
