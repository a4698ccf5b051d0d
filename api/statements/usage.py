"""Sums of the ledger: by day, user or model, and in all."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from api.queries import UsageGroup, UsageSort
from api.statements.ledger import IS_WITHIN
from shared.money.usage import SHOWN_COLUMNS, ShownTokens
from shared.postgres.schema import has_money
from shared.postgres.statement import Statement


@dataclass(frozen=True, slots=True)
class AddedUp(ShownTokens):
    """The sums of a part of the ledger.

    Args:
        position: 0 for the whole, else the group's place in the requested order.
        name: The day, user or model; None for the whole.
        attempts: Rows of the ledger, without corrections.
        turns: The turns that they belong to, each counted once.
        cost_usd: What they cost.
    """

    position: int
    name: date | str | None
    attempts: int
    turns: int
    cost_usd: Decimal


_SUMS: Final = ", ".join(f"sum({name})::bigint as {name}" for name in SHOWN_COLUMNS)
_TOTALS: Final = ", ".join(f"coalesce(sum({name}), 0)::bigint as {name}" for name in SHOWN_COLUMNS)
_FIGURES: Final = ", ".join(("name", "attempts", "turns", *SHOWN_COLUMNS, "cost_usd"))


def _usage_by(
    name_of: str, kind: str, *, has_corrections: bool, newest_first: bool = False, by_cost: bool = False
) -> Statement[AddedUp]:
    """Return the statement that groups by `name_of`, an expression of type `kind` of the ledger's row `{row}`.

    A turn is counted at the first of its attempts in range: most turns have one attempt and need no look at
    others, and nothing is sorted to tell turns apart.
    """
    is_past, order = ("<", "name desc") if newest_first else (">", "name")
    if by_cost:
        order = f"cost_usd desc, {order}"
    of_row, of_earlier = name_of.format(row="l"), name_of.format(row="e")

    def is_attempt(row: str) -> str:
        return f"{row}.correction = 0" if has_corrections else "true"

    def is_first(condition: str) -> str:
        return f"""{is_attempt("l")} and (l.attempt = 1 or not exists (
            select from turnkeeper.ledger as e
            where e.organization_id = l.organization_id and e.turn_id = l.turn_id and e.attempt < l.attempt
              and {is_attempt("e")} and {IS_WITHIN.format(row="e")} and {condition}))"""

    return Statement(
        f"""
        with added as materialized (
            select {of_row} as name, count(*) filter (where {is_attempt("l")}) as attempts,
                count(*) filter (where {is_first(f"{of_earlier} = {of_row}")}) as turns,
                count(*) filter (where {is_first("true")}) as turns_of_all,
                {_SUMS}, sum(l.cost_usd) as cost_usd
            from turnkeeper.ledger as l
            where l.organization_id = :organization_id and {IS_WITHIN.format(row="l")}
            group by {of_row}
        )
        select 0 as position, null as name, coalesce(sum(attempts), 0)::bigint as attempts,
            coalesce(sum(turns_of_all), 0)::bigint as turns, {_TOTALS}, coalesce(sum(cost_usd), 0) as cost_usd
        from added
        union all
        (select row_number() over (order by {order}), {_FIGURES} from added
         where cast(:past as {kind}) is null or name {is_past} cast(:past as {kind}) order by {order} limit :most)
        order by position
        """,
        AddedUp,
    )


_STATEMENTS: Final[Mapping[tuple[UsageGroup, UsageSort, bool], Statement[AddedUp]]] = MappingProxyType(
    {
        (group, sort, has_corrections): _usage_by(
            name_of,
            kind,
            has_corrections=has_corrections,
            newest_first=group is UsageGroup.DAY,
            by_cost=sort is UsageSort.COST,
        )
        for group, name_of, kind in (
            (UsageGroup.DAY, "{row}.day", "date"),
            # The same order in every database, so that a cursor has the same meaning everywhere.
            (UsageGroup.USER, '{row}.user_name collate "C"', "text"),
            (UsageGroup.MODEL, '{row}.model collate "C"', "text"),
        )
        for sort in UsageSort
        for has_corrections in (False, True)  # the schema before migration 0005 has none
    }
)


def add_up(
    db: Connection,
    organization_id: UUID,
    group: UsageGroup,
    sort: UsageSort,
    *,
    first_day: date,
    last_day: date,
    past: date | str | None,
    most: int,
) -> tuple[AddedUp, Sequence[AddedUp]]:
    """Return the totals of these days, and of each group past `past`; the order by cost has no `past`."""
    totals, *groups = _STATEMENTS[group, sort, has_money(db)].all(
        db,
        {
            "organization_id": organization_id,
            "first_day": first_day,
            "last_day": last_day,
            "past": past,
            "most": most,
        },
    )
    return totals, groups
