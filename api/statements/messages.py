"""Messages of a session, in the order of the conversation."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from api.caller import Caller
from shared.postgres.rows import columns
from shared.postgres.statement import Statement


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """The columns from which a message is shown; only one that a model wrote to its end has tokens."""

    id: UUID
    session_id: UUID
    turn_id: UUID
    position: int
    role: str
    content: str
    status: str
    finish_reason: str | None
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    created_at: datetime


_LIST: Final = Statement(
    f"""
    select {columns(ShownMessage, "m")}
    from turnkeeper.messages as m
    where m.organization_id = :organization_id and m.session_id = :session_id and m.position > :after
      and m.role in ('user', 'assistant')
    order by m.position limit :most
    """,
    ShownMessage,
)


def list_messages(
    db: Connection, caller: Caller, session_id: UUID, *, after: int, most: int
) -> Sequence[ShownMessage]:
    """Return the messages past position `after`; the session must be one that the caller may see."""
    parameters = {
        "organization_id": caller.organization_id,
        "session_id": session_id,
        "after": after,
        "most": most,
    }
    return _LIST.all(db, parameters)
