"""Organizations and API keys, as the operator's commands create them.

A key is shown once: `tsk_<8 characters to recognise it by>_<256 random bits>`. Only its SHA-256 is stored; a
secret with that much entropy needs no slow hash.
"""

import hashlib
import secrets
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from shared.ids import new_id
from shared.postgres.database import engine_for

_ALPHABET: Final = string.ascii_lowercase + string.digits


class KeyRole(StrEnum):
    """What a key may do."""

    USER = "user"
    """Bound to one user; sees its own sessions."""
    SERVICE = "service"
    """A product's back end; names any user, sees all sessions of its organization."""
    ADMIN = "admin"
    """Like service, plus budgets, keys, usage and flags."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is shown, once."""

    secret: str
    prefix: str
    sha256: bytes


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is listed."""

    id: UUID
    role: str
    user: str | None
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def mint_key() -> NewKey:
    """Make a new random key."""
    prefix = "tsk_" + "".join(secrets.choice(_ALPHABET) for _ in range(8))
    secret = f"{prefix}_{secrets.token_urlsafe(32)}"
    return NewKey(secret, prefix, digest(secret))


def digest(secret: str) -> bytes:
    """Return what is stored of a key or a ticket."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def create_organization(owner_url: str, name: str) -> UUID:
    """Create an organization and return its id."""
    organization_id = new_id()
    with _owner(owner_url) as db:
        db.execute(
            text("insert into turnkeeper.organizations (id, name) values (:id, :name)"),
            {"id": organization_id, "name": name},
        )
    return organization_id


def list_organizations(owner_url: str) -> Sequence[tuple[UUID, str]]:
    """Return every organization's id and name, oldest first."""
    with _owner(owner_url) as db:
        rows = db.execute(text("select id, name from turnkeeper.organizations order by created_at, id"))
        return [(row.id, row.name) for row in rows]


def create_key(
    owner_url: str,
    organization_id: UUID,
    role: str,
    *,
    user: str | None = None,
    name: str = "",
    expires_at: datetime | None = None,
) -> str:
    """Create a key.

    Args:
        owner_url: The schema owner's login.
        organization_id: The key's organization.
        role: `user`, `service` or `admin`.
        user: The user that a `user` key is bound to; None for the others.
        name: A name for people.
        expires_at: From when on it is refused; None for never.

    Returns:
        The key. It is not stored and cannot be shown again.
    """
    key = mint_key()
    with _owner(owner_url) as db:
        insert_key(db, organization_id, key, role=KeyRole(role), user=user, name=name, expires_at=expires_at)
    return key.secret


def insert_key(
    db: Connection,
    organization_id: UUID,
    key: NewKey,
    *,
    role: KeyRole,
    user: str | None,
    name: str,
    expires_at: datetime | None = None,
) -> UUID:
    """Insert a minted key in the caller's transaction and return its id."""
    key_id = new_id()
    db.execute(
        text(
            "insert into turnkeeper.api_keys"
            " (organization_id, id, role, user_name, name, prefix, secret_sha256, expires_at) values"
            " (:organization_id, :id, :role, :user_name, :name, :prefix, :sha256, :expires_at)"
        ),
        {
            "organization_id": organization_id,
            "id": key_id,
            "role": role.value,
            "user_name": user,
            "name": name,
            "prefix": key.prefix,
            "sha256": key.sha256,
            "expires_at": expires_at,
        },
    )
    return key_id


def list_keys(owner_url: str, organization_id: UUID) -> Sequence[KeyRow]:
    """Return an organization's keys, newest first."""
    with _owner(owner_url) as db:
        rows = db.execute(
            text(
                "select id, role, user_name, name, prefix, created_at, expires_at, revoked_at, last_used_at"
                " from turnkeeper.api_keys where organization_id = :organization_id order by id desc"
            ),
            {"organization_id": organization_id},
        )
        return [KeyRow(*row) for row in rows]


def revoke_key(owner_url: str, key_id: UUID) -> bool:
    """Revoke a key; False if it does not exist or was already revoked."""
    with _owner(owner_url) as db:
        result = db.execute(
            text("update turnkeeper.api_keys set revoked_at = now() where id = :id and revoked_at is null"),
            {"id": key_id},
        )
        return result.rowcount == 1


@contextmanager
def _owner(owner_url: str) -> Iterator[Connection]:
    engine = engine_for(owner_url)
    try:
        with engine.begin() as db:
            yield db
    finally:
        engine.dispose()
