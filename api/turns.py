"""Turns: post one, list and read them, wait for one, stop one."""

import hashlib
import json
import threading
from dataclasses import replace
from datetime import timedelta
from typing import Final, assert_never
from uuid import UUID

from flask import Response, request

from api import models, queries, resources
from api.after_end import answer_after_end, no_place
from api.backlog import backlog_of
from api.caller import Caller
from api.choice import provider_of
from api.cursors import NumberCursor
from api.notices import Ring
from api.operation import Call, Operation, Reply
from api.problems import retry_after
from api.relay.sse import TRY_AGAIN_MS
from api.requests import idempotency_key_of, invalid, traceparent_of
from api.sessions import require_session
from api.statements import turns
from api.statements.accept import accept_turn
from api.statements.acceptance import Accepted, AcceptRules, Expired, TurnRequest
from api.statements.idempotency import Replayed
from api.statements.sessions import session_expired
from api.statements.turns import ShownTurn
from api.stops import stop, tell_stop
from api.streams import refuse_without_room, stream_of, wants_stream
from shared import failpoints
from shared.configuration.settings import Settings
from shared.errors import ProblemCode, RefusedError
from shared.failpoints import Failpoint
from shared.observing.logs import bind_log_ids
from shared.turn.events_of_turn import accept_events
from shared.turn.turns import TERMINAL, StopReason

_OPEN_SECONDS: Final = 1.0
"""A stream begins with the log's first event; with a snapshot if Redis is down."""


def create_turn(call: Call, session_id: UUID, body: models.NewTurn) -> Reply | Response:
    """Ask for an answer; when this is answered, the message and the turn are committed."""
    settings, caller = call.services.settings, call.caller
    wanted = _turn_request(call, session_id, body)
    is_streamed = wants_stream(request)
    if is_streamed:
        refuse_without_room(call)
    with (
        backlog_of(settings, caller.organization_id).look() as backlog,
        call.services.refusals.noted(caller, session_id),
        call.services.limits.place(caller, session_id, wanted.key, wanted.fingerprint) as place,
    ):
        with call.services.database.of(caller.organization_id) as db:
            outcome = accept_turn(db, caller, wanted, _limits(settings, wanted), backlog)
        if isinstance(outcome, Accepted):
            place.keep()
    match outcome:
        case Expired():
            raise session_expired()
        case Replayed(turn_id):
            row, status, headers = _find(call, turn_id), 200, {"Idempotency-Replayed": "true"}
        case Accepted(row, superseded):
            bind_log_ids(turn_id=row.id)
            failpoints.reach(Failpoint.AFTER_ACCEPT)
            # After the commit, never before: a worker that is woken at once finds the row.
            for stopped in superseded:
                tell_stop(call.services.notices, stopped)
            opened = threading.Event() if is_streamed else None
            call.services.notices.put(
                Ring(row.session_id, row.id, wanted.traceparent, accept_events(row), opened)
            )
            if opened is not None:
                opened.wait(_OPEN_SECONDS)
            status, headers = 202, dict(place.headers)
        case _:
            assert_never(outcome)
    headers["Location"] = resources.turn_path(row.id)
    if is_streamed:
        return stream_of(call, row.id, after=0, headers=headers)
    return Reply(status, resources.turn(row, settings, call.caller), headers)


def list_turns(call: Call, session_id: UUID, query: queries.Page) -> Reply:
    """List a session's turns, newest first."""
    before = None if query.cursor is None else NumberCursor.decode(query.cursor).number
    require_session(call, session_id)
    with call.services.database.of(call.caller.organization_id) as db:
        rows = turns.list_turns(db, call.caller, session_id, before=before, most=query.limit + 1)
    shown, last = resources.page(rows, query.limit)
    data = [resources.turn(row, call.services.settings, call.caller) for row in shown]
    cursor = None if last is None else NumberCursor(last.number).encode()
    return Reply(200, models.TurnList(data=data, next_cursor=cursor))


def get_turn(call: Call, turn_id: UUID, query: queries.Wait) -> Reply | Response:
    """Read a turn; with `wait`, once it has ended or that time is over."""
    row = _find(call, turn_id)
    if row.status in TERMINAL or not query.wait:
        return Reply(200, resources.turn(row, call.services.settings, call.caller))

    def read() -> Reply:
        return Reply(200, resources.turn(_find(call, turn_id), call.services.settings, call.caller))

    answer = answer_after_end(call, turn_id, float(query.wait), read)
    if answer is None:
        raise no_place()
    return answer


def stop_turn(call: Call, turn_id: UUID, body: models.Stop) -> Reply | Response:
    """Stop a turn, whatever its phase; idempotent."""
    stopped = stop(call.services.database, call.services.notices, call.caller, turn_id, StopReason.USER)
    if stopped is None:
        raise _no_such_turn()

    def reply(row: ShownTurn) -> Reply:
        shown = resources.turn(row, call.services.settings, call.caller)
        return Reply(200 if shown.status in TERMINAL else 202, shown)

    if stopped.row.status in TERMINAL or not body.wait_ms:
        return reply(stopped.row)
    answer = answer_after_end(call, turn_id, body.wait_ms / 1000, lambda: reply(_find(call, turn_id)))
    # The stop is written in any case: without a place to wait for its effect, look again later.
    return answer or replace(reply(stopped.row), headers={"Retry-After": retry_after(TRY_AGAIN_MS)})


def _find(call: Call, turn_id: UUID) -> ShownTurn:
    with call.services.database.of(call.caller.organization_id) as db:
        row = turns.find_turn(db, call.caller, turn_id)
    if row is None:
        raise _no_such_turn()
    return row


def _no_such_turn() -> RefusedError:
    return RefusedError(ProblemCode.NOT_FOUND, "there is no such turn")


def _turn_request(call: Call, session_id: UUID, body: models.NewTurn) -> TurnRequest:
    """Fill in the defaults and check what depends on the configuration.

    Raises:
        RefusedError: A field is wrong.
    """
    settings = call.services.settings
    if (body.max_output_tokens or 0) > settings.max_output_tokens:
        raise invalid("/max_output_tokens", f"must not be more than {settings.max_output_tokens}")
    deadline = body.deadline_seconds or settings.turn_timeout_seconds
    if deadline > settings.turn_timeout_seconds:
        raise invalid("/deadline_seconds", f"must not be more than {settings.turn_timeout_seconds:g}")
    return TurnRequest(
        session_id=session_id,
        content=body.content,
        max_output_tokens=body.max_output_tokens or settings.max_output_tokens,
        deadline_seconds=deadline,
        strategy=body.multitask_strategy,
        recovery=body.recovery,
        metadata=body.metadata or {},
        traceparent=traceparent_of(request),
        request_id=call.request_id,
        key=idempotency_key_of(request),
        fingerprint=fingerprint(call.caller, session_id, body),
    )


def fingerprint(caller: Caller, session_id: UUID, body: models.NewTurn) -> bytes:
    """Return the fingerprint of a request, which its Idempotency-Key stands for.

    The user of a `user` key is part of it and the key's id is not: a replay may follow after the key was
    rotated, and must never give one user another's turn.
    """
    scope = ["user", caller.user] if caller.role == "user" else ["organization"]
    canonical = json.dumps(
        [scope, str(session_id), body.model_dump(mode="json")], sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).digest()


def _limits(settings: Settings, wanted: TurnRequest) -> AcceptRules:
    return AcceptRules(
        session_idle=timedelta(seconds=settings.session_idle_seconds),
        session_age=timedelta(seconds=settings.session_age_seconds),
        idempotency=timedelta(seconds=settings.idempotency_seconds),
        priced=provider_of(settings, wanted),
        context_tokens=settings.context_tokens,
        max_concurrent_turns=settings.max_concurrent_turns,
        most_queued=settings.max_queued_turns,
    )


_TAG: Final = "Turns"
OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/sessions/{session_id}/turns",
        _TAG,
        {202: models.Turn, 200: models.Turn},
        create_turn,
        (
            ProblemCode.BUDGET_EXCEEDED,
            ProblemCode.AI_DISABLED,
            ProblemCode.NOT_FOUND,
            ProblemCode.SESSION_BUSY,
            ProblemCode.IDEMPOTENCY_IN_PROGRESS,
            ProblemCode.SESSION_CLOSED,
            ProblemCode.SESSION_EXPIRED,
            ProblemCode.IDEMPOTENCY_CONFLICT,
            ProblemCode.TURN_LIMIT_REACHED,
            ProblemCode.RATE_LIMITED,
            ProblemCode.TOO_MANY_TURNS,
            ProblemCode.QUEUE_FULL,
        ),
        body=models.NewTurn,
        headers={
            "Idempotency-Key": "At most 255 visible ASCII characters; the same request with it makes one turn.",
            "traceparent": "W3C trace context; goes with the turn to the provider.",
        },
        sends={
            200: ("Location", "Idempotency-Replayed", "RateLimit-Policy", "RateLimit"),
            202: ("Location", "RateLimit-Policy", "RateLimit"),
        },
        streams=True,
    ),
    Operation(
        "GET",
        "/v1/sessions/{session_id}/turns",
        _TAG,
        {200: models.TurnList},
        list_turns,
        (ProblemCode.NOT_FOUND,),
        query=queries.Page,
    ),
    Operation(
        "GET",
        "/v1/turns/{turn_id}",
        _TAG,
        {200: models.Turn},
        get_turn,
        (ProblemCode.NOT_FOUND, ProblemCode.RATE_LIMITED),  # places to wait are bounded
        query=queries.Wait,
    ),
    Operation(
        "POST",
        "/v1/turns/{turn_id}/stop",
        _TAG,
        {200: models.Turn, 202: models.Turn},
        stop_turn,
        (ProblemCode.NOT_FOUND,),
        body=models.Stop,
        is_body_optional=True,
        sends={202: ("Retry-After",)},
    ),
)
