"""What operators look at: each statement is bounded, and served by an index however many turns there are."""

# ruff: noqa: S608 -- statements are put together from constants of ours, once

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, TextClause, text

from api.cursors import TimeCursor
from api.statements.turns import TURN_COLUMNS, TURN_WITH_CHECKPOINT
from shared.turn.turns import ACTIVE, TurnStatus

_ACTIVE: Final = ", ".join(f"'{status}'" for status in sorted(ACTIVE))
MOST_FAILURES: Final = 10_000
MOST_DELAYS: Final = 20_000
"""Sorted in a tenth of a second."""
MOST_WORKERS: Final = 200
MOST_LEASES: Final = 2_000
_LARGEST_ID: Final = UUID(int=2**128 - 1)

_STANDING: Final = text(
    f"""
    select count(*) filter (where status = 'queued') as queued,
        count(*) filter (where status = 'queued' and claimable_at is not null) as claimable,
        count(*) filter (where status = 'running') as running,
        count(*) filter (where status = 'stopping') as stopping
    from turnkeeper.turns where organization_id = :organization_id and status in ({_ACTIVE})
    """
)
_OLDEST: Final = text(
    """
    select id, extract(epoch from clock_timestamp() - claimable_at)::float8 as wait_seconds
    from turnkeeper.turns
    where organization_id = :organization_id and status = 'queued' and claimable_at is not null
    order by claimable_at limit 1
    """
)
# An id begins with the time of acceptance: it is the index that knows how old a turn is.
_FAILURES: Final = text(
    f"""
    select coalesce(code, 'expired') as code, count(*) as turns,
        (array_agg(id order by id desc))[1] as last_turn_id
    from (
        (select id, error ->> 'code' as code from turnkeeper.turns
         where organization_id = :organization_id and status = 'failed' and id >= :oldest_id
         order by id desc limit {MOST_FAILURES})
        union all
        (select id, null from turnkeeper.turns
         where organization_id = :organization_id and status = 'expired' and id >= :oldest_id
         order by id desc limit {MOST_FAILURES})
    ) as ended
    group by 1 order by turns desc, code
    """
)
# A turn that was given back has a later `claimable_at` than its first claim: its first wait is no longer known.
_DELAYS: Final = text(
    f"""
    with claimed as materialized (
        select status, started_at,
            case when claimable_at <= started_at then extract(epoch from started_at - claimable_at) end as worker_wait,
            extract(epoch from first_token_at - started_at) as model_wait,
            extract(epoch from first_token_at - queued_at) as first_token
        from turnkeeper.turns
        where organization_id = :organization_id and started_at >= :since
        order by started_at desc limit {MOST_DELAYS}
    )
    select floor(extract(epoch from started_at - :since) / :stretch_seconds)::integer as stretch,
        count(*) as turns,
        count(*) filter (where status = 'completed') as completed,
        count(*) filter (where status = 'stopped') as stopped,
        count(*) filter (where status = 'failed') as failed,
        percentile_cont(array[0.5, 0.95]) within group (order by worker_wait::float8) as worker_wait,
        percentile_cont(array[0.5, 0.95]) within group (order by model_wait::float8) as model_wait,
        percentile_cont(array[0.5, 0.95]) within group (order by first_token::float8) as first_token
    from claimed group by 1 order by 1
    """
)
_OF_LIST: Final = """
    id, session_id, user_name, status, attempt, model, finish_reason, stop_reason, error, cost_usd, queued_at,
    started_at, first_token_at, finished_at
"""


def _turns_where(condition: str) -> TextClause:
    """Return the statement that lists turns; the condition stands in it as it does in its index."""
    return text(
        f"""
        select {_OF_LIST} from turnkeeper.turns
        where organization_id = :organization_id and id < :before and {condition}
        order by id desc limit :most
        """
    )


_TURNS: Final = _turns_where("true")
# No index by code: below row-level security `->>` is no condition of one.
_TURNS_BY_FAULT: Final = text(
    f"""
    select * from (
        select {_OF_LIST} from turnkeeper.turns
        where organization_id = :organization_id and id < :before and status = 'failed'
        order by id desc limit {MOST_FAILURES}
    ) as failed
    where error ->> 'code' = :code order by id desc limit :most
    """
)
_TURNS_BY_STATUS: Final[Mapping[TurnStatus, TextClause]] = MappingProxyType(
    {status: _turns_where(f"status = '{status}'") for status in TurnStatus}
)
_TURN: Final = text(
    f"""
    select {TURN_COLUMNS}, t.user_name, t.recovery, t.request_id, t.deadline_seconds, t.handed_back, t.worker_id,
        t.lease_expires_at, t.claimable_at,
        (select sum(h.amount_usd) from turnkeeper.holds as h
         where h.organization_id = t.organization_id and h.turn_id = t.id) as held_usd
    from turnkeeper.turns as t {TURN_WITH_CHECKPOINT}
    where t.organization_id = :organization_id and t.id = :turn_id
    """
)
# The table knows no organization; how many turns a worker runs altogether is not asked for (I9).
_WORKERS: Final = text(
    f"""
    select id, started_at, renewed_at, heard_at,
        renewed_at > clock_timestamp() - make_interval(secs => :alive_seconds) as is_alive,
        heard_at > clock_timestamp() - make_interval(secs => :deaf_seconds) as is_hearing
    from turnkeeper.workers order by started_at, id limit {MOST_WORKERS}
    """
)
_LEASES: Final = text(
    f"""
    select id, session_id, user_name, status, attempt, started_at, lease_expires_at, worker_id
    from turnkeeper.turns
    where organization_id = :organization_id and status in ('running', 'stopping') and worker_id is not null
    order by started_at, id limit {MOST_LEASES}
    """
)
_FLAGGED: Final = text(
    """
    select id, user_name, title, status, flag_reason, flagged_by, flagged_at, last_activity_at
    from turnkeeper.sessions
    where organization_id = :organization_id and flagged
      and (flagged_at, id) < (cast(:before_at as timestamptz), cast(:before_id as uuid))
    order by flagged_at desc, id desc limit :most
    """
)


def standing(db: Connection, organization_id: UUID) -> Row[Any]:
    """Return how many turns wait and run."""
    return db.execute(_STANDING, {"organization_id": organization_id}).one()


def oldest_waiting(db: Connection, organization_id: UUID) -> Row[Any] | None:
    """Return the turn that has waited longest for a worker, with `wait_seconds`."""
    return db.execute(_OLDEST, {"organization_id": organization_id}).one_or_none()


def failures_by_code(db: Connection, organization_id: UUID, oldest_id: UUID) -> list[Row[Any]]:
    """Return how many turns failed by which fault, of those with an id from `oldest_id` on."""
    return list(db.execute(_FAILURES, {"organization_id": organization_id, "oldest_id": oldest_id}))


def delays(db: Connection, organization_id: UUID, since: Any, stretch_seconds: int) -> list[Row[Any]]:
    """Return the delays of turns that were first claimed since then, by stretches counted from 0."""
    parameters = {"organization_id": organization_id, "since": since, "stretch_seconds": stretch_seconds}
    return list(db.execute(_DELAYS, parameters))


def turns_of_organization(
    db: Connection,
    organization_id: UUID,
    *,
    status: TurnStatus | None,
    code: str | None,
    before: UUID | None,
    most: int,
) -> list[Row[Any]]:
    """Return turns accepted before `before`, newest first; with a code, of the newest 10,000 failed ones."""
    parameters: dict[str, Any] = {
        "organization_id": organization_id,
        "before": before or _LARGEST_ID,
        "most": most,
    }
    if code is not None:
        if status not in (None, TurnStatus.FAILED):
            return []  # no other turn has an error
        return list(db.execute(_TURNS_BY_FAULT, {**parameters, "code": code}))
    return list(db.execute(_TURNS if status is None else _TURNS_BY_STATUS[status], parameters))


def turn_report(db: Connection, organization_id: UUID, turn_id: UUID) -> Row[Any] | None:
    """Return all that the row of a turn says."""
    return db.execute(_TURN, {"organization_id": organization_id, "turn_id": turn_id}).one_or_none()


def workers(db: Connection, *, alive_seconds: float, deaf_seconds: float) -> list[Row[Any]]:
    """Return the worker processes, with `is_alive` and `is_hearing`."""
    return list(db.execute(_WORKERS, {"alive_seconds": alive_seconds, "deaf_seconds": deaf_seconds}))


def leases(db: Connection, organization_id: UUID) -> list[Row[Any]]:
    """Return the organization's turns that a worker holds, those that began first first."""
    return list(db.execute(_LEASES, {"organization_id": organization_id}))


def flagged_sessions(
    db: Connection, organization_id: UUID, *, before: TimeCursor | None, most: int
) -> list[Row[Any]]:
    """Return flagged sessions past `before`, those flagged last first."""
    parameters = {
        "organization_id": organization_id,
        "before_at": before.at.isoformat() if before else "infinity",
        "before_id": before.id if before else _LARGEST_ID,
        "most": most,
    }
    return list(db.execute(_FLAGGED, parameters))
