"""`turnkeeper ledger`."""

import click

from turnkeeper.cli.options import Group
from turnkeeper.owner import as_owner, environment, owner_url


@click.group(cls=Group)
def ledger() -> None:
    """Check what was billed, spent and held."""


@ledger.command()
@click.option("--organization", "--org", "org", metavar="ORG", show_default="all", help="id or name")
@as_owner
def check(org: str | None) -> int:
    """Prove that totals, ledger and holds agree."""
    from turnkeeper.commands.ledger import check

    return check(owner_url(environment()), org)
