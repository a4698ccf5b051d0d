"""A session's messages, in the order of the conversation."""

from typing import Final
from uuid import UUID

from api import models, queries, resources
from api.cursors import NumberCursor
from api.operation import Call, Operation, Reply
from api.sessions import require_session
from api.statements import messages
from shared.errors import ProblemCode


def list_messages(call: Call, session_id: UUID, query: queries.Page) -> Reply:
    """List a session's messages in the order of the conversation."""
    after = -1 if query.cursor is None else NumberCursor.decode(query.cursor).number
    require_session(call, session_id)
    with call.services.database.of(call.caller.organization_id) as db:
        rows = messages.list_messages(db, call.caller, session_id, after=after, most=query.limit + 1)
    shown, last = resources.page(rows, query.limit)
    cursor = None if last is None else NumberCursor(last.position).encode()
    return Reply(200, models.MessageList(data=[resources.message(row) for row in shown], next_cursor=cursor))


OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/sessions/{session_id}/messages",
        "Messages",
        {200: models.MessageList},
        list_messages,
        (ProblemCode.NOT_FOUND,),
        query=queries.Page,
    ),
)
