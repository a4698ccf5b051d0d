"""Sessions: open, read, list, search, change, close."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, text

from api.caller import Caller, scope_of
from api.cursors import TimeCursor
from shared.errors import ProblemCode, RefusedError, UnavailableError
from shared.ids import new_id
from shared.money.usage import ShownTokens
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
from shared.turn.turns import ACTIVE, SessionStatus, in_sql

SEARCH_SECONDS: Final = 2.0
"""Longest search: of a large organization it reads some hundred megabytes of text."""
_SEARCH_AGAIN_MS: Final = 5000
_QUERY_CANCELED: Final = "57014"


@dataclass(frozen=True, slots=True)
class ShownSession(ShownTokens):
    """The columns from which a session is shown."""

    id: UUID
    user_name: str
    title: str | None
    status: str
    system_prompt: str | None
    max_turns: int
    turn_count: int
    cost_usd: Decimal
    flagged: bool
    metadata: dict[str, Any]
    created_at: datetime
    last_activity_at: datetime
    active_turn_id: UUID | None


@dataclass(frozen=True, slots=True)
class FoundSession(ShownSession):
    """A session that a search found, by its title or by a message; then with the part of it around the hit."""

    message_excerpt: str | None


_COLUMNS: Final = f"""
    {columns(ShownSession, "s", without=frozenset({"active_turn_id"}))},
    (select t.id from turnkeeper.turns as t
     where t.organization_id = s.organization_id and t.session_id = s.id and t.status in ({in_sql(ACTIVE)})
     order by t.number limit 1) as active_turn_id
"""
_VISIBLE: Final = """
    s.organization_id = :organization_id
    and (cast(:only_user as text) is null or s.user_name = :only_user)
"""
_PAGE: Final = """
    and (cast(:before_at as timestamptz) is null
         or (s.last_activity_at, s.id) < (cast(:before_at as timestamptz), cast(:before_id as uuid)))
"""

_OPEN: Final = Statement(
    f"""
    insert into turnkeeper.sessions as s
        (organization_id, id, user_name, title, system_prompt, max_turns, metadata)
    values (:organization_id, :id, :user_name, :title, :system_prompt, :max_turns, cast(:metadata as jsonb))
    returning {_COLUMNS}
    """,
    ShownSession,
)
_FIND: Final = Statement(
    f"select {_COLUMNS} from turnkeeper.sessions as s where {_VISIBLE} and s.id = :session_id",
    ShownSession,
)
_EXISTS: Final = text(
    f"select exists (select from turnkeeper.sessions as s where {_VISIBLE} and s.id = :session_id)"
)
_LIST: Final = Statement(
    f"""
    select {_COLUMNS} from turnkeeper.sessions as s
    where {_VISIBLE} {_PAGE}
      and (cast(:status as text) is null or s.status = :status)
      and (cast(:user_name as text) is null or s.user_name = :user_name)
    order by s.last_activity_at desc, s.id desc limit :most
    """,
    ShownSession,
)
_LIMIT_SEARCH: Final = text("select set_config('statement_timeout', :milliseconds, true)")
_SEARCH: Final = Statement(
    f"""
    select {_COLUMNS}, found.excerpt as message_excerpt
    from turnkeeper.sessions as s
    left join lateral (
        select substr(m.content, greatest(1, position(lower(:query) in lower(m.content)) - :lead), :length)
            as excerpt
        from turnkeeper.messages as m
        where m.organization_id = s.organization_id and m.session_id = s.id
          and m.role in ('user', 'assistant') and m.content ilike :pattern
        order by m.position desc limit 1
    ) as found on true
    where {_VISIBLE} {_PAGE} and (s.title ilike :pattern or found.excerpt is not null)
    order by s.last_activity_at desc, s.id desc limit :most
    """,
    FoundSession,
)
_CHANGE: Final = Statement(
    f"""
    update turnkeeper.sessions as s set
        title = case when :sets_title then cast(:title as text) else s.title end,
        metadata = coalesce(cast(:metadata as jsonb), s.metadata),
        forgotten_at = null
    where {_VISIBLE} and s.id = :session_id and s.status <> '{SessionStatus.CLOSED.value}'
    returning {_COLUMNS}
    """,
    ShownSession,
)
_CLOSE: Final = text(
    f"""
    update turnkeeper.sessions as s set status = '{SessionStatus.CLOSED.value}', closed_at = now()
    where {_VISIBLE} and s.id = :session_id and s.status <> '{SessionStatus.CLOSED.value}'
    """
)
_FLAG: Final = Statement(
    f"""
    update turnkeeper.sessions as s set
        flagged = true, flag_reason = :reason, flagged_by = :flagged_by, flagged_at = now(),
        forgotten_at = null
    where {_VISIBLE} and s.id = :session_id
    returning {_COLUMNS}
    """,
    ShownSession,
)
_UNFLAG: Final = Statement(
    f"""
    update turnkeeper.sessions as s set
        flagged = false, flag_reason = null, flagged_by = null, flagged_at = null
    where {_VISIBLE} and s.id = :session_id
    returning {_COLUMNS}
    """,
    ShownSession,
)
EXCERPT_LEAD: Final = 200
_EXCERPT_LENGTH: Final = 600
"""More than is shown: lowercasing may move the hit by a few characters."""


def open_session(
    db: Connection,
    organization_id: UUID,
    *,
    user: str,
    title: str | None,
    system_prompt: str | None,
    max_turns: int,
    metadata: Mapping[str, Any],
) -> ShownSession:
    """Insert a session and return it."""
    return _OPEN.one(
        db,
        {
            "organization_id": organization_id,
            "id": new_id(),
            "user_name": user,
            "title": title,
            "system_prompt": system_prompt,
            "max_turns": max_turns,
            "metadata": json.dumps(metadata),
        },
    )


def find_session(db: Connection, caller: Caller, session_id: UUID) -> ShownSession | None:
    """Return a session that the caller may see."""
    return _FIND.one_or_none(db, {**scope_of(caller), "session_id": session_id})


def session_exists(db: Connection, caller: Caller, session_id: UUID) -> bool:
    """Return whether the caller may see the session."""
    return bool(db.execute(_EXISTS, {**scope_of(caller), "session_id": session_id}).scalar_one())


def list_sessions(
    db: Connection,
    caller: Caller,
    *,
    status: SessionStatus | None,
    user: str | None,
    before: TimeCursor | None,
    most: int,
) -> Sequence[ShownSession]:
    """Return sessions past `before`, newest activity first."""
    parameters = {**scope_of(caller), **_position(before), "status": status, "user_name": user, "most": most}
    return _LIST.all(db, parameters)


def search_sessions(
    db: Connection, caller: Caller, query: str, *, before: TimeCursor | None, most: int
) -> Sequence[FoundSession]:
    """Return sessions whose title or a message contains `query`, newest activity first, each once.

    Raises:
        RefusedError: It took longer than `SEARCH_SECONDS`.
    """
    parameters = {
        **scope_of(caller),
        **_position(before),
        "query": query,
        "pattern": f"%{_escaped(query)}%",
        "lead": EXCERPT_LEAD,
        "length": _EXCERPT_LENGTH,
        "most": most,
    }
    try:
        db.execute(_LIMIT_SEARCH, {"milliseconds": f"{SEARCH_SECONDS * 1000:.0f}"})
        return _SEARCH.all(db, parameters)
    except UnavailableError as error:
        if getattr(error.__cause__, "sqlstate", None) != _QUERY_CANCELED:
            raise
        raise RefusedError(
            ProblemCode.UNAVAILABLE,
            "the search took too long: search for more words, or for what was said lately",
            retry_after_ms=_SEARCH_AGAIN_MS,
        ) from error


def change_session(
    db: Connection,
    caller: Caller,
    session_id: UUID,
    *,
    sets_title: bool,
    title: str | None,
    metadata: Mapping[str, Any] | None,
) -> ShownSession | None:
    """Change a session that is not closed; None if there is no such open session."""
    parameters = {
        **scope_of(caller),
        "session_id": session_id,
        "sets_title": sets_title,
        "title": title,
        "metadata": None if metadata is None else json.dumps(metadata),
    }
    return _CHANGE.one_or_none(db, parameters)


def close_session(db: Connection, caller: Caller, session_id: UUID) -> None:
    """Close a session: from the commit on it accepts no turn."""
    db.execute(_CLOSE, {**scope_of(caller), "session_id": session_id})


def flag_session(
    db: Connection, caller: Caller, session_id: UUID, *, reason: str | None, flagged_by: str
) -> ShownSession | None:
    """Mark a session for review."""
    parameters = {
        **scope_of(caller),
        "session_id": session_id,
        "reason": reason,
        "flagged_by": flagged_by,
    }
    return _FLAG.one_or_none(db, parameters)


def unflag_session(db: Connection, caller: Caller, session_id: UUID) -> ShownSession | None:
    """Remove a session's mark."""
    return _UNFLAG.one_or_none(db, {**scope_of(caller), "session_id": session_id})


def refuse_ended_session(status: str) -> None:
    """Refuse what only an active session allows.

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


def _position(before: TimeCursor | None) -> dict[str, Any]:
    return {
        "before_at": before.at if before else None,
        "before_id": before.id if before else None,
    }


def _escaped(query: str) -> str:
    """Return `query` escaped, so that ILIKE matches it literally."""
    return query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
