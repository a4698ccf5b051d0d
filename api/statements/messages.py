"""Messages of a session, in the order of the conversation."""

from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, text

from api.caller import Caller

_LIST: Final = text(
    """
    select m.id, m.session_id, m.turn_id, m.position, m.role, m.content, m.status, m.finish_reason,
           m.input_tokens, m.cache_read_tokens, m.cache_write_tokens, m.output_tokens, m.reasoning_tokens,
           m.created_at
    from turnkeeper.messages as m
    where m.organization_id = :organization_id and m.session_id = :session_id and m.position > :after
      and m.role in ('user', 'assistant')
    order by m.position limit :most
    """
)


def list_messages(
    db: Connection, caller: Caller, session_id: UUID, *, after: int, most: int
) -> list[Row[Any]]:
    """Return the messages past position `after` of a session that the caller was found to see."""
    parameters = {
        "organization_id": caller.organization_id,
        "session_id": session_id,
        "after": after,
        "most": most,
    }
    return list(db.execute(_LIST, parameters))
