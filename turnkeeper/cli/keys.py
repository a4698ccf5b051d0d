"""`turnkeeper keys`: makes, lists and revokes API keys, as the database's owner."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

import click

from shared.errors import SettingsError
from turnkeeper.cli.options import Group, Moment, up_option
from turnkeeper.exits import FAILED
from turnkeeper.owner import as_owner, environment, organization, owner_url
from turnkeeper.up.records import Folder

if TYPE_CHECKING:
    from shared.postgres.accounts import KeyRow

_org = click.option("--org", metavar="ORG", show_default="the only one", help="id or name")

_HEADER: Final = ("ID", "ROLE", "STATE", "PREFIX", "USER", "CREATED", "EXPIRES", "LAST-USED", "NAME")


@click.group(cls=Group)
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--role", type=click.Choice(("user", "service", "admin")), default="service")
@click.option("--user", metavar="USER", help="whom a `user` key is bound to")
@click.option("--name", metavar="NAME", default="", show_default=False, help="what you call it")
@click.option(
    "--expires",
    type=Moment(),
    metavar="TIME",
    show_default="never",
    help="from when on it is refused: 2027-01-31, 2027-01-31T12:00:00Z, or in 90d, 12h or 4w",
)
@_org
@up_option
@as_owner
def create(
    role: str, user: str | None, name: str, expires: datetime | None, org: str | None, data: Folder
) -> int:
    """Make a key and print it, this once."""
    from shared.postgres import accounts

    if (role == "user") != bool(user):
        raise SettingsError(["--user is required with --role user, and only there"])
    url = owner_url(environment(), data)
    made = accounts.create_key(url, organization(url, org), role, user=user, name=name, expires_at=expires)
    print(made)
    return 0


@keys.command("list")
@_org
@up_option
@as_owner
def list_all(org: str | None, data: Folder) -> int:
    """List an organization's keys, newest first."""
    from shared.postgres import accounts

    url = owner_url(environment(), data)
    now = datetime.now(UTC)
    lines = [_HEADER, *(_cells(row, now) for row in accounts.list_keys(url, organization(url, org)))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _cells(row: "KeyRow", now: datetime) -> tuple[str, ...]:
    """Return a key's line; its name comes last, since it may contain spaces."""
    if row.revoked_at is not None:
        state = "revoked"
    else:
        state = "expired" if row.expires_at is not None and row.expires_at <= now else "active"
    times = (row.created_at, row.expires_at, row.last_used_at)
    return (str(row.id), row.role, state, f"{row.prefix}…", row.user or "-", *map(_minute, times), row.name)


def _minute(moment: datetime | None) -> str:
    return "-" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")


@keys.command()
@click.argument("key", type=UUID)
@up_option
@as_owner
def revoke(key: UUID, data: Folder) -> int:
    """Revoke the key with the id KEY, as `keys list` shows it."""
    from shared.postgres import accounts

    if accounts.revoke_key(owner_url(environment(), data), key):
        return 0
    print(f"turnkeeper: there is no key {key} that is not revoked", file=sys.stderr)
    return FAILED
