"""The emergency brake: stops everything that an organization has queued and running."""

import logging
from dataclasses import dataclass
from typing import Final

from api.caller import Caller
from api.money_models import StopOrganization, StoppedOrganization
from api.notices import Notices
from api.operation import ADMINS, Call, Operation, Reply
from api.statements.organization_stop import RUNNING, WAITING, moment, stop_turns_of_organization
from api.stops import tell_stop
from shared.postgres.database import Database

_log = logging.getLogger("turnkeeper.stops")

MOST_AT_ONCE: Final = 500
"""Turns of one transaction: some tenths of a second, and few enough notices at a time for their queue."""


@dataclass(frozen=True, slots=True)
class StoppedTurns:
    """How many turns a stop has ended while they waited, and how many running ones it has asked to end."""

    queued: int
    running: int


def stop_everything(database: Database, notices: Notices, caller: Caller) -> StoppedTurns:
    """Stop all queued and running turns of an organization that were accepted until now; repeating it is harmless.

    As any stop, it is committed first and told afterwards. Queued turns come first, so that none begins while running
    ones end; one that begins all the same is stopped with those.

    Args:
        database: PostgreSQL.
        notices: Tells workers and readers.
        caller: Of the organization; its role was checked.

    Raises:
        UnavailableError: PostgreSQL cannot be reached. What was committed stays stopped; ask again for the rest.
    """
    organization_id = caller.organization_id
    with database.of(organization_id) as db:
        accepted_until = moment(db)
    counts = {WAITING: 0, RUNNING: 0}
    # Once more those that wait: a worker that ends may have given one back meanwhile.
    for statuses in (WAITING, RUNNING, WAITING):
        while True:
            with database.of(organization_id) as db:
                stopped = stop_turns_of_organization(db, caller, statuses, accepted_until, most=MOST_AT_ONCE)
            for turn in stopped:
                tell_stop(notices, turn)
            counts[statuses] += len(stopped)
            if len(stopped) < MOST_AT_ONCE:
                break
            # The queue of notices drops its oldest if it is full; readers whose notice is dropped read the row later.
            notices.drain()
    return StoppedTurns(queued=counts[WAITING], running=counts[RUNNING])


def stop_organization(call: Call, body: StopOrganization) -> Reply:
    """Stop everything that the organization has queued and running; idempotent.

    Queued turns have ended when the answer comes; running ones end within a second. Turns that are posted meanwhile or
    afterwards are accepted: to refuse those as well, switch AI off first, with `PUT /v1/budget`.
    """
    stopped = stop_everything(call.services.database, call.services.notices, call.caller)
    _log.warning(
        "an organization's turns were stopped",
        extra={
            "organization_id": str(call.caller.organization_id),
            "queued": stopped.queued,
            "running": stopped.running,
            "reason": body.reason,
        },
    )
    return Reply(200, StoppedOrganization(queued=stopped.queued, running=stopped.running))


OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/organization/stop",
        "Money",
        {200: StoppedOrganization},
        stop_organization,
        body=StopOrganization,
        roles=ADMINS,
    ),
)
