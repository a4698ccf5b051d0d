"""Accepting a turn: the user's message and the turn, in one transaction.

The session's row is locked, so that parallel posts meet one after another; what is refused leaves
nothing behind, because the refusal rolls back. One thing outlives its refusal: a session that is
found to be over its age is `expired` from then on.
"""

# ruff: noqa: S608 -- statements are put together from constants of ours, once

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import OperationalError

from api.relay.store import Caller
from api.statements.caller import scope_of
from api.statements.turns import STORED_COLUMNS
from shared.errors import ProblemCode, RefusedError
from shared.ids import new_id
from shared.titles import title_from
from shared.turns import ACTIVE, Recovery, SessionStatus, TurnStatus

_LOCK_NOT_AVAILABLE: Final = "55P03"
_TRY_AGAIN_MS: Final = 1000
_INSERT_TRIES: Final = 3
"""A turn may end between the insert that it stopped and the look at which it was."""

# A foreign key binds the idempotency row to its turn, which does not exist yet: the key itself is locked.
# Two keys that share a hash only wait for each other.
_LOCK_KEY: Final = text(
    "select pg_advisory_xact_lock(hashtextextended(cast(:organization_id as text) || '/' || :key, 0))"
)
_FIND_KEY: Final = text(
    """
    select fingerprint, turn_id from turnkeeper.idempotency_keys
    where organization_id = :organization_id and key = :key
      and created_at > now() - make_interval(secs => :idempotency_seconds)
    """
)
# NO KEY UPDATE: other posts wait, a worker that writes the session's messages does not.
_LOCK_SESSION: Final = text(
    """
    select s.user_name, s.title, s.status, s.max_turns, s.turn_count, o.ai_enabled,
           s.last_activity_at < now() - make_interval(secs => :idle_seconds)
           or s.created_at < now() - make_interval(secs => :age_seconds) as is_over
    from turnkeeper.sessions as s join turnkeeper.organizations as o on o.id = s.organization_id
    where s.organization_id = :organization_id and s.id = :session_id
      and (cast(:only_user as text) is null or s.user_name = :only_user)
    for no key update of s
    """
)
_ACTIVE_TURN: Final = text(
    """
    select id from turnkeeper.turns
    where organization_id = :organization_id and session_id = :session_id and status = any(:active)
    order by number limit 1
    """
)
_EXPIRE: Final = text(
    """
    update turnkeeper.sessions set status = 'expired', closed_at = now()
    where organization_id = :organization_id and id = :session_id
    """
)
_INSERT: Final = text(
    f"""
    with touched as (
        update turnkeeper.sessions as s set
            next_turn_number = s.next_turn_number + 1,
            last_activity_at = now(),
            title = coalesce(s.title, :title)
        where s.organization_id = :organization_id and s.id = :session_id
          and not exists (
              select from turnkeeper.turns as a
              where a.organization_id = s.organization_id and a.session_id = s.id and a.status = any(:active))
        returning s.next_turn_number - 1 as number, s.user_name
    ), accepted as (
        insert into turnkeeper.turns as t
            (organization_id, id, session_id, number, user_name, status, recovery, user_message_id, answer_id,
             max_output_tokens, deadline_seconds, last_seq, metadata, title, traceparent, request_id)
        select :organization_id, :turn_id, :session_id, number, user_name, :queued, :recovery, :user_message_id,
               :answer_id, :max_output_tokens, :deadline_seconds, :last_seq, cast(:metadata as jsonb),
               cast(:title as text), :traceparent, :request_id
        from touched
        returning t.*
    ), asked as (
        insert into turnkeeper.messages
            (organization_id, id, session_id, turn_id, position, role, content, status)
        select organization_id, user_message_id, session_id, id, number * 2, 'user', :content, 'complete'
        from accepted
    ), remembered as (
        insert into turnkeeper.idempotency_keys as k (organization_id, key, fingerprint, turn_id)
        select organization_id, :key, :fingerprint, id from accepted where cast(:key as text) is not null
        on conflict (organization_id, key) do update
            set fingerprint = excluded.fingerprint, turn_id = excluded.turn_id, created_at = now()
    )
    select {STORED_COLUMNS} from accepted as t
    """
)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A valid request for a turn, with every default filled in.

    Args:
        session_id: The session.
        content: The user's text, as written.
        max_output_tokens: Most tokens of the answer.
        deadline_seconds: Longest run, in seconds.
        recovery: What happens when an attempt dies after text was shown.
        metadata: The client's own.
        traceparent: W3C trace context; empty for none.
        request_id: The request's id.
        key: The Idempotency-Key; None for none.
        fingerprint: What the key stands for: caller, session and body.
    """

    session_id: UUID
    content: str
    max_output_tokens: int
    deadline_seconds: float
    recovery: Recovery
    metadata: Mapping[str, Any]
    traceparent: str
    request_id: str
    key: str | None
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What accepting a turn checks against."""

    session_idle: timedelta
    session_age: timedelta
    idempotency: timedelta


@dataclass(frozen=True, slots=True)
class Accepted:
    """A new turn."""

    row: Row[Any]


@dataclass(frozen=True, slots=True)
class Replayed:
    """The turn that the same request made before."""

    turn_id: UUID


@dataclass(frozen=True, slots=True)
class Expired:
    """The session was found to be over its limits; it is `expired` now, which must be committed."""


def accept_turn(
    db: Connection, caller: Caller, request: TurnRequest, limits: Limits
) -> Accepted | Replayed | Expired:
    """Accept a turn in the caller's transaction.

    Raises:
        RefusedError: Nothing was written, and the transaction must be rolled back.
    """
    if request.key is not None and (earlier := _replay(db, caller, request, limits)) is not None:
        return earlier
    session = db.execute(
        _LOCK_SESSION,
        {
            **scope_of(caller),
            "session_id": request.session_id,
            "idle_seconds": limits.session_idle.total_seconds(),
            "age_seconds": limits.session_age.total_seconds(),
        },
    ).one_or_none()
    if session is None:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such session")
    refuse_ended_session(session.status)
    if session.is_over and _active_turn(db, caller, request) is None:
        db.execute(_EXPIRE, {"organization_id": caller.organization_id, "session_id": request.session_id})
        return Expired()
    if not session.ai_enabled:
        raise RefusedError(ProblemCode.AI_DISABLED, "the organization has AI switched off")
    if session.turn_count >= session.max_turns:
        raise RefusedError(
            ProblemCode.TURN_LIMIT_REACHED,
            f"the session's {session.max_turns} turns are used up: open another session",
            members={"max_turns": session.max_turns},
        )
    title = None if session.title else title_from(request.content)
    for _ in range(_INSERT_TRIES):
        if (row := _insert(db, caller, request, title)) is not None:
            return Accepted(row)
        if (active := _active_turn(db, caller, request)) is not None:
            break  # else it ended between the two statements
    raise RefusedError(
        ProblemCode.SESSION_BUSY,
        "a turn of this session is queued or running: wait for its end or stop it",
        retry_after_ms=_TRY_AGAIN_MS,
        members={"active_turn_id": None if active is None else str(active)},
    )


def refuse_ended_session(status: str) -> None:
    """Refuse what only an active session takes.

    Raises:
        RefusedError: The session is closed or expired.
    """
    match SessionStatus(status):
        case SessionStatus.CLOSED:
            raise RefusedError(ProblemCode.SESSION_CLOSED, "the session was closed: open another")
        case SessionStatus.EXPIRED:
            raise session_expired()
        case SessionStatus.ACTIVE:
            return


def session_expired() -> RefusedError:
    """Return the refusal of a session that is over its idle or age limit."""
    return RefusedError(
        ProblemCode.SESSION_EXPIRED, "the session is over its idle or age limit: open another"
    )


def _replay(db: Connection, caller: Caller, request: TurnRequest, limits: Limits) -> Replayed | None:
    """Look the key up; whoever is first holds its lock until its transaction ends."""
    parameters = {
        "organization_id": caller.organization_id,
        "key": request.key,
        "idempotency_seconds": limits.idempotency.total_seconds(),
    }
    try:
        db.execute(_LOCK_KEY, parameters)
    except OperationalError as exc:
        if getattr(exc.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise RefusedError(
            ProblemCode.IDEMPOTENCY_IN_PROGRESS,
            "the first request with this Idempotency-Key has not finished: send it again",
            retry_after_ms=_TRY_AGAIN_MS,
        ) from exc
    # A statement of its own: its snapshot must be younger than the lock.
    earlier = db.execute(_FIND_KEY, parameters).one_or_none()
    if earlier is None:
        return None
    if bytes(earlier.fingerprint) != request.fingerprint:
        raise RefusedError(
            ProblemCode.IDEMPOTENCY_CONFLICT,
            "this Idempotency-Key was used for another request: use a new one",
        )
    return Replayed(earlier.turn_id)


def _active_turn(db: Connection, caller: Caller, request: TurnRequest) -> UUID | None:
    parameters = {
        "organization_id": caller.organization_id,
        "session_id": request.session_id,
        "active": sorted(ACTIVE),
    }
    found: UUID | None = db.execute(_ACTIVE_TURN, parameters).scalar_one_or_none()
    return found


def _insert(db: Connection, caller: Caller, request: TurnRequest, title: str | None) -> Row[Any] | None:
    """Insert turn, message and key unless a turn is active, which is None."""
    parameters = {
        "organization_id": caller.organization_id,
        "session_id": request.session_id,
        "turn_id": new_id(),
        "user_message_id": new_id(),
        "answer_id": new_id(),
        "active": sorted(ACTIVE),
        "queued": TurnStatus.QUEUED.value,
        "title": title,
        "content": request.content,
        "recovery": request.recovery.value,
        "max_output_tokens": request.max_output_tokens,
        "deadline_seconds": request.deadline_seconds,
        "last_seq": 1 if title is None else 2,
        "metadata": json.dumps(request.metadata),
        "traceparent": request.traceparent,
        "request_id": request.request_id,
        "key": request.key,
        "fingerprint": request.fingerprint,
    }
    return db.execute(_INSERT, parameters).one_or_none()
