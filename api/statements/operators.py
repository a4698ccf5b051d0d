"""The SQL behind the operators' pages: each statement is bounded and uses an index, however many turns there are."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from api.cursors import TimeCursor
from api.statements.turns import LAST_SEQ, TURN_WITH_CHECKPOINT, ShownTurn
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from shared.turn.turns import ACTIVE, TurnStatus, in_sql

MOST_FAILURES: Final = 10_000
MOST_DELAYS: Final = 20_000
"""Sorted in a tenth of a second."""
MOST_WORKERS: Final = 200
MOST_LEASES: Final = 2_000
_LARGEST_ID: Final = UUID(int=2**128 - 1)
_HELD: Final = ACTIVE - {TurnStatus.QUEUED}
"""The statuses of a turn that a worker holds."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How many turns are waiting, how many of those only for a worker, and how many are running."""

    queued: int
    claimable: int
    running: int
    stopping: int


@dataclass(frozen=True, slots=True)
class OldestWaiting:
    """The turn that has waited longest for a worker."""

    id: UUID
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How many turns failed with one fault, or expired, and the last of them."""

    code: str
    turns: int
    last_turn_id: UUID


@dataclass(frozen=True, slots=True)
class StretchDelays:
    """The delays of turns that were first claimed in one stretch of time.

    Each is the median and the 95th percentile, in seconds; None if no turn has that delay.
    """

    stretch: int
    turns: int
    completed: int
    stopped: int
    failed: int
    worker_wait: Sequence[float] | None
    model_wait: Sequence[float] | None
    first_token: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class ListedTurn:
    """A turn in a list."""

    id: UUID
    session_id: UUID
    user_name: str
    status: str
    attempt: int
    model: str | None
    finish_reason: str | None
    stop_reason: str | None
    error: dict[str, Any] | None
    cost_usd: Decimal
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class TurnReport(ShownTurn):
    """All columns of a turn's row that an operator sees."""

    user_name: str
    recovery: str
    request_id: str
    deadline_seconds: float
    handed_back: int
    worker_id: UUID | None
    lease_expires_at: datetime | None
    claimable_at: datetime | None
    held_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class KnownWorker:
    """A worker process."""

    id: UUID
    started_at: datetime
    renewed_at: datetime
    heard_at: datetime
    is_alive: bool
    is_hearing: bool


@dataclass(frozen=True, slots=True)
class LeasedTurn:
    """A turn that a worker holds."""

    id: UUID
    session_id: UUID
    user_name: str
    status: str
    attempt: int
    started_at: datetime | None
    lease_expires_at: datetime | None
    worker_id: UUID


@dataclass(frozen=True, slots=True)
class FlaggedSession:
    """A session that is marked for review, with the mark."""

    id: UUID
    user_name: str
    title: str | None
    status: str
    flag_reason: str | None
    flagged_by: str | None
    flagged_at: datetime
    last_activity_at: datetime


_STANDING: Final = Statement(
    f"""
    select count(*) filter (where status = '{TurnStatus.QUEUED.value}') as queued,
        count(*) filter (where status = '{TurnStatus.QUEUED.value}' and claimable_at is not null) as claimable,
        count(*) filter (where status = '{TurnStatus.RUNNING.value}') as running,
        count(*) filter (where status = '{TurnStatus.STOPPING.value}') as stopping
    from turnkeeper.turns where organization_id = :organization_id and status in ({in_sql(ACTIVE)})
    """,
    Standing,
)
_OLDEST: Final = Statement(
    f"""
    select id, extract(epoch from clock_timestamp() - claimable_at)::float8 as wait_seconds
    from turnkeeper.turns
    where organization_id = :organization_id and status = '{TurnStatus.QUEUED.value}' and claimable_at is not null
    order by claimable_at limit 1
    """,
    OldestWaiting,
)
# An id begins with the time of acceptance, so the index on ids knows how old a turn is.
_FAILURES: Final = Statement(
    f"""
    select coalesce(code, '{TurnStatus.EXPIRED.value}') as code, count(*) as turns,
        (array_agg(id order by id desc))[1] as last_turn_id
    from (
        (select id, error ->> 'code' as code from turnkeeper.turns
         where organization_id = :organization_id and status = '{TurnStatus.FAILED.value}' and id >= :oldest_id
         order by id desc limit {MOST_FAILURES})
        union all
        (select id, null from turnkeeper.turns
         where organization_id = :organization_id and status = '{TurnStatus.EXPIRED.value}' and id >= :oldest_id
         order by id desc limit {MOST_FAILURES})
    ) as ended
    group by 1 order by turns desc, code
    """,
    FailureCount,
)
# A turn that was handed back has a later `claimable_at` than its first claim: its first wait is no longer known.
_DELAYS: Final = Statement(
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
        count(*) filter (where status = '{TurnStatus.COMPLETED.value}') as completed,
        count(*) filter (where status = '{TurnStatus.STOPPED.value}') as stopped,
        count(*) filter (where status = '{TurnStatus.FAILED.value}') as failed,
        percentile_cont(array[0.5, 0.95]) within group (order by worker_wait::float8) as worker_wait,
        percentile_cont(array[0.5, 0.95]) within group (order by model_wait::float8) as model_wait,
        percentile_cont(array[0.5, 0.95]) within group (order by first_token::float8) as first_token
    from claimed group by 1 order by 1
    """,
    StretchDelays,
)
_OF_LIST: Final = columns(ListedTurn)


def _turns_where(condition: str) -> Statement[ListedTurn]:
    """Return the statement that lists turns; the condition is spelled as in its index."""
    return Statement(
        f"""
        select {_OF_LIST} from turnkeeper.turns
        where organization_id = :organization_id and id < :before and {condition}
        order by id desc limit :most
        """,
        ListedTurn,
    )


_TURNS: Final = _turns_where("true")
# No index by code: under row-level security `->>` cannot be an index condition.
_TURNS_BY_FAULT: Final = Statement(
    f"""
    select * from (
        select {_OF_LIST} from turnkeeper.turns
        where organization_id = :organization_id and id < :before and status = '{TurnStatus.FAILED.value}'
        order by id desc limit {MOST_FAILURES}
    ) as failed
    where error ->> 'code' = :code order by id desc limit :most
    """,
    ListedTurn,
)
_TURNS_BY_STATUS: Final[Mapping[TurnStatus, Statement[ListedTurn]]] = MappingProxyType(
    {status: _turns_where(f"status = {in_sql({status})}") for status in TurnStatus}
)
_TURN: Final = Statement(
    f"""
    select {columns(TurnReport, "t", without=frozenset({"last_seq", "held_usd"}))}, {LAST_SEQ},
        (select sum(h.amount_usd) from turnkeeper.holds as h
         where h.organization_id = t.organization_id and h.turn_id = t.id) as held_usd
    from turnkeeper.turns as t {TURN_WITH_CHECKPOINT}
    where t.organization_id = :organization_id and t.id = :turn_id
    """,
    TurnReport,
)
# The table has no organization; how many turns a worker runs in all is not read (I9).
_WORKERS: Final = Statement(
    f"""
    select id, started_at, renewed_at, heard_at,
        renewed_at > clock_timestamp() - make_interval(secs => :alive_seconds) as is_alive,
        heard_at > clock_timestamp() - make_interval(secs => :deaf_seconds) as is_hearing
    from turnkeeper.workers order by started_at, id limit {MOST_WORKERS}
    """,
    KnownWorker,
)
_LEASES: Final = Statement(
    f"""
    select {columns(LeasedTurn)}
    from turnkeeper.turns
    where organization_id = :organization_id and status in ({in_sql(_HELD)}) and worker_id is not null
    order by started_at, id limit {MOST_LEASES}
    """,
    LeasedTurn,
)
_FLAGGED: Final = Statement(
    f"""
    select {columns(FlaggedSession)}
    from turnkeeper.sessions
    where organization_id = :organization_id and flagged
      and (flagged_at, id) < (cast(:before_at as timestamptz), cast(:before_id as uuid))
    order by flagged_at desc, id desc limit :most
    """,
    FlaggedSession,
)


def standing(db: Connection, organization_id: UUID) -> Standing:
    """Return how many turns are waiting and running."""
    return _STANDING.one(db, {"organization_id": organization_id})


def oldest_waiting(db: Connection, organization_id: UUID) -> OldestWaiting | None:
    """Return the turn that has waited longest for a worker."""
    return _OLDEST.one_or_none(db, {"organization_id": organization_id})


def failures_by_code(db: Connection, organization_id: UUID, oldest_id: UUID) -> Sequence[FailureCount]:
    """Return how many turns failed with which fault, of those with ids from `oldest_id` on."""
    return _FAILURES.all(db, {"organization_id": organization_id, "oldest_id": oldest_id})


def delays(
    db: Connection, organization_id: UUID, since: datetime, stretch_seconds: int
) -> Sequence[StretchDelays]:
    """Return the delays of turns first claimed since `since`, by stretches numbered from 0."""
    parameters = {"organization_id": organization_id, "since": since, "stretch_seconds": stretch_seconds}
    return _DELAYS.all(db, parameters)


def turns_of_organization(
    db: Connection,
    organization_id: UUID,
    *,
    status: TurnStatus | None,
    code: str | None,
    before: UUID | None,
    most: int,
) -> Sequence[ListedTurn]:
    """Return turns accepted before `before`, newest first; with a code, of the newest 10,000 failed ones."""
    parameters: dict[str, Any] = {
        "organization_id": organization_id,
        "before": before or _LARGEST_ID,
        "most": most,
    }
    if code is not None:
        if status not in (None, TurnStatus.FAILED):
            return []  # no other turn has an error
        return _TURNS_BY_FAULT.all(db, {**parameters, "code": code})
    return (_TURNS if status is None else _TURNS_BY_STATUS[status]).all(db, parameters)


def turn_report(db: Connection, organization_id: UUID, turn_id: UUID) -> TurnReport | None:
    """Return the report of one turn."""
    return _TURN.one_or_none(db, {"organization_id": organization_id, "turn_id": turn_id})


def workers(db: Connection, *, alive_seconds: float, deaf_seconds: float) -> Sequence[KnownWorker]:
    """Return the worker processes; one that has not renewed its row for `alive_seconds` counts as dead."""
    return _WORKERS.all(db, {"alive_seconds": alive_seconds, "deaf_seconds": deaf_seconds})


def leases(db: Connection, organization_id: UUID) -> Sequence[LeasedTurn]:
    """Return the organization's turns that a worker holds, in the order in which they began."""
    return _LEASES.all(db, {"organization_id": organization_id})


def flagged_sessions(
    db: Connection, organization_id: UUID, *, before: TimeCursor | None, most: int
) -> Sequence[FlaggedSession]:
    """Return flagged sessions past `before`, the last flagged first."""
    parameters = {
        "organization_id": organization_id,
        "before_at": before.at.isoformat() if before else "infinity",
        "before_id": before.id if before else _LARGEST_ID,
        "most": most,
    }
    return _FLAGGED.all(db, parameters)
