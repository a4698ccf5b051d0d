"""`turnkeeper ledger correct`: adds a row to the ledger that says what another one should have said.

The ledger is append only. A correction is the difference between what a row and its earlier corrections add up to and
what they should, so that repeating the command adds nothing. Only the owner can write one: the service bills.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.errors import SettingsError
from shared.ids import new_id
from shared.money.money import format_usd
from shared.money.price_table import read_price
from shared.money.usage import COLUMNS, SHOWN_COLUMNS, Usage
from shared.postgres.database import engine_for
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from turnkeeper.exits import FAILED
from turnkeeper.owner import organization

_LOCK_TIMEOUT: Final = "10s"
_SPENT_COLUMNS: Final = tuple(name for name in SHOWN_COLUMNS if name != "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger that can be corrected."""

    organization_id: UUID
    id: UUID
    turn_id: UUID
    session_id: UUID
    attempt: int
    provider: str
    model: str
    price: dict[str, Any]
    day: date


@dataclass(frozen=True, slots=True)
class _Sums(Usage):
    """What a row and its corrections add up to."""

    cost_usd: Decimal = Decimal(0)
    corrections: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a row is to say, with all of its corrections."""

    usage: Usage
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator wants a row to say; None leaves it as it is.

    Args:
        cost_usd: What it costs in all; None: what its tokens cost, if one of them is given.
        tokens: Tokens by the names of the ledger's columns.
    """

    cost_usd: Decimal | None
    tokens: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn of a row."""

    id: UUID


_FIND: Final = Statement(
    f"""
    select {columns(Row, "l")} from turnkeeper.ledger as l
    where (l.id = :row or l.turn_id = :row) and l.correction = 0
      and (cast(:organization as uuid) is null or l.organization_id = :organization)
    order by l.attempt
    """,
    Row,
)
# Turn, session, month, day: in the order in which a settlement locks them.
_LOCK_TURN: Final = Statement(
    """
    select t.id from turnkeeper.turns as t
    where t.organization_id = :organization_id and t.id = :turn_id for no key update
    """,
    _Turn,
)
_SUM: Final = Statement(
    f"""
    select {", ".join(f"sum(l.{name})::bigint as {name}" for name in COLUMNS)}, sum(l.cost_usd) as cost_usd,
        max(l.correction) as corrections
    from turnkeeper.ledger as l
    where l.organization_id = :organization_id and l.turn_id = :turn_id and l.attempt = :attempt
    """,
    _Sums,
)
_ADD: Final = text(
    f"""
    insert into turnkeeper.ledger (organization_id, id, turn_id, session_id, user_name, attempt, provider, model,
        {", ".join(COLUMNS)}, usage_source, price, cost_usd, day, created_at,
        correction, corrects, reason, corrected_by, corrected_at)
    select l.organization_id, :id, l.turn_id, l.session_id, l.user_name, l.attempt, l.provider, l.model,
        {", ".join(f":{name}" for name in COLUMNS)}, l.usage_source, l.price, :cost_usd, l.day, l.created_at,
        :correction, l.id, :reason, :corrected_by, clock_timestamp()
    from turnkeeper.ledger as l where l.organization_id = :organization_id and l.id = :row
    """
)
_ADD_TO: Final = tuple(
    text(
        f"""
        update turnkeeper.{table} set {", ".join(f"{name} = {name} + :{name}" for name in SHOWN_COLUMNS)},
            cost_usd = cost_usd + :cost_usd
        where organization_id = :organization_id and id = :{of}
        """
    )
    for table, of in (("turns", "turn_id"), ("sessions", "session_id"))
)
_ADD_TO_PERIOD: Final = text(
    f"""
    update turnkeeper.spend set {", ".join(f"{name} = {name} + :{name}" for name in _SPENT_COLUMNS)},
        spent_usd = spent_usd + :cost_usd
    where organization_id = :organization_id and period = :period
      and starts_on = date_trunc(:period, cast(:day as timestamp))::date
    """
)


def correct(
    url: str, org: str | None, named: UUID, wanted: Wanted, *, reason: str, who: str, asks: bool
) -> int:
    """Correct a row and print what was added.

    Args:
        url: The owner's login.
        org: Id or name of the row's organization; None for any.
        named: The row's id, or that of a turn with one row.
        wanted: What the row is to say.
        reason: Why, for whoever reads the ledger.
        who: Who corrects it.
        asks: Whether to ask for confirmation at the terminal first.

    Raises:
        SettingsError: There is no such row, several are meant, or the row cannot say that.
    """
    only = None if org is None else organization(url, org)
    engine = engine_for(url)
    try:
        with engine.begin() as db:
            db.execute(text(f"set local lock_timeout = '{_LOCK_TIMEOUT}'"))
            row = _the_row(_FIND.all(db, {"row": named, "organization": only}), named)
            sums, bill = _bill(db, row, wanted)
            if _difference(sums, bill) == Bill(Usage(), Decimal(0)):
                print(f"ledger row {row.id} says so already: {_in_words(bill)}")
                return 0
            print(f"ledger row {row.id} (turn {row.turn_id}, attempt {row.attempt}, {row.day}, {row.model})")
            print(f"says:        {_in_words(Bill(_usage_of(sums), sums.cost_usd))}")
            print(f"is to say:   {_in_words(bill)}")
        # No lock is held while somebody reads: what changes meanwhile is read again.
        if asks and not _confirmed():
            print("turnkeeper: nothing was corrected", file=sys.stderr)
            return FAILED
        with engine.begin() as db:
            db.execute(text(f"set local lock_timeout = '{_LOCK_TIMEOUT}'"))
            _LOCK_TURN.one(db, {"organization_id": row.organization_id, "turn_id": row.turn_id})
            sums, bill = _bill(db, row, wanted)
            added = _difference(sums, bill)
            if added == Bill(Usage(), Decimal(0)):
                print("it says so already")
                return 0
            correction_id = _write(db, row, added, sums.corrections + 1, reason, who)
    finally:
        engine.dispose()
    print(f"added:       {_in_words(added)} as row {correction_id}")
    return 0


def _the_row(found: Sequence[Row], named: UUID) -> Row:
    if not found:
        raise SettingsError([f"{named} is no row of the ledger that an attempt wrote, and no turn with one"])
    if len(found) > 1:
        rows = ", ".join(f"{row.id} (attempt {row.attempt})" for row in found)
        raise SettingsError([f"turn {named} has several rows; name one of them: {rows}"])
    return found[0]


def _bill(db: Connection, row: Row, wanted: Wanted) -> tuple[_Sums, Bill]:
    """Return what the row adds up to, and what it is to say.

    Raises:
        SettingsError: A part would be more than its whole.
    """
    of_row = {"organization_id": row.organization_id, "turn_id": row.turn_id, "attempt": row.attempt}
    sums = _SUM.one(db, of_row)
    usage = replace(_usage_of(sums), **wanted.tokens)
    for part, whole in (
        ("reasoning_tokens", "output_tokens"),
        ("cache_write_1h_tokens", "cache_write_tokens"),
    ):
        if getattr(usage, part) > getattr(usage, whole):
            if part in wanted.tokens:
                raise SettingsError([f"{part} are part of {whole}: there cannot be more of them"])
            usage = replace(usage, **{part: getattr(usage, whole)})
    if wanted.cost_usd is not None:
        return sums, Bill(usage, wanted.cost_usd)
    price = read_price(row.price)
    if price is None:
        raise SettingsError(["the row's price cannot be read: name its cost with --usd"])
    return sums, Bill(usage, price.cost(usage))


def _usage_of(sums: _Sums) -> Usage:
    return Usage(**{field.name: getattr(sums, field.name) for field in fields(Usage)})


def _difference(sums: _Sums, bill: Bill) -> Bill:
    usage = Usage(**{name: getattr(bill.usage, name) - getattr(sums, name) for name in COLUMNS})
    return Bill(usage, bill.cost_usd - sums.cost_usd)


def _write(db: Connection, row: Row, added: Bill, number: int, reason: str, who: str) -> UUID:
    correction_id = new_id()
    figures = {name: getattr(added.usage, name) for name in COLUMNS}
    names = {
        "organization_id": row.organization_id,
        "turn_id": row.turn_id,
        "session_id": row.session_id,
        "row": row.id,
        **figures,
        "cost_usd": added.cost_usd,
    }
    db.execute(
        _ADD, {**names, "id": correction_id, "correction": number, "reason": reason, "corrected_by": who}
    )
    for statement in _ADD_TO:
        db.execute(statement, names)
    for period in ("month", "day"):
        db.execute(_ADD_TO_PERIOD, {**names, "period": period, "day": row.day})
    return correction_id


def _in_words(bill: Bill) -> str:
    counts = ", ".join(f"{getattr(bill.usage, name)} {name}" for name in COLUMNS if getattr(bill.usage, name))
    return f"{format_usd(bill.cost_usd)} USD, {counts or 'no tokens'}"


def _confirmed() -> bool:
    """Ask for confirmation at the terminal.

    Raises:
        SettingsError: There is no terminal.
    """
    if not sys.stdin.isatty():
        raise SettingsError(["--yes is required where nobody can be asked: a row is added and never removed"])
    return input("Add the difference to the ledger? [y/N] ").strip().lower() in {"y", "yes"}
