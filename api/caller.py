"""The caller of a request: a key of an organization, or a ticket, with its scope that row-level security cannot check.

The database checks the organization. Which user's sessions a key may see is decided here, once, as a
parameter that every statement names.
"""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class OrganizationLimits:
    """An organization's own limits, as old as the cached key; None means no limit of its own, 0 allows nothing."""

    max_turns_per_session: int | None = None
    turns_per_minute_per_user: int | None = None
    turns_per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """A key of an organization, or a ticket, which is valid only for `session_id`.

    A ticket's caller has no `limits`, since it cannot ask for turns. `reads_for` stands for the user of the ticket's
    session: it widens no scope, and what is open is counted by it.
    """

    organization_id: UUID
    key_id: UUID | None
    role: str
    user: str | None
    session_id: UUID | None
    limits: OrganizationLimits = OrganizationLimits()
    reads_for: str | None = None


def reader_name(user: str) -> str:
    """Return what stands for a user where streams are counted: tickets carry it, and Redis holds no names of users."""
    return hashlib.sha256(user.encode()).hexdigest()


def scope_of(caller: Caller) -> dict[str, Any]:
    """Return the parameters `organization_id` and `only_user`; the latter is None for all users."""
    return {
        "organization_id": caller.organization_id,
        "only_user": caller.user if caller.role == "user" else None,
    }
