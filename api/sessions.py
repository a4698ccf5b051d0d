"""Sessions: open, list, search, read, change, flag, close, and what only a provider with tools can do."""

from typing import Final
from uuid import UUID

from flask import Response

from api import models, queries, resources
from api.choice import provider_of
from api.cursors import TimeCursor
from api.operation import ADMINS, Call, Operation, Reply
from api.requests import invalid
from api.statements import sessions, turns
from api.statements.sessions import ShownSession
from api.stops import stop
from shared.errors import ProblemCode, RefusedError
from shared.turn.turns import SessionStatus, StopReason


def create_session(call: Call, body: models.NewSession) -> Reply:
    """Open a session."""
    settings = call.services.settings
    with call.services.database.of(call.caller.organization_id) as db:
        row = sessions.open_session(
            db,
            call.caller.organization_id,
            user=_user_of(call, body.user),
            title=body.title,
            system_prompt=body.system_prompt,
            max_turns=_max_turns(call, body.max_turns),
            metadata=body.metadata or {},
        )
    shown = resources.session(row, settings)
    return Reply(201, shown, {"Location": f"/v1/sessions/{shown.id}"})


def list_sessions(call: Call, query: queries.SessionPage) -> Reply:
    """List sessions, newest activity first."""
    before = None if query.cursor is None else TimeCursor.decode(query.cursor)
    with call.services.database.of(call.caller.organization_id) as db:
        rows = sessions.list_sessions(
            db,
            call.caller,
            status=query.status,
            user=query.user,
            before=before,
            most=query.limit + 1,
        )
    shown, last = resources.page(rows, query.limit)
    data = [resources.session(row, call.services.settings) for row in shown]
    return Reply(200, models.SessionList(data=data, next_cursor=_after(last)))


def search_sessions(call: Call, query: queries.SearchPage) -> Reply:
    """Search titles and messages; each session is found once."""
    before = None if query.cursor is None else TimeCursor.decode(query.cursor)
    if not query.q.strip():
        raise invalid("/query/q", "must not be blank")
    with (
        call.services.searches.place(call.caller),
        call.services.database.of(call.caller.organization_id) as db,
    ):
        rows = sessions.search_sessions(db, call.caller, query.q, before=before, most=query.limit + 1)
    shown, last = resources.page(rows, query.limit)
    data = [resources.found_session(row, call.services.settings, query.q) for row in shown]
    return Reply(200, models.FoundSessionList(data=data, next_cursor=_after(last)))


def get_session(call: Call, session_id: UUID) -> Reply:
    """Read a session."""
    with call.services.database.of(call.caller.organization_id) as db:
        row = _found(sessions.find_session(db, call.caller, session_id))
    return Reply(200, resources.session(row, call.services.settings))


def update_session(call: Call, session_id: UUID, body: models.SessionChanges) -> Reply:
    """Change a session's title or metadata; a closed session is only read."""
    with call.services.database.of(call.caller.organization_id) as db:
        row = sessions.change_session(
            db,
            call.caller,
            session_id,
            sets_title="title" in body.model_fields_set,
            title=body.title,
            metadata=body.metadata,
        )
        if row is None:
            _found(sessions.find_session(db, call.caller, session_id))
            sessions.refuse_ended_session(SessionStatus.CLOSED)
    return Reply(200, resources.session(_found(row), call.services.settings))


def close_session(call: Call, session_id: UUID) -> Reply:
    """Close a session; a queued or running turn is stopped, subscribers get its `done`."""
    database, caller = call.services.database, call.caller
    # Two transactions, the session's first: from then on no turn is accepted, so one query finds the last. A
    # worker that settles locks the turn before the session; holding both here in reverse order could deadlock.
    with database.of(caller.organization_id) as db:
        _found(sessions.find_session(db, caller, session_id))
        sessions.close_session(db, caller, session_id)
    with database.of(caller.organization_id) as db:
        active = turns.active_turn(db, caller, session_id)
    if active is not None:
        stop(database, call.services.notices, caller, active, StopReason.SESSION_CLOSED)
    return Reply(204)


def flag_session(call: Call, session_id: UUID, body: models.NewFlag) -> Reply:
    """Mark a session for review."""
    flagged_by = call.caller.user or f"key {call.caller.key_id}"
    with call.services.database.of(call.caller.organization_id) as db:
        row = sessions.flag_session(db, call.caller, session_id, reason=body.reason, flagged_by=flagged_by)
    return Reply(200, resources.session(_found(row), call.services.settings))


def unflag_session(call: Call, session_id: UUID) -> Reply:
    """Take a session's mark away."""
    with call.services.database.of(call.caller.organization_id) as db:
        row = sessions.unflag_session(db, call.caller, session_id)
    return Reply(200, resources.session(_found(row), call.services.settings))


def pause_session(call: Call, session_id: UUID, body: models.Pause) -> Response:
    """Pause a session's tools; not on a provider without tools."""
    del body
    raise _without_tools(call, session_id)


def approve_plan(call: Call, session_id: UUID, body: models.PlanApproval) -> Response:
    """Approve a plan; not on a provider without tools."""
    del body
    raise _without_tools(call, session_id)


def abort_plan(call: Call, session_id: UUID, body: models.Empty) -> Response:
    """Abort a plan; not on a provider without tools."""
    del body
    raise _without_tools(call, session_id)


def require_session(call: Call, session_id: UUID) -> ShownSession:
    """Return a session.

    Raises:
        RefusedError: The caller sees no such session.
    """
    with call.services.database.of(call.caller.organization_id) as db:
        return _found(sessions.find_session(db, call.caller, session_id))


def _user_of(call: Call, named: str | None) -> str:
    """Return the user of a new session: a `user` key's own, else the one that the request names."""
    own = call.caller.user
    if own is None:
        if named is None:
            raise invalid("/user", "is required: this key is not bound to a user")
        return named
    if named is not None and named != own:
        raise RefusedError(
            ProblemCode.FORBIDDEN, "a key of the role 'user' opens sessions for its own user only"
        )
    return own


def _max_turns(call: Call, named: int | None) -> int:
    """Return how many turns a new session allows: what the request asks for, within the organization's limit."""
    most = call.caller.limits.max_turns_per_session
    if named is not None and most is not None and named > most:
        raise invalid("/max_turns", f"must not be more than {most}, the organization's limit")
    wanted = call.services.settings.max_turns_per_session if named is None else named
    return wanted if most is None else min(wanted, most)


def _without_tools(call: Call, session_id: UUID) -> RefusedError:
    sessions.refuse_ended_session(require_session(call, session_id).status)
    provider = provider_of(call.services.settings, None).name.value
    return RefusedError(
        ProblemCode.NOT_SUPPORTED_ON_PROVIDER,
        f"the provider {provider!r} has no tools, so there is nothing to pause, approve or abort",
        members={"provider": provider},
    )


def _found(row: ShownSession | None) -> ShownSession:
    if row is None:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such session")
    return row


def _after(last: ShownSession | None) -> str | None:
    return None if last is None else TimeCursor(last.last_activity_at, last.id).encode()


_TAG: Final = "Sessions"
_ONE: Final = "/v1/sessions/{session_id}"
_MISSING: Final = (ProblemCode.NOT_FOUND,)
_TOOLS: Final = (
    ProblemCode.NOT_FOUND,
    ProblemCode.SESSION_CLOSED,
    ProblemCode.SESSION_EXPIRED,
    ProblemCode.NOT_SUPPORTED_ON_PROVIDER,
)
OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/sessions",
        _TAG,
        {201: models.Session},
        create_session,
        (ProblemCode.FORBIDDEN,),  # a user's key that names somebody else
        body=models.NewSession,
        sends={201: ("Location",)},
    ),
    Operation(
        "GET", "/v1/sessions", _TAG, {200: models.SessionList}, list_sessions, query=queries.SessionPage
    ),
    Operation(
        "GET",
        "/v1/sessions/search",
        _TAG,
        {200: models.FoundSessionList},
        search_sessions,
        (ProblemCode.RATE_LIMITED,),  # searches at once are bounded
        query=queries.SearchPage,
    ),
    Operation("GET", _ONE, _TAG, {200: models.Session}, get_session, _MISSING),
    Operation(
        "PATCH",
        _ONE,
        _TAG,
        {200: models.Session},
        update_session,
        (*_MISSING, ProblemCode.SESSION_CLOSED),
        body=models.SessionChanges,
    ),
    Operation("DELETE", _ONE, _TAG, {204: None}, close_session, _MISSING),
    Operation(
        "POST",
        f"{_ONE}/flag",
        _TAG,
        {200: models.Session},
        flag_session,
        _MISSING,
        body=models.NewFlag,
        is_body_optional=True,
    ),
    Operation("DELETE", f"{_ONE}/flag", _TAG, {200: models.Session}, unflag_session, _MISSING, roles=ADMINS),
    *(
        Operation("POST", f"{_ONE}/{path}", _TAG, {}, run, _TOOLS, body=model, is_body_optional=True)
        for path, run, model in (
            ("pause", pause_session, models.Pause),
            ("approve-plan", approve_plan, models.PlanApproval),
            ("abort-plan", abort_plan, models.Empty),
        )
    ),
)
