"""What rate limits must know: the user of a session."""

from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from api.caller import Caller

_USER: Final = text(
    "select user_name from turnkeeper.sessions where organization_id = :organization_id and id = :session_id"
)


def user_of_session(db: Connection, caller: Caller, session_id: UUID) -> str | None:
    """Return the user of a session of the caller's organization."""
    user: str | None = db.execute(
        _USER, {"organization_id": caller.organization_id, "session_id": session_id}
    ).scalar_one_or_none()
    return user
