"""`turnkeeper ledger`: checks that the ledger, the totals and the holds agree.

Everything is read in one snapshot, so the check can run while turns are running.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import sys
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.money.usage import COLUMNS
from shared.postgres.database import engine_for
from shared.postgres.schema import has_money
from turnkeeper.exits import FAILED
from turnkeeper.owner import organization

_SECONDS: Final = 300
"""Long enough to read a ledger of millions of rows."""
_MOST_TOLD: Final = 100
_ONE: Final = "(cast(:organization as uuid) is null or organization_id = :organization)"
_IS_ATTEMPT: Final = "/* is_attempt */"
"""Where a check counts a row of the ledger as one attempt, unless it is a correction."""
_PERIODS: Final = f"""
    with told as (
        select organization_id, period, starts_on, spent_usd, held_usd, attempts from turnkeeper.spend where {_ONE}
    ), dated as (
        select organization_id, day, cost_usd as spent, 0 as held, {_IS_ATTEMPT} as bills
        from turnkeeper.ledger where {_ONE}
        union all
        select organization_id, day, 0, amount_usd, 0 from turnkeeper.holds where {_ONE}
    ), counted as (
        select organization_id, period, cast(date_trunc(period, cast(day as timestamp)) as date) as starts_on,
            sum(spent) as spent_usd, sum(held) as held_usd, sum(bills) as attempts
        from dated cross join unnest(array['day', 'month']) as period group by 1, 2, 3
    ), both_sides as (
        select organization_id, period, starts_on,
            coalesce(t.spent_usd, 0) as spent, coalesce(c.spent_usd, 0) as billed,
            coalesce(t.held_usd, 0) as held, coalesce(c.held_usd, 0) as holds,
            coalesce(t.attempts, 0) as attempts, coalesce(c.attempts, 0) as bills
        from told as t full join counted as c using (organization_id, period, starts_on)
    )
"""
_CHECKS: Final = (
    f"""
    {_PERIODS}
    select organization_id, period || ' ' || starts_on || ': spent ' || spent || ', the ledger says ' || billed as what
    from both_sides where spent <> billed
    """,
    f"""
    {_PERIODS}
    select organization_id, period || ' ' || starts_on || ': held ' || held || ', the holds say ' || holds as what
    from both_sides where held <> holds
    """,
    f"""
    {_PERIODS}
    select organization_id, period || ' ' || starts_on || ': ' || attempts || ' attempts, the ledger has ' || bills
        as what
    from both_sides where attempts <> bills
    """,
    f"""
    select h.organization_id, 'turn ' || t.id || ' (' || t.status || ', attempt ' || t.attempt
        || ') has a hold of ' || h.amount_usd || ' for attempt ' || h.attempt as what
    from (select * from turnkeeper.holds where {_ONE}) as h
    join turnkeeper.turns as t on t.organization_id = h.organization_id and t.id = h.turn_id
    where t.finished_at is not null or h.attempt <> greatest(t.attempt, 1)
    """,
    f"""
    select t.organization_id, 'turn ' || t.id || ': cost ' || t.cost_usd || ', the ledger says '
        || coalesce(l.billed, 0) as what
    from (select * from turnkeeper.turns where {_ONE}) as t
    left join (select organization_id, turn_id, sum(cost_usd) as billed from turnkeeper.ledger where {_ONE}
               group by 1, 2) as l on l.organization_id = t.organization_id and l.turn_id = t.id
    where t.cost_usd <> coalesce(l.billed, 0)
    """,
    f"""
    select s.organization_id, 'session ' || s.id || ': cost ' || s.cost_usd || ', the ledger says '
        || coalesce(l.billed, 0) as what
    from (select * from turnkeeper.sessions where {_ONE}) as s
    left join (select organization_id, session_id, sum(cost_usd) as billed from turnkeeper.ledger where {_ONE}
               group by 1, 2) as l on l.organization_id = s.organization_id and l.session_id = s.id
    where s.cost_usd <> coalesce(l.billed, 0)
    """,
)
_CHECKS_OF_CORRECTIONS: Final = (
    f"""
    select l.organization_id, 'ledger row ' || l.id || ': cost ' || l.cost_usd || ' with its corrections' as what
    from (
        select organization_id, coalesce(corrects, id) as id, sum(cost_usd) as cost_usd,
            {", ".join(f"sum({name}) as {name}" for name in COLUMNS)}
        from turnkeeper.ledger where {_ONE} group by 1, 2 having count(*) filter (where correction > 0) > 0
    ) as l
    where l.cost_usd < 0 or {" or ".join(f"l.{name} < 0" for name in COLUMNS)}
    """,
    f"""
    select c.organization_id, 'correction ' || c.id || ': it corrects no row of its turn' as what
    from (select * from turnkeeper.ledger where correction > 0 and {_ONE}) as c
    where not exists (
        select from turnkeeper.ledger as l
        where l.organization_id = c.organization_id and l.id = c.corrects and l.correction = 0
          and l.turn_id = c.turn_id and l.attempt = c.attempt and l.day = c.day)
    """,
)


def check(url: str, org: str | None) -> int:
    """Print the differences; return 1 if there are any.

    Args:
        url: The owner's login.
        org: Id or name of one organization; None for all.
    """
    only = None if org is None else organization(url, org)
    engine = engine_for(
        url,
        isolation_level="REPEATABLE READ",
        connect={"options": f"-c statement_timeout={_SECONDS}s -c default_transaction_read_only=on"},
    )
    told = 0
    try:
        with engine.begin() as db:
            for organization_id, what in differences(db, only):
                told += 1
                if told <= _MOST_TOLD:
                    print(f"{organization_id}  {what}")
    finally:
        engine.dispose()
    if told:
        print(f"turnkeeper: {told} sums do not agree (at most {_MOST_TOLD} are shown)", file=sys.stderr)
        return FAILED
    print("ledger, totals and holds agree")
    return 0


def differences(db: Connection, only: UUID | None) -> Iterator[tuple[UUID, str]]:
    """Yield an organization and a description for each sum that is wrong.

    Args:
        db: A transaction of the owner, with one snapshot.
        only: One organization; None for all.
    """
    is_attempt = "(correction = 0)::integer" if has_money(db) else "1"
    checks = [*_CHECKS, *(_CHECKS_OF_CORRECTIONS if has_money(db) else ())]
    for statement in (check.replace(_IS_ATTEMPT, is_attempt) for check in checks):
        for row in db.execute(text(statement), {"organization": only}):
            yield row.organization_id, row.what
