"""The options of `turnkeeper users`."""

from pathlib import Path
from typing import Final

import click

from turnkeeper.cli.options import FILE, Group, Seconds, up_option
from turnkeeper.owner import as_owner, environment
from turnkeeper.up.records import Folder

_WAIT_SECONDS: Final = 30.0
_MOST_WAIT_SECONDS: Final = 3600.0

_org = click.option(
    "--organization", "--org", "org", metavar="ORG", show_default="the only one", help="id or name"
)


@click.group(cls=Group)
def users() -> None:
    """Export or erase what is kept of a user."""


@users.command()
@click.argument("user")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option(
    "--wait",
    type=Seconds(0, _MOST_WAIT_SECONDS),
    default=_WAIT_SECONDS,
    metavar="SECONDS",
    help="for running turns to end",
)
@_org
@up_option
@as_owner
def erase(user: str, yes: bool, wait: float, org: str | None, data: Folder) -> int:
    """Remove all that USER, named as in the sessions, wrote and was answered."""
    from turnkeeper.commands.users import erase, servers

    return erase(servers(environment(), data), org, user, wait_seconds=wait, asks=not yes)


@users.command()
@click.argument("user")
@click.option("--output", type=FILE, metavar="FILE", show_default="stdout", help="a new file")
@_org
@up_option
@as_owner
def export(user: str, output: Path | None, org: str | None, data: Folder) -> int:
    """Write the sessions of USER, named as in the sessions, as JSON lines."""
    from turnkeeper.commands.users import export, servers

    return export(servers(environment(), data), org, user, output)
