"""`turnkeeper keys`: makes, lists and revokes API keys, as the database's owner."""

import sys
from uuid import UUID

import click

from shared.errors import SettingsError
from turnkeeper.cli.options import Group, up_option
from turnkeeper.exits import FAILED
from turnkeeper.owner import as_owner, environment, organization, owner_url
from turnkeeper.up.records import Folder

_org = click.option("--org", metavar="ORG", show_default="the only one", help="id or name")


@click.group(cls=Group)
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--role", type=click.Choice(("user", "service", "admin")), default="service")
@click.option("--user", metavar="USER", help="whom a `user` key is bound to")
@click.option("--name", metavar="NAME", default="", show_default=False, help="what you call it")
@_org
@up_option
@as_owner
def create(role: str, user: str | None, name: str, org: str | None, data: Folder) -> int:
    """Make a key and print it, this once."""
    from shared.postgres import accounts

    if (role == "user") != bool(user):
        raise SettingsError(["--user is required with --role user, and only there"])
    url = owner_url(environment(), data)
    print(accounts.create_key(url, organization(url, org), role, user=user, name=name))
    return 0


@keys.command("list")
@_org
@up_option
@as_owner
def list_all(org: str | None, data: Folder) -> int:
    """List an organization's keys, newest first."""
    from shared.postgres import accounts

    url = owner_url(environment(), data)
    for row in accounts.list_keys(url, organization(url, org)):
        state = "revoked" if row.revoked_at else "active"
        print(f"{row.id}  {row.role:<8} {state:<8} {row.prefix}…  {row.user or ''}  {row.name}".rstrip())
    return 0


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
