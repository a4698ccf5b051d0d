"""The budget: an admin reads and replaces the limits of what its organization may spend and ask for."""

from decimal import Decimal
from typing import Final

from api.money_models import Budget, CurrentBudget, Period
from api.operation import ADMINS, Call, Operation, Reply
from api.statements.budget import LimitsAndSpend, read_budget, replace_budget
from shared.money.money import format_usd
from shared.turn.events import timestamp


def get_budget(call: Call) -> Reply:
    """Read the organization's limits, and what today and this month have cost."""
    with call.services.database.of(call.caller.organization_id) as db:
        row = read_budget(db, call.caller.organization_id)
    return Reply(200, _shown(row))


def put_budget(call: Call, body: Budget) -> Reply:
    """Replace the organization's limits as a whole: every field must be there, `null` is no limit.

    In other processes a rate or `max_turns_per_session` holds within ten seconds; all else holds at once.
    What runs ends as usual. What waits keeps what it holds; switched off, or with a budget of 0 or one that is already
    spent, it ends within a second instead of starting.
    """
    organization_id = call.caller.organization_id
    with call.services.database.of(organization_id) as db:
        replace_budget(db, organization_id, body)
        row = read_budget(db, organization_id)
    call.services.authenticator.forget_organization(organization_id)
    return Reply(200, _shown(row))


def _shown(row: LimitsAndSpend) -> CurrentBudget:
    return CurrentBudget(
        enabled=row.ai_enabled,
        daily_usd=_usd(row.daily_usd),
        monthly_usd=_usd(row.monthly_usd),
        max_turns_per_session=row.max_turns_per_session,
        turns_per_minute_per_user=row.turns_per_minute_per_user,
        turns_per_hour=row.turns_per_hour,
        max_concurrent_turns=row.max_concurrent_turns,
        day=Period(
            spent_usd=format_usd(row.day_spent_usd),
            held_usd=format_usd(row.day_held_usd),
            resets_at=timestamp(row.day_resets_at),
        ),
        month=Period(
            spent_usd=format_usd(row.month_spent_usd),
            held_usd=format_usd(row.month_held_usd),
            resets_at=timestamp(row.month_resets_at),
        ),
    )


def _usd(amount: Decimal | None) -> str | None:
    return None if amount is None else format_usd(amount)


_TAG: Final = "Money"
OPERATIONS: Final = (
    Operation("GET", "/v1/budget", _TAG, {200: CurrentBudget}, get_budget, roles=ADMINS),
    Operation("PUT", "/v1/budget", _TAG, {200: CurrentBudget}, put_budget, body=Budget, roles=ADMINS),
)
