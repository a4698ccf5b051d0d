"""Writes one user's sessions as JSON lines: each line is a session with its turns and messages.

One session is read at a time, in its own transaction, so memory holds one session and none is read half-changed.
"""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from api import resources
from api.statements.messages import WITH_TURNS, ShownMessage, columns_of_message
from shared.money.money import format_usd
from shared.money.usage import ShownTokens
from shared.postgres.database import Database
from shared.postgres.rows import columns
from shared.postgres.statement import Statement
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


@dataclass(frozen=True, slots=True)
class _Session(ShownTokens):
    """The exported columns of a session."""

    id: UUID
    user_name: str
    status: str
    title: str | None
    system_prompt: str | None
    max_turns: int
    turn_count: int
    flagged: bool
    flag_reason: str | None
    cost_usd: Decimal
    metadata: dict[str, Any]
    created_at: datetime
    last_activity_at: datetime
    closed_at: datetime | None
    forgotten_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Turn(ShownTokens):
    """The exported columns of a turn."""

    id: UUID
    message_id: UUID | None
    user_message_id: UUID
    number: int
    status: str
    attempt: int
    provider: str | None
    model: str | None
    finish_reason: str | None
    stop_reason: str | None
    usage_source: str | None
    error: dict[str, Any] | None
    history_trimmed: int
    cost_usd: Decimal
    metadata: dict[str, Any]
    queued_at: datetime
    started_at: datetime | None
    first_token_at: datetime | None
    stop_requested_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Message(ShownMessage):
    """The exported columns of a message."""

    reasoning: str | None


# The session is read first, with a shared lock: accepting or settling its turns waits until all three are read.
_SESSION: Final = Statement(
    f"""
    select {columns(_Session)} from turnkeeper.sessions
    where organization_id = :organization_id and id = :session_id for share
    """,
    _Session,
)
_TURNS: Final = Statement(
    f"""
    select {columns(_Turn)} from turnkeeper.turns
    where organization_id = :organization_id and session_id = :session_id order by number
    """,
    _Turn,
)
_MESSAGES: Final = Statement(
    f"""
    select {columns_of_message(_Message)} from {WITH_TURNS}
    where m.organization_id = :organization_id and m.session_id = :session_id order by m.position
    """,
    _Message,
)


def export_user(database: Database, organization_id: UUID, user: str) -> Iterator[str]:
    """Yield a line for each of a user's sessions, oldest first, without its line end.

    `database` is read with the application's role.

    Raises:
        UnavailableError: PostgreSQL cannot be reached.
    """
    after = _FIRST
    while True:
        with database.of(organization_id) as db:
            names = {"organization_id": organization_id, "user": user, "after": after, "most": _PAGE}
            page = db.execute(_SESSIONS, names).scalars().all()
        for session_id in page:
            yield json.dumps(_of_session(database, organization_id, session_id), ensure_ascii=False)
        if len(page) < _PAGE:
            return
        after = page[-1]


def _of_session(database: Database, organization_id: UUID, session_id: UUID) -> Mapping[str, Any]:
    names = {"organization_id": organization_id, "session_id": session_id}
    with database.of(organization_id) as db:
        session = _SESSION.one(db, names)
        turns = _TURNS.all(db, names)
        messages = _MESSAGES.all(db, names)
    return {
        "id": str(session.id),
        "user": session.user_name,
        "status": session.status,
        "title": session.title,
        "system_prompt": session.system_prompt,
        "max_turns": session.max_turns,
        "turn_count": session.turn_count,
        "flagged": session.flagged,
        "flag_reason": session.flag_reason,
        "usage": usage_of(session).as_dict(),
        "cost_usd": format_usd(session.cost_usd),
        "metadata": session.metadata,
        "created_at": timestamp(session.created_at),
        "last_activity_at": timestamp(session.last_activity_at),
        "closed_at": resources.time_or_none(session.closed_at),
        "forgotten_at": resources.time_or_none(session.forgotten_at),
        "turns": [_of_turn(turn) for turn in turns],
        "messages": [_of_message(message) for message in messages],
    }


def _of_turn(turn: _Turn) -> Mapping[str, Any]:
    return {
        "id": str(turn.id),
        "message_id": None if turn.message_id is None else str(turn.message_id),
        "user_message_id": str(turn.user_message_id),
        "number": turn.number,
        "status": turn.status,
        "attempt": turn.attempt,
        "provider": turn.provider,
        "model": turn.model,
        "finish_reason": turn.finish_reason,
        "stop_reason": turn.stop_reason,
        "usage_source": turn.usage_source,
        "error": turn.error,
        "history_trimmed": turn.history_trimmed,
        "usage": usage_of(turn).as_dict(),
        "cost_usd": format_usd(turn.cost_usd),
        "metadata": turn.metadata,
        "queued_at": timestamp(turn.queued_at),
        "started_at": resources.time_or_none(turn.started_at),
        "first_token_at": resources.time_or_none(turn.first_token_at),
        "stop_requested_at": resources.time_or_none(turn.stop_requested_at),
        "finished_at": resources.time_or_none(turn.finished_at),
    }


def _of_message(message: _Message) -> Mapping[str, Any]:
    return {**resources.message(message).model_dump(mode="json"), "reasoning": message.reasoning}
