"""`turnkeeper orgs`: makes and lists organizations, and stops one's turns."""

import click

from turnkeeper.cli.options import Group, up_option
from turnkeeper.owner import as_owner, environment, owner_url
from turnkeeper.up.records import Folder


@click.group(cls=Group)
def orgs() -> None:
    """Make and list organizations, and stop one's turns."""


@orgs.command()
@click.argument("name")
@up_option
@as_owner
def create(name: str, data: Folder) -> int:
    """Make an organization and print its id."""
    from shared.postgres import accounts

    print(accounts.create_organization(owner_url(environment(), data), name))
    return 0


@orgs.command("list")
@up_option
@as_owner
def list_all(data: Folder) -> int:
    """List organizations, oldest first."""
    from shared.postgres import accounts

    for organization_id, name in accounts.list_organizations(owner_url(environment(), data)):
        print(f"{organization_id}  {name}")
    return 0


@orgs.command()
@click.argument("name")
@up_option
@as_owner
def stop(name: str, data: Folder) -> int:
    """End everything that the organization NAME, a name or an id, has queued and running.

    What it posts meanwhile or afterwards is accepted; `enabled` of its budget refuses that.
    """
    from turnkeeper.commands.brake import stop
    from turnkeeper.commands.users import servers

    return stop(servers(environment(), data), name)
