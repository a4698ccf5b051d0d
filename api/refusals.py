"""Which users were refused by which limits, for an admin."""

from typing import Final

from api import queries
from api.money_models import Refusal, RefusalReport
from api.operation import ADMINS, Call, Operation, Reply
from api.statements.refusals import refusals_by_user
from api.usage import days_of
from shared.turn.events import timestamp


def list_refusals(call: Call, query: queries.RefusalDays) -> Reply:
    """List who was refused a turn by which limit and how often, the most frequent first; kept for 92 days."""
    first_day, last_day = days_of(query)
    organization_id = call.caller.organization_id
    with call.services.database.of(organization_id) as db:
        rows = refusals_by_user(db, organization_id, first_day=first_day, last_day=last_day, most=query.limit)
    return Reply(
        200,
        RefusalReport(
            data=[
                Refusal(
                    user=row.user_name,
                    code=row.code,
                    scope=row.scope or None,
                    refused=row.refused,
                    last_at=timestamp(row.last_at),
                )
                for row in rows
            ],
            refused=rows[0].refused_of_all if rows else 0,
        ),
    )


_TAG: Final = "Money"
OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/refusals",
        _TAG,
        {200: RefusalReport},
        list_refusals,
        query=queries.RefusalDays,
        roles=ADMINS,
    ),
)
