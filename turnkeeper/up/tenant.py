"""The first organization and its keys, so that a fresh installation can be used at once."""

from pathlib import Path
from typing import Final

from shared.postgres import accounts
from turnkeeper.up.records import Keys, read_keys, write_keys

ORGANIZATION: Final = "default"
USER: Final = "demo"
"""The user that the user key is bound to."""


def ensure_keys(owner_url: str, path: Path) -> tuple[Keys, bool]:
    """Return the keys of the first organization, creating them if they are missing.

    Stored keys count only if the database knows their organization and none of them was revoked: the file may
    be older than the data.

    Returns:
        The keys, and whether they were created now.
    """
    organizations = accounts.list_organizations(owner_url)
    kept = read_keys(path)
    if kept is not None and kept.organization_id in {known for known, _ in organizations}:
        usable = {
            row.prefix for row in accounts.list_keys(owner_url, kept.organization_id) if not row.revoked_at
        }
        if all(any(key.startswith(prefix) for prefix in usable) for key in key_texts(kept)):
            return kept, False
    named = [known for known, name in organizations if name == ORGANIZATION]
    organization_id = named[0] if named else accounts.create_organization(owner_url, ORGANIZATION)
    keys = Keys(
        organization_id,
        service_key=accounts.create_key(owner_url, organization_id, "service", name="turnkeeper up"),
        user_key=accounts.create_key(owner_url, organization_id, "user", user=USER, name="turnkeeper up"),
        admin_key=accounts.create_key(owner_url, organization_id, "admin", name="turnkeeper up"),
    )
    write_keys(path, keys)
    return keys, True


def key_texts(keys: Keys) -> tuple[str, str, str]:
    """Return the three keys."""
    return keys.service_key, keys.user_key, keys.admin_key
