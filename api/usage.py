"""Usage: sums of the ledger over a range of days, for an admin."""

from datetime import UTC, date, datetime
from typing import Final

from api import queries, resources
from api.cursors import DayCursor, NameCursor
from api.money_models import UsageReport, UsageRow, UsageTotals
from api.operation import ADMINS, Call, Operation, Reply
from api.requests import invalid
from api.statements.usage import AddedUp, add_up
from shared.money.money import format_usd

_MOST_DAYS: Final = 366
"""A leap year: a bound on what one statement adds up."""
_DAYS: Final = 30


def get_usage(call: Call, query: queries.UsagePage) -> Reply:
    """Add up tokens, costs, attempts and turns by day, user or model, over at most 366 days."""
    first_day, last_day = days_of(query)
    organization_id = call.caller.organization_id
    with call.services.database.of(organization_id) as db:
        totals, groups = add_up(
            db,
            organization_id,
            query.group_by,
            query.sort,
            first_day=first_day,
            last_day=last_day,
            past=_past(query),
            most=query.limit + 1,
        )
    shown, last = resources.page(groups, query.limit)
    return Reply(
        200,
        UsageReport(
            data=[UsageRow(group=str(row.name), **dict(_totals(row))) for row in shown],
            totals=_totals(totals),
            next_cursor=None if last is None or query.sort is queries.UsageSort.COST else _cursor(last.name),
        ),
    )


def refuse_reversed(query: queries.DayRange) -> None:
    """Refuse a range whose last day is before its first.

    Raises:
        RefusedError: The range is reversed.
    """
    if query.first_day is not None and query.last_day is not None and query.last_day < query.first_day:
        raise invalid("/query/to", "must not be before `from`")


def days_of(query: queries.DayRange) -> tuple[date, date]:
    """Return the first and the last day of the range.

    Raises:
        RefusedError: The range is reversed, or longer than a leap year.
    """
    refuse_reversed(query)
    last_day = query.last_day or max(datetime.now(UTC).date(), query.first_day or date.min)
    first_day = query.first_day or date.fromordinal(max(1, last_day.toordinal() - _DAYS + 1))
    if (last_day - first_day).days >= _MOST_DAYS:
        raise invalid("/query/from", f"must not be more than {_MOST_DAYS} days before the end of `to`")
    return first_day, last_day


def _past(query: queries.UsagePage) -> date | str | None:
    if query.cursor is None:
        return None
    if query.sort is queries.UsageSort.COST:
        raise invalid("/query/cursor", "must not be there: the most expensive have one page only")
    if query.group_by is queries.UsageGroup.DAY:
        return DayCursor.decode(query.cursor).day
    return NameCursor.decode(query.cursor).name


def _cursor(name: date | str | None) -> str:
    assert name is not None, "only the totals have no name"
    return DayCursor(name).encode() if isinstance(name, date) else NameCursor(name).encode()


def _totals(row: AddedUp) -> UsageTotals:
    return UsageTotals(
        usage=resources.usage(row),
        cost_usd=format_usd(row.cost_usd),
        attempts=row.attempts,
        turns=row.turns,
    )


_TAG: Final = "Money"
OPERATIONS: Final = (
    Operation("GET", "/v1/usage", _TAG, {200: UsageReport}, get_usage, query=queries.UsagePage, roles=ADMINS),
)
