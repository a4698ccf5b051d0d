"""Who asks: a key of an organization, or a ticket; and what row-level security does not know of it.

The organization is the database's business; which user's sessions a key may see is decided here, once,
as a parameter that every statement names.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class OrganizationLimits:
    """An organization's own limits, as old as its key's answer; None is none of its own, 0 allows nothing."""

    max_turns_per_session: int | None = None
    turns_per_minute_per_user: int | None = None
    turns_per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who reads: a key of an organization, or a ticket, which is good for `session_id` only.

    A ticket's caller has no `limits`: it asks for no turns.
    """

    organization_id: UUID
    key_id: UUID | None
    role: str
    user: str | None
    session_id: UUID | None
    limits: OrganizationLimits = OrganizationLimits()


def scope_of(caller: Caller) -> dict[str, Any]:
    """Return the parameters `organization_id` and `only_user`; the latter is None for all users."""
    return {
        "organization_id": caller.organization_id,
        "only_user": caller.user if caller.role == "user" else None,
    }
