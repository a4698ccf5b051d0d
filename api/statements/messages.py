"""Messages of a session, in the order of the conversation."""

# ruff: noqa: S608 -- statements are put together from constants of ours, once

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
    """What a message is rendered from; one that no model wrote, or not to its end, has no tokens."""

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
    """Return the messages past position `after` of a session that the caller was found to see."""
    parameters = {
        "organization_id": caller.organization_id,
        "session_id": session_id,
        "after": after,
        "most": most,
    }
    return _LIST.all(db, parameters)
