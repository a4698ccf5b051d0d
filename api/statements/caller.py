"""Who asks: what row-level security does not know.

The organization is the database's business; which user's sessions a key may see is decided here, once,
as a parameter that every statement names.
"""

from typing import Any

from api.relay.store import Caller


def scope_of(caller: Caller) -> dict[str, Any]:
    """Return the parameters `organization_id` and `only_user`; the latter is None for all users."""
    return {
        "organization_id": caller.organization_id,
        "only_user": caller.user if caller.role == "user" else None,
    }
