"""Writes one user's sessions as JSON lines: a session with its turns and messages is a line.

One session is read at a time, in a transaction of its own, so memory holds one and none is seen half.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, text

from api import resources
from shared.money.money import format_usd
from shared.postgres.database import Database
from shared.turn.events import timestamp
from shared.turn.events_of_turn import usage_of

_PAGE: Final = 200
_FIRST: Final = UUID(int=0)
_SESSIONS: Final = text(
    """
    select s.id from turnkeeper.sessions as s
    where s.organization_id = :organization_id and s.user_name = :user and s.id > :after
    order by s.id limit :most
    """
)
# The session first, and shared: whoever accepts or settles a turn of it waits until all three are read.
_OF_SESSION: Final = {
    name: text(
        f"select * from turnkeeper.{name} where organization_id = :organization_id"  # noqa: S608 -- ours
        f" and {column} = :session_id order by {order} {lock}"
    )
    for name, column, order, lock in (
        ("sessions", "id", "id", "for share"),
        ("turns", "session_id", "number", ""),
        ("messages", "session_id", "position", ""),
    )
}
_SESSION_FIELDS: Final = (
    "status",
    "title",
    "system_prompt",
    "max_turns",
    "turn_count",
    "flagged",
    "flag_reason",
)
_SESSION_TIMES: Final = ("created_at", "last_activity_at", "closed_at", "forgotten_at")
_TURN_FIELDS: Final = (
    "number",
    "status",
    "attempt",
    "provider",
    "model",
    "finish_reason",
    "stop_reason",
    "usage_source",
    "error",
    "history_trimmed",
)
_TURN_TIMES: Final = ("queued_at", "started_at", "first_token_at", "stop_requested_at", "finished_at")


def export_user(database: Database, organization_id: UUID, user: str) -> Iterator[str]:
    """Yield a line for each of a user's sessions, oldest first, without the line's end.

    Args:
        database: The database as the application's role.
        organization_id: The organization.
        user: The user.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    after = _FIRST
    while True:
        with database.of(organization_id) as db:
            names = {"organization_id": organization_id, "user": user, "after": after, "most": _PAGE}
            page = db.execute(_SESSIONS, names).scalars().all()
        for session_id in page:
            yield json.dumps(_session(database, organization_id, session_id), ensure_ascii=False)
        if len(page) < _PAGE:
            return
        after = page[-1]


def _session(database: Database, organization_id: UUID, session_id: UUID) -> Mapping[str, Any]:
    names = {"organization_id": organization_id, "session_id": session_id}
    with database.of(organization_id) as db:
        rows = {name: db.execute(statement, names).all() for name, statement in _OF_SESSION.items()}
    (session,) = rows["sessions"]
    return {
        "id": str(session.id),
        "user": session.user_name,
        **{name: getattr(session, name) for name in _SESSION_FIELDS},
        **_bill(session),
        "metadata": session.metadata,
        **{name: _time(getattr(session, name)) for name in _SESSION_TIMES},
        "turns": [_turn(row) for row in rows["turns"]],
        "messages": [_message(row) for row in rows["messages"]],
    }


def _turn(row: Row[Any]) -> Mapping[str, Any]:
    return {
        "id": str(row.id),
        "message_id": None if row.message_id is None else str(row.message_id),
        "user_message_id": str(row.user_message_id),
        **{name: getattr(row, name) for name in _TURN_FIELDS},
        **_bill(row),
        "metadata": row.metadata,
        **{name: _time(getattr(row, name)) for name in _TURN_TIMES},
    }


def _message(row: Row[Any]) -> Mapping[str, Any]:
    return {**resources.message(row).model_dump(mode="json"), "reasoning": row.reasoning}


def _bill(row: Row[Any]) -> Mapping[str, Any]:
    return {"usage": usage_of(row).as_dict(), "cost_usd": format_usd(Decimal(row.cost_usd))}


def _time(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)
