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
from shared.turn.conversation import is_in_conversation


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """The columns from which a message is shown; only one that a model wrote to its end has tokens.

    Args:
        in_conversation: Whether later prompts have it; not if the provider refused its turn.
    """

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
    in_conversation: bool


_DERIVED: Final = frozenset({"in_conversation"})


def columns_of_message(kind: type[ShownMessage]) -> str:
    """Return the columns of `kind` for a statement that reads messages `m` with their turns `t`."""
    return f"{columns(kind, 'm', without=_DERIVED)}, {is_in_conversation('t')} as in_conversation"


WITH_TURNS: Final = """
    turnkeeper.messages as m
    join turnkeeper.turns as t on t.organization_id = m.organization_id and t.id = m.turn_id
"""

_LIST: Final = Statement(
    f"""
    select {columns_of_message(ShownMessage)}
    from {WITH_TURNS}
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
