"""API keys of the caller's organization; making one is `shared.postgres.accounts`."""

# ruff: noqa: S608 -- statements are put together from constants of ours, once

from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Row, text

_COLUMNS: Final = "id, role, user_name, name, prefix, created_at, expires_at, revoked_at, last_used_at"
_LIST: Final = text(
    f"""
    select {_COLUMNS} from turnkeeper.api_keys
    where organization_id = :organization_id and (cast(:before as uuid) is null or id < :before)
    order by id desc limit :most
    """
)
_FIND: Final = text(
    f"select {_COLUMNS} from turnkeeper.api_keys where organization_id = :organization_id and id = :id"
)
_REVOKE: Final = text(
    """
    update turnkeeper.api_keys set revoked_at = coalesce(revoked_at, now())
    where organization_id = :organization_id and id = :id returning id
    """
)
_IS_VALID: Final = text(
    """
    select exists (select from turnkeeper.api_keys
                   where organization_id = :organization_id and id = :id and revoked_at is null
                     and (expires_at is null or expires_at > now()))
    """
)


def list_keys(db: Connection, organization_id: UUID, *, before: UUID | None, most: int) -> list[Row[Any]]:
    """Return keys older than `before`, newest first."""
    return list(db.execute(_LIST, {"organization_id": organization_id, "before": before, "most": most}))


def find_key(db: Connection, organization_id: UUID, key_id: UUID) -> Row[Any] | None:
    """Return a key of the organization."""
    return db.execute(_FIND, {"organization_id": organization_id, "id": key_id}).one_or_none()


def revoke_key(db: Connection, organization_id: UUID, key_id: UUID) -> bool:
    """Revoke a key; False when the organization has no such key."""
    return (
        db.execute(_REVOKE, {"organization_id": organization_id, "id": key_id}).scalar_one_or_none()
        is not None
    )


def key_is_valid(db: Connection, organization_id: UUID, key_id: UUID) -> bool:
    """Say whether a key is neither revoked nor expired."""
    return bool(db.execute(_IS_VALID, {"organization_id": organization_id, "id": key_id}).scalar_one())
