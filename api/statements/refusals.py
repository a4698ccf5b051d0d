"""Counts of turns refused by limits, by day, user and code."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.postgres.statement import Statement

KEPT_DAYS: Final = 92
"""Long enough to compare quarters. Older rows are deleted when new ones are added."""

# A key that is bound to no user names a session, which has a user. All processes lock the rows in the same order.
_ADD: Final = text(
    """
    insert into turnkeeper.refusals as r (organization_id, day, user_name, code, scope, refused, last_at)
    select :organization_id, cast(n.last_at at time zone 'UTC' as date), coalesce(n.user_name, s.user_name, ''),
           n.code, n.scope, sum(n.refused), max(n.last_at)
    from unnest(cast(:users as text[]), cast(:sessions as uuid[]), cast(:codes as text[]), cast(:scopes as text[]),
                cast(:counts as bigint[]), cast(:times as timestamptz[]))
        as n (user_name, session_id, code, scope, refused, last_at)
    left join turnkeeper.sessions as s on s.organization_id = :organization_id and s.id = n.session_id
    group by 2, 3, 4, 5
    order by 2, 3, 4, 5
    on conflict (organization_id, day, user_name, code, scope) do update
    set refused = r.refused + excluded.refused, last_at = greatest(r.last_at, excluded.last_at)
    """
)
_FORGET: Final = text(
    """
    delete from turnkeeper.refusals
    where organization_id = :organization_id and day < cast(now() at time zone 'UTC' as date) - :kept_days
    """
)


@dataclass(frozen=True, slots=True)
class RefusedOfUser:
    """How often one limit refused one user.

    Args:
        user_name: The user; empty if the session was not known.
        code: The limit's code.
        scope: Which of the limits with that code; empty if there is only one.
        refused: How often.
        last_at: When it happened last.
        refused_of_all: How often limits refused any user on these days.
    """

    user_name: str
    code: str
    scope: str
    refused: int
    last_at: datetime
    refused_of_all: int


_ADD_UP: Final = Statement(
    """
    select r.user_name, r.code, r.scope, sum(r.refused)::bigint as refused, max(r.last_at) as last_at,
           (sum(sum(r.refused)) over ())::bigint as refused_of_all
    from turnkeeper.refusals as r
    where r.organization_id = :organization_id
      and r.day between cast(:first_day as date) and cast(:last_day as date)
    group by r.user_name, r.code, r.scope
    order by refused desc, r.user_name collate "C", r.code, r.scope limit :most
    """,
    RefusedOfUser,
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Refusals of one kind.

    Args:
        user: The user who was refused; None if only the session is known.
        session_id: The session, if the user is not known.
        code: The limit's code.
        scope: Which of the limits with that code; empty if there is only one.
        count: How many.
        last_at: When the last one happened.
    """

    user: str | None
    session_id: UUID | None
    code: str
    scope: str
    count: int
    last_at: datetime


def add_refusals(db: Connection, organization_id: UUID, refused: Sequence[Refused]) -> None:
    """Add the refusals, and delete those older than `KEPT_DAYS`."""
    db.execute(
        _ADD,
        {
            "organization_id": organization_id,
            "users": [one.user for one in refused],
            "sessions": [one.session_id for one in refused],
            "codes": [one.code for one in refused],
            "scopes": [one.scope for one in refused],
            "counts": [one.count for one in refused],
            "times": [one.last_at for one in refused],
        },
    )
    db.execute(_FORGET, {"organization_id": organization_id, "kept_days": KEPT_DAYS})


def refusals_by_user(
    db: Connection, organization_id: UUID, *, first_day: date, last_day: date, most: int
) -> Sequence[RefusedOfUser]:
    """Return how often each limit refused each user, the most frequent first."""
    parameters = {
        "organization_id": organization_id,
        "first_day": first_day,
        "last_day": last_day,
        "most": most,
    }
    return _ADD_UP.all(db, parameters)
