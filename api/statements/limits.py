"""What rate limits have to know: whose session it is, and whether a request was answered with a turn before."""

from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from api.relay.store import Caller

_USER: Final = text(
    "select user_name from turnkeeper.sessions where organization_id = :organization_id and id = :session_id"
)
_HAS_TURN: Final = text(
    """
    select exists (
        select from turnkeeper.idempotency_keys
        where organization_id = :organization_id and key = :key and fingerprint = :fingerprint
          and created_at > now() - make_interval(secs => :idempotency_seconds))
    """
)


def user_of_session(db: Connection, caller: Caller, session_id: UUID) -> str | None:
    """Return the user of a session of the caller's organization."""
    user: str | None = db.execute(
        _USER, {"organization_id": caller.organization_id, "session_id": session_id}
    ).scalar_one_or_none()
    return user


def has_turn(
    db: Connection, caller: Caller, key: str, fingerprint: bytes, idempotency_seconds: float
) -> bool:
    """Say whether the same request was answered with a turn, and its Idempotency-Key is still remembered."""
    parameters = {
        "organization_id": caller.organization_id,
        "key": key,
        "fingerprint": fingerprint,
        "idempotency_seconds": idempotency_seconds,
    }
    return bool(db.execute(_HAS_TURN, parameters).scalar_one())
