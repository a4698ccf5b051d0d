"""An organization's limits, and what the current day and month have cost."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from api.money_models import Budget
from shared.postgres.statement import Statement


@dataclass(frozen=True, slots=True)
class LimitsAndSpend:
    """An organization's limits (None is no limit), and what was spent and is held of them today and this month."""

    ai_enabled: bool
    daily_usd: Decimal | None
    monthly_usd: Decimal | None
    max_turns_per_session: int | None
    turns_per_minute_per_user: int | None
    turns_per_hour: int | None
    max_concurrent_turns: int | None
    day_spent_usd: Decimal
    day_held_usd: Decimal
    month_spent_usd: Decimal
    month_held_usd: Decimal
    day_resets_at: datetime
    month_resets_at: datetime


_READ: Final = Statement(
    """
    with today as (select now() at time zone 'UTC' as at)
    select o.ai_enabled, o.daily_usd, o.monthly_usd, o.max_turns_per_session, o.turns_per_minute_per_user,
           o.turns_per_hour, o.max_concurrent_turns,
           coalesce(d.spent_usd, 0) as day_spent_usd, coalesce(d.held_usd, 0) as day_held_usd,
           coalesce(m.spent_usd, 0) as month_spent_usd, coalesce(m.held_usd, 0) as month_held_usd,
           (date_trunc('day', t.at) + interval '1 day') at time zone 'UTC' as day_resets_at,
           (date_trunc('month', t.at) + interval '1 month') at time zone 'UTC' as month_resets_at
    from today as t cross join turnkeeper.organizations as o
    left join turnkeeper.spend as d
        on d.organization_id = o.id and d.period = 'day' and d.starts_on = date_trunc('day', t.at)::date
    left join turnkeeper.spend as m
        on m.organization_id = o.id and m.period = 'month' and m.starts_on = date_trunc('month', t.at)::date
    where o.id = :organization_id
    """,
    LimitsAndSpend,
)
_REPLACE: Final = text(
    """
    update turnkeeper.organizations set
        ai_enabled = :enabled,
        daily_usd = cast(:daily_usd as numeric),
        monthly_usd = cast(:monthly_usd as numeric),
        max_turns_per_session = :max_turns_per_session,
        turns_per_minute_per_user = :turns_per_minute_per_user,
        turns_per_hour = :turns_per_hour,
        max_concurrent_turns = :max_concurrent_turns
    where id = :organization_id
    """
)


def read_budget(db: Connection, organization_id: UUID) -> LimitsAndSpend:
    """Return the organization's limits with what was spent and is held of them."""
    return _READ.one(db, {"organization_id": organization_id})


def replace_budget(db: Connection, organization_id: UUID, budget: Budget) -> None:
    """Replace all of the organization's limits with `budget`."""
    db.execute(_REPLACE, {"organization_id": organization_id, **budget.model_dump()})
