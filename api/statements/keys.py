"""API keys of the caller's organization; `shared.postgres.accounts` makes them."""

# ruff: noqa: S608 -- statements are assembled once, from our own constants

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.postgres.rows import columns
from shared.postgres.statement import Statement


@dataclass(frozen=True, slots=True)
class ShownKey:
    """The columns from which a key is shown: all except its secret."""

    id: UUID
    role: str
    user_name: str | None
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


_LIST: Final = Statement(
    f"""
    select {columns(ShownKey)} from turnkeeper.api_keys
    where organization_id = :organization_id and (cast(:before as uuid) is null or id < :before)
    order by id desc limit :most
    """,
    ShownKey,
)
_FIND: Final = Statement(
    f"""
    select {columns(ShownKey)} from turnkeeper.api_keys where organization_id = :organization_id and id = :id
    """,
    ShownKey,
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


def list_keys(db: Connection, organization_id: UUID, *, before: UUID | None, most: int) -> Sequence[ShownKey]:
    """Return keys older than `before`, newest first."""
    return _LIST.all(db, {"organization_id": organization_id, "before": before, "most": most})


def find_key(db: Connection, organization_id: UUID, key_id: UUID) -> ShownKey | None:
    """Return a key of the organization."""
    return _FIND.one_or_none(db, {"organization_id": organization_id, "id": key_id})


def revoke_key(db: Connection, organization_id: UUID, key_id: UUID) -> bool:
    """Revoke a key; False if the organization has no such key."""
    return (
        db.execute(_REVOKE, {"organization_id": organization_id, "id": key_id}).scalar_one_or_none()
        is not None
    )


def key_is_valid(db: Connection, organization_id: UUID, key_id: UUID) -> bool:
    """Return whether a key is neither revoked nor expired."""
    return bool(db.execute(_IS_VALID, {"organization_id": organization_id, "id": key_id}).scalar_one())
