"""Stops the turns of a whole organization, in transactions of a bounded size."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from api.caller import Caller
from api.statements.turns import StoppedTurn, stop_turns
from shared.postgres.statement import Statement
from shared.turn.turns import Signal, StopReason, TurnStatus, sources_into

WAITING: Final = sources_into(Signal.STOP, TurnStatus.STOPPED)
RUNNING: Final = sources_into(Signal.STOP, TurnStatus.STOPPING) - {TurnStatus.STOPPING}


@dataclass(frozen=True, slots=True)
class _Locked:
    """A turn that has not ended."""

    id: UUID
    session_id: UUID


@dataclass(frozen=True, slots=True)
class _Session:
    """A session whose row is locked."""

    id: UUID


# Turns in the order of their sessions and numbers, then sessions, then the totals of periods: as everywhere.
_LOCK: Final = Statement(
    """
    select t.id, t.session_id from turnkeeper.turns as t
    where t.organization_id = :organization_id and t.status = any(:statuses) and t.queued_at <= :accepted_until
    order by t.session_id, t.number limit :most for no key update
    """,
    _Locked,
)
_LOCK_SESSIONS: Final = Statement(
    """
    select s.id from turnkeeper.sessions as s
    where s.organization_id = :organization_id and s.id = any(:sessions) order by s.id for no key update
    """,
    _Session,
)
_NOW: Final = text("select clock_timestamp()")


def moment(db: Connection) -> datetime:
    """Return what time it is in PostgreSQL: turns accepted later are none of those that are stopped."""
    now: datetime = db.execute(_NOW).scalar_one()
    return now


def stop_turns_of_organization(
    db: Connection,
    caller: Caller,
    statuses: Collection[TurnStatus],
    accepted_until: datetime,
    *,
    most: int,
) -> Sequence[StoppedTurn]:
    """Stop an organization's turns, at most so many; a turn that has just ended is none of them.

    Args:
        db: A transaction of the organization.
        caller: Of the organization; its role was checked.
        statuses: `WAITING` or `RUNNING`.
        accepted_until: Turns that were accepted later are left alone.
        most: How many.
    """
    of_organization = {"organization_id": caller.organization_id}
    locked = _LOCK.all(
        db,
        {
            **of_organization,
            "statuses": sorted(statuses),
            "accepted_until": accepted_until,
            "most": most,
        },
    )
    if not locked:
        return ()
    _LOCK_SESSIONS.all(db, {**of_organization, "sessions": list({turn.session_id for turn in locked})})
    return stop_turns(db, caller, [turn.id for turn in locked], StopReason.USER)
