"""The options of `turnkeeper ledger`."""

import click

from turnkeeper.cli.options import Group, up_option
from turnkeeper.owner import as_owner, environment, owner_url
from turnkeeper.up.records import Folder


@click.group(cls=Group)
def ledger() -> None:
    """Check what was billed, spent and held."""


@ledger.command()
@click.option("--organization", "--org", "org", metavar="ORG", show_default="all", help="id or name")
@up_option
@as_owner
def check(org: str | None, data: Folder) -> int:
    """Prove that totals, ledger and holds agree."""
    from turnkeeper.commands.ledger import check

    return check(owner_url(environment(), data), org)
