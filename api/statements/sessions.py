"""Sessions: open, read, list, search, change, close."""

# ruff: noqa: S608 -- statements are put together from constants of ours, once

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, text

from api.caller import Caller, scope_of
from api.cursors import TimeCursor
from shared.errors import ProblemCode, RefusedError
from shared.ids import new_id
from shared.turn.turns import ACTIVE, SessionStatus

_ACTIVE: Final = ", ".join(f"'{status}'" for status in sorted(ACTIVE))
_COLUMNS: Final = f"""
    s.id, s.user_name, s.title, s.status, s.system_prompt, s.max_turns, s.turn_count, s.input_tokens,
    s.cache_read_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens, s.cost_usd, s.flagged,
    s.metadata, s.created_at, s.last_activity_at,
    (select t.id from turnkeeper.turns as t
     where t.organization_id = s.organization_id and t.session_id = s.id and t.status in ({_ACTIVE})
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

_OPEN: Final = text(
    f"""
    insert into turnkeeper.sessions as s
        (organization_id, id, user_name, title, system_prompt, max_turns, metadata)
    values (:organization_id, :id, :user_name, :title, :system_prompt, :max_turns, cast(:metadata as jsonb))
    returning {_COLUMNS}
    """
)
_FIND: Final = text(
    f"select {_COLUMNS} from turnkeeper.sessions as s where {_VISIBLE} and s.id = :session_id"
)
_EXISTS: Final = text(
    f"select exists (select from turnkeeper.sessions as s where {_VISIBLE} and s.id = :session_id)"
)
_LIST: Final = text(
    f"""
    select {_COLUMNS} from turnkeeper.sessions as s
    where {_VISIBLE} {_PAGE}
      and (cast(:status as text) is null or s.status = :status)
      and (cast(:user_name as text) is null or s.user_name = :user_name)
    order by s.last_activity_at desc, s.id desc limit :most
    """
)
_SEARCH: Final = text(
    f"""
    select {_COLUMNS}, found.excerpt as message_excerpt, s.title ilike :pattern as title_matches
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
    """
)
_CHANGE: Final = text(
    f"""
    update turnkeeper.sessions as s set
        title = case when :sets_title then cast(:title as text) else s.title end,
        metadata = coalesce(cast(:metadata as jsonb), s.metadata),
        forgotten_at = null
    where {_VISIBLE} and s.id = :session_id and s.status <> 'closed'
    returning {_COLUMNS}
    """
)
_CLOSE: Final = text(
    f"""
    update turnkeeper.sessions as s set status = 'closed', closed_at = now()
    where {_VISIBLE} and s.id = :session_id and s.status <> 'closed'
    """
)
_FLAG: Final = text(
    f"""
    update turnkeeper.sessions as s set
        flagged = true, flag_reason = :reason, flagged_by = :flagged_by, flagged_at = now(),
        forgotten_at = null
    where {_VISIBLE} and s.id = :session_id
    returning {_COLUMNS}
    """
)
_UNFLAG: Final = text(
    f"""
    update turnkeeper.sessions as s set
        flagged = false, flag_reason = null, flagged_by = null, flagged_at = null
    where {_VISIBLE} and s.id = :session_id
    returning {_COLUMNS}
    """
)
EXCERPT_LEAD: Final = 200
_EXCERPT_LENGTH: Final = 600
"""More than is shown: lower-casing may move the hit by a few characters."""


def open_session(
    db: Connection,
    organization_id: UUID,
    *,
    user: str,
    title: str | None,
    system_prompt: str | None,
    max_turns: int,
    metadata: Mapping[str, Any],
) -> Row[Any]:
    """Insert a session and return it."""
    return db.execute(
        _OPEN,
        {
            "organization_id": organization_id,
            "id": new_id(),
            "user_name": user,
            "title": title,
            "system_prompt": system_prompt,
            "max_turns": max_turns,
            "metadata": json.dumps(metadata),
        },
    ).one()


def find_session(db: Connection, caller: Caller, session_id: UUID) -> Row[Any] | None:
    """Return a session that the caller may see."""
    return db.execute(_FIND, {**scope_of(caller), "session_id": session_id}).one_or_none()


def session_exists(db: Connection, caller: Caller, session_id: UUID) -> bool:
    """Say whether the caller sees the session."""
    return bool(db.execute(_EXISTS, {**scope_of(caller), "session_id": session_id}).scalar_one())


def list_sessions(
    db: Connection,
    caller: Caller,
    *,
    status: SessionStatus | None,
    user: str | None,
    before: TimeCursor | None,
    most: int,
) -> list[Row[Any]]:
    """Return sessions past `before`, newest activity first."""
    parameters = {**scope_of(caller), **_position(before), "status": status, "user_name": user, "most": most}
    return list(db.execute(_LIST, parameters))


def search_sessions(
    db: Connection, caller: Caller, query: str, *, before: TimeCursor | None, most: int
) -> list[Row[Any]]:
    """Return sessions whose title or a message contains `query`, newest activity first, each once."""
    parameters = {
        **scope_of(caller),
        **_position(before),
        "query": query,
        "pattern": f"%{_escaped(query)}%",
        "lead": EXCERPT_LEAD,
        "length": _EXCERPT_LENGTH,
        "most": most,
    }
    return list(db.execute(_SEARCH, parameters))


def change_session(
    db: Connection,
    caller: Caller,
    session_id: UUID,
    *,
    sets_title: bool,
    title: str | None,
    metadata: Mapping[str, Any] | None,
) -> Row[Any] | None:
    """Change a session that is not closed; None when there is no such open session."""
    parameters = {
        **scope_of(caller),
        "session_id": session_id,
        "sets_title": sets_title,
        "title": title,
        "metadata": None if metadata is None else json.dumps(metadata),
    }
    return db.execute(_CHANGE, parameters).one_or_none()


def close_session(db: Connection, caller: Caller, session_id: UUID) -> None:
    """Close a session: from the commit on it takes no turn."""
    db.execute(_CLOSE, {**scope_of(caller), "session_id": session_id})


def flag_session(
    db: Connection, caller: Caller, session_id: UUID, *, reason: str | None, flagged_by: str
) -> Row[Any] | None:
    """Mark a session for review."""
    parameters = {
        **scope_of(caller),
        "session_id": session_id,
        "reason": reason,
        "flagged_by": flagged_by,
    }
    return db.execute(_FLAG, parameters).one_or_none()


def unflag_session(db: Connection, caller: Caller, session_id: UUID) -> Row[Any] | None:
    """Take a session's mark away."""
    return db.execute(_UNFLAG, {**scope_of(caller), "session_id": session_id}).one_or_none()


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


def _position(before: TimeCursor | None) -> dict[str, Any]:
    return {
        "before_at": before.at if before else None,
        "before_id": before.id if before else None,
    }


def _escaped(query: str) -> str:
    """Return `query` so that ILIKE takes it literally."""
    return query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
