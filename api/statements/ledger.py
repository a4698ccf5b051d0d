"""Reads rows of the ledger, newest first. No statement here changes it."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from api.cursors import TimeCursor
from shared.money.usage import ShownTokens
from shared.postgres.rows import columns
from shared.postgres.schema import has_money
from shared.postgres.statement import Statement

_BEFORE_ALL: Final = "-infinity"
_AFTER_ALL: Final = "infinity"
_LARGEST_ID: Final = UUID(int=2**128 - 1)

# By the day that paid, so that sums match the budgets'. A row is written on that day or, if the turn began before
# midnight or waited long behind others, some time later; the index knows only when it was written.
IS_WITHIN: Final = """
    {row}.day between cast(:first_day as date) and cast(:last_day as date)
    and {row}.created_at >= cast(:first_day as timestamp) at time zone 'UTC'
    and {row}.created_at < (cast(:last_day as timestamp) + interval '8 days') at time zone 'UTC'
"""
"""A condition on the ledger's row `{row}`; both days are included."""

# Rows of one session or turn are found by the turns' index, since the ledger's is by time. The planner has no
# choice here, so a page of a large ledger never becomes a search through all of it.
_OF_SESSION: Final = """(
    select * from turnkeeper.ledger
    where organization_id = :organization_id and turn_id = any(array(
        select id from turnkeeper.turns where organization_id = :organization_id and session_id = :session_id))
    offset 0)"""
_OF_TURN: Final = """(
    select * from turnkeeper.ledger where organization_id = :organization_id and turn_id = :turn_id offset 0)"""


@dataclass(frozen=True, slots=True)
class LedgerEntry(ShownTokens):
    """What an attempt cost, or what was corrected of it.

    Args:
        reported: The provider's own figures, where they are not billed as they are or contradict each other.
        correction: 0 for what an attempt used; the number of a correction, whose figures are to be added to it.
        corrects: The row that a correction corrects.
    """

    id: UUID
    turn_id: UUID
    session_id: UUID
    user_name: str
    attempt: int
    provider: str
    model: str
    cache_write_1h_tokens: int
    usage_source: str
    price: dict[str, Any]
    cost_usd: Decimal
    day: date
    created_at: datetime
    reported: dict[str, int] | None = None
    correction: int = 0
    corrects: UUID | None = None
    reason: str | None = None
    corrected_by: str | None = None
    corrected_at: datetime | None = None

    def is_correction(self) -> bool:
        """Return whether the row corrects another one."""
        return self.correction > 0


_OF_CORRECTIONS: Final = frozenset(
    {"reported", "correction", "corrects", "reason", "corrected_by", "corrected_at"}
)


def _rows_from(source: str, *, without: frozenset[str] = frozenset()) -> Statement[LedgerEntry]:
    """Return the statement; its bounds are never null, so that they are index conditions."""
    return Statement(
        f"""
        select {columns(LedgerEntry, "l", without=without)}
        from {source} as l
        where l.organization_id = :organization_id
          and (l.created_at, l.id) < (cast(:before_at as timestamptz), cast(:before_id as uuid))
          and {IS_WITHIN.format(row="l")}
          and (cast(:user_name as text) is null or l.user_name = :user_name)
          and (cast(:model as text) is null or l.model = :model)
          and (cast(:usage_source as text) is null or l.usage_source = :usage_source)
          and (cast(:session_id as uuid) is null or l.session_id = :session_id)
          and (cast(:turn_id as uuid) is null or l.turn_id = :turn_id)
        order by l.created_at desc, l.id desc limit :most
        """,
        LedgerEntry,
    )


_LEDGER: Final = "turnkeeper.ledger"
_ROWS: Final = MappingProxyType({source: _rows_from(source) for source in (_LEDGER, _OF_SESSION, _OF_TURN)})
_ROWS_BEFORE: Final = MappingProxyType(
    {source: _rows_from(source, without=_OF_CORRECTIONS) for source in _ROWS}
)
"""On the schema before migration 0005, which has no corrections."""


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """The rows to read; None is no condition. Days are those that paid, in UTC, and both are included."""

    user: str | None = None
    session_id: UUID | None = None
    turn_id: UUID | None = None
    model: str | None = None
    usage_source: str | None = None
    first_day: date | None = None
    last_day: date | None = None


def ledger_rows(
    db: Connection, organization_id: UUID, meant: LedgerFilter, *, before: TimeCursor | None, most: int
) -> Sequence[LedgerEntry]:
    """Return rows past `before`, newest first."""
    if meant.turn_id is not None:
        source = _OF_TURN
    elif meant.session_id is not None:
        source = _OF_SESSION
    else:
        source = _LEDGER
    statement = (_ROWS if has_money(db) else _ROWS_BEFORE)[source]
    parameters = {
        "organization_id": organization_id,
        "before_at": before.at.isoformat() if before else _AFTER_ALL,
        "before_id": before.id if before else _LARGEST_ID,
        "first_day": meant.first_day.isoformat() if meant.first_day else _BEFORE_ALL,
        "last_day": meant.last_day.isoformat() if meant.last_day else _AFTER_ALL,
        "user_name": meant.user,
        "model": meant.model,
        "usage_source": meant.usage_source,
        "session_id": meant.session_id,
        "turn_id": meant.turn_id,
        "most": most,
    }
    return statement.all(db, parameters)
