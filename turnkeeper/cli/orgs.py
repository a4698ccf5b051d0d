"""`turnkeeper orgs`."""

import click

from turnkeeper.cli.options import Group
from turnkeeper.owner import as_owner, environment, owner_url


@click.group(cls=Group)
def orgs() -> None:
    """Make and list organizations."""


@orgs.command()
@click.argument("name")
@as_owner
def create(name: str) -> int:
    """Make an organization and print its id."""
    from shared.postgres import accounts

    print(accounts.create_organization(owner_url(environment()), name))
    return 0


@orgs.command("list")
@as_owner
def list_all() -> int:
    """List organizations, oldest first."""
    from shared.postgres import accounts

    for organization_id, name in accounts.list_organizations(owner_url(environment())):
        print(f"{organization_id}  {name}")
    return 0
