"""`turnkeeper keys`."""

import sys
from uuid import UUID

import click

from shared.errors import SettingsError
from turnkeeper.cli.options import Group
from turnkeeper.exits import FAILED
from turnkeeper.owner import as_owner, environment, organization, owner_url

_org = click.option("--org", metavar="ORG", show_default="the only one", help="id or name")


@click.group(cls=Group)
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--role", type=click.Choice(("user", "service", "admin")), default="service")
@click.option("--user", metavar="USER", help="whom a `user` key is bound to")
@click.option("--name", metavar="NAME", default="", show_default=False, help="what you call it")
@_org
@as_owner
def create(role: str, user: str | None, name: str, org: str | None) -> int:
    """Make a key and print it, this once."""
    from shared.postgres import accounts

    if (role == "user") != bool(user):
        raise SettingsError(["--user is required with --role user, and only there"])
    url = owner_url(environment())
    print(accounts.create_key(url, organization(url, org), role, user=user, name=name))
    return 0


@keys.command("list")
@_org
@as_owner
def list_all(org: str | None) -> int:
    """List an organization's keys, newest first."""
    from shared.postgres import accounts

    url = owner_url(environment())
    for row in accounts.list_keys(url, organization(url, org)):
        state = "revoked" if row.revoked_at else "active"
        print(f"{row.id}  {row.role:<8} {state:<8} {row.prefix}…  {row.user or ''}  {row.name}".rstrip())
    return 0


@keys.command()
@click.argument("key", type=UUID)
@as_owner
def revoke(key: UUID) -> int:
    """Revoke the key with the id KEY, as `keys list` shows it."""
    from shared.postgres import accounts

    if accounts.revoke_key(owner_url(environment()), key):
        return 0
    print(f"turnkeeper: there is no key {key} that is not revoked", file=sys.stderr)
    return FAILED
