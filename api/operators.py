"""The operators' view, for an admin: turns by status, delays, failures, workers and flagged sessions.

All of it is the organization's own; only which workers are alive, and receive doorbells, is visible to all.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from api import operator_models as shown
from api import queries, resources
from api.cursors import IdCursor, TimeCursor
from api.health import DEAF_SECONDS, WORKER_SECONDS
from api.operation import ADMINS, Call, Operation, Reply
from api.statements import operators
from api.statements.ledger import LedgerFilter, ledger_rows
from api.statements.operators import (
    FlaggedSession,
    KnownWorker,
    LeasedTurn,
    ListedTurn,
    StretchDelays,
    TurnReport,
)
from shared.errors import ProblemCode, RefusedError
from shared.ids import first_id_of
from shared.money.money import format_usd
from shared.turn.events import timestamp
from shared.turn.turns import FinishReason, Recovery, SessionStatus, StopReason, TurnStatus

_FAILURES: Final = timedelta(hours=24)
_STRETCH_SECONDS: Final = 300
_STRETCHES: Final = 12
_MOST_ATTEMPTS: Final = 100
"""Far more than there are: a turn ends with its third counted attempt."""
_MOST_SHOWN_LEASES: Final = 20
_ACCEPTING: Final = timedelta(milliseconds=100)
"""A turn that waits for no other can be claimed from the end of the transaction that accepts it."""


def get_operations_summary(call: Call) -> Reply:
    """Read how the organization's turns stand now, and what failed in the last 24 hours."""
    organization_id = call.caller.organization_id
    now = datetime.now(UTC)
    with call.services.database.of(organization_id) as db:
        standing = operators.standing(db, organization_id)
        oldest = operators.oldest_waiting(db, organization_id)
        failures = operators.failures_by_code(db, organization_id, first_id_of(now - _FAILURES))
    return Reply(
        200,
        shown.OperationsSummary(
            at=timestamp(now),
            queued=standing.queued,
            claimable=standing.claimable,
            running=standing.running,
            stopping=standing.stopping,
            oldest_turn_id=None if oldest is None else str(oldest.id),
            oldest_wait_seconds=None if oldest is None else max(0.0, oldest.wait_seconds),
            failures=[
                shown.FaultCount(code=row.code, turns=row.turns, last_turn_id=str(row.last_turn_id))
                for row in failures
            ],
        ),
    )


def get_delays(call: Call) -> Reply:
    """Read how long turns waited for a worker and for their first text, over the last hour."""
    organization_id = call.caller.organization_id
    since = datetime.now(UTC) - timedelta(seconds=_STRETCHES * _STRETCH_SECONDS)
    with call.services.database.of(organization_id) as db:
        rows = operators.delays(db, organization_id, since, _STRETCH_SECONDS)
    # Turns claimed while this runs belong to the last stretch.
    by_stretch = {min(row.stretch, _STRETCHES - 1): row for row in reversed(rows)}
    turns = sum(row.turns for row in rows)
    return Reply(
        200,
        shown.Delays(
            stretch_seconds=_STRETCH_SECONDS,
            turns=turns,
            is_cut=turns == operators.MOST_DELAYS,
            completed=sum(row.completed for row in rows),
            stopped=sum(row.stopped for row in rows),
            failed=sum(row.failed for row in rows),
            data=[
                _delay(since + timedelta(seconds=number * _STRETCH_SECONDS), by_stretch.get(number))
                for number in range(_STRETCHES)
            ],
        ),
    )


def list_organization_turns(call: Call, query: queries.TurnPage) -> Reply:
    """List the organization's turns, newest first; of failed ones by what they failed."""
    organization_id = call.caller.organization_id
    before = None if query.cursor is None else IdCursor.decode(query.cursor).id
    with call.services.database.of(organization_id) as db:
        rows = operators.turns_of_organization(
            db, organization_id, status=query.status, code=query.code, before=before, most=query.limit + 1
        )
    page, last = resources.page(rows, query.limit)
    cursor = None if last is None else IdCursor(last.id).encode()
    return Reply(200, shown.TurnSummaryList(data=[_summary(row) for row in page], next_cursor=cursor))


def get_turn_report(call: Call, turn_id: UUID) -> Reply:
    """Read all that is known of one turn: its times, its attempts and what they cost. Nothing of what was said."""
    organization_id = call.caller.organization_id
    with call.services.database.of(organization_id) as db:
        row = operators.turn_report(db, organization_id, turn_id)
        if row is None:
            raise RefusedError(ProblemCode.NOT_FOUND, "there is no such turn")
        meant = LedgerFilter(turn_id=turn_id)
        attempts = ledger_rows(db, organization_id, meant, before=None, most=_MOST_ATTEMPTS)
    return Reply(
        200,
        shown.TurnReport(
            turn=resources.turn(row, call.services.settings, call.caller),
            user=row.user_name,
            recovery=Recovery(row.recovery),
            request_id=row.request_id,
            deadline_seconds=row.deadline_seconds,
            handed_back=row.handed_back,
            worker_id=None if row.worker_id is None else str(row.worker_id),
            lease_expires_at=resources.time_or_none(row.lease_expires_at),
            held_usd=None if row.held_usd is None else format_usd(row.held_usd),
            timeline=_timeline(row),
            attempts=[resources.ledger_row(attempt) for attempt in reversed(attempts)],
        ),
    )


def list_workers(call: Call) -> Reply:
    """List the worker processes and which of the organization's turns each of them holds."""
    organization_id = call.caller.organization_id
    with call.services.database.of(organization_id) as db:
        known = operators.workers(db, alive_seconds=WORKER_SECONDS, deaf_seconds=DEAF_SECONDS)
        leases = operators.leases(db, organization_id)
    held: dict[UUID, list[LeasedTurn]] = {}
    for lease in leases:
        held.setdefault(lease.worker_id, []).append(lease)
    workers = [_worker(row.id, _state(row), row, held.pop(row.id, ())) for row in known]
    # A lease outlives its worker's row by at most its own length.
    workers += [_worker(worker, shown.WorkerState.GONE, None, of_it) for worker, of_it in held.items()]
    return Reply(200, shown.WorkerList(data=workers))


def list_flagged_sessions(call: Call, query: queries.Page) -> Reply:
    """List the sessions that were marked for review, those marked last first."""
    organization_id = call.caller.organization_id
    before = None if query.cursor is None else TimeCursor.decode(query.cursor)
    with call.services.database.of(organization_id) as db:
        rows = operators.flagged_sessions(db, organization_id, before=before, most=query.limit + 1)
    page, last = resources.page(rows, query.limit)
    cursor = None if last is None else TimeCursor(last.flagged_at, last.id).encode()
    return Reply(200, shown.FlaggedSessionList(data=[_flagged(row) for row in page], next_cursor=cursor))


def _delay(begins_at: datetime, row: StretchDelays | None) -> shown.Delay:
    return shown.Delay(
        begins_at=timestamp(begins_at),
        turns=0 if row is None else row.turns,
        worker_wait=None if row is None else _percentiles(row.worker_wait),
        model_wait=None if row is None else _percentiles(row.model_wait),
        first_token=None if row is None else _percentiles(row.first_token),
    )


def _percentiles(values: Sequence[float] | None) -> shown.Percentiles | None:
    """Return the two percentiles; None if there are no values."""
    if values is None:
        return None
    half, most = (round(max(0.0, value), 6) for value in values)
    return shown.Percentiles(p50_seconds=half, p95_seconds=most)


def _summary(row: ListedTurn) -> shown.TurnSummary:
    return shown.TurnSummary(
        id=str(row.id),
        session_id=str(row.session_id),
        user=row.user_name,
        status=TurnStatus(row.status),
        attempt=row.attempt,
        model=row.model,
        finish_reason=resources.one_of(FinishReason, row.finish_reason),
        stop_reason=resources.one_of(StopReason, row.stop_reason),
        error=row.error,
        cost_usd=format_usd(row.cost_usd),
        queued_at=timestamp(row.queued_at),
        started_at=resources.time_or_none(row.started_at),
        first_token_at=resources.time_or_none(row.first_token_at),
        finished_at=resources.time_or_none(row.finished_at),
    )


def _timeline(row: TurnReport) -> list[shown.TimelineEntry]:
    """Return what happened, in order of time; `claimable` only for a turn that waited behind another, or again."""
    moment = shown.Moment
    has_waited = row.claimable_at is not None and row.claimable_at - row.queued_at > _ACCEPTING
    moments = [
        (moment.ACCEPTED, row.queued_at),
        (moment.CLAIMABLE, row.claimable_at if has_waited else None),
        (moment.CLAIMED, row.started_at),
        (moment.FIRST_TOKEN, row.first_token_at),
        (moment.STOP_REQUESTED, row.stop_requested_at),
        (moment.STOP_OBSERVED, row.stop_observed_at),
        (moment.DONE, row.finished_at),
    ]
    happened = sorted(((name, at) for name, at in moments if at is not None), key=lambda entry: entry[1])
    return [
        shown.TimelineEntry(
            moment=name, at=timestamp(at), after_seconds=round((at - row.queued_at).total_seconds(), 6)
        )
        for name, at in happened
    ]


def _state(row: KnownWorker) -> shown.WorkerState:
    if not row.is_alive:
        return shown.WorkerState.GONE
    return shown.WorkerState.HEARING if row.is_hearing else shown.WorkerState.DEAF


def _worker(
    worker_id: UUID, state: shown.WorkerState, row: KnownWorker | None, held: Sequence[LeasedTurn]
) -> shown.Worker:
    return shown.Worker(
        id=str(worker_id),
        state=state,
        started_at=None if row is None else timestamp(row.started_at),
        renewed_at=None if row is None else timestamp(row.renewed_at),
        heard_at=None if row is None else timestamp(row.heard_at),
        running=len(held),
        turns=[_leased(lease) for lease in held[:_MOST_SHOWN_LEASES]],
    )


def _leased(row: LeasedTurn) -> shown.LeasedTurn:
    assert row.started_at is not None, "a turn that a worker holds has begun"
    return shown.LeasedTurn(
        id=str(row.id),
        session_id=str(row.session_id),
        user=row.user_name,
        status=TurnStatus(row.status),
        attempt=row.attempt,
        started_at=timestamp(row.started_at),
        lease_expires_at=resources.time_or_none(row.lease_expires_at),
    )


def _flagged(row: FlaggedSession) -> shown.FlaggedSession:
    return shown.FlaggedSession(
        id=str(row.id),
        user=row.user_name,
        title=row.title,
        status=SessionStatus(row.status),
        flag_reason=row.flag_reason,
        flagged_by=row.flagged_by,
        flagged_at=timestamp(row.flagged_at),
        last_activity_at=timestamp(row.last_activity_at),
    )


_TAG: Final = "Operations"
OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/operations/summary",
        _TAG,
        {200: shown.OperationsSummary},
        get_operations_summary,
        roles=ADMINS,
    ),
    Operation("GET", "/v1/operations/delays", _TAG, {200: shown.Delays}, get_delays, roles=ADMINS),
    Operation(
        "GET",
        "/v1/operations/turns",
        _TAG,
        {200: shown.TurnSummaryList},
        list_organization_turns,
        query=queries.TurnPage,
        roles=ADMINS,
    ),
    Operation(
        "GET",
        "/v1/operations/turns/{turn_id}",
        _TAG,
        {200: shown.TurnReport},
        get_turn_report,
        (ProblemCode.NOT_FOUND,),
        roles=ADMINS,
    ),
    Operation("GET", "/v1/operations/workers", _TAG, {200: shown.WorkerList}, list_workers, roles=ADMINS),
    Operation(
        "GET",
        "/v1/operations/flagged",
        _TAG,
        {200: shown.FlaggedSessionList},
        list_flagged_sessions,
        query=queries.Page,
        roles=ADMINS,
    ),
)
