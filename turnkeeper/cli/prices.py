"""The options of `turnkeeper prices`."""

import click

from turnkeeper.cli.options import Command
from turnkeeper.owner import environment


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
def prices(as_json: bool) -> int:
    """Show what is billed for each model, and where that is from."""
    from rich.console import Console

    from turnkeeper.commands.prices import prices

    return prices(environment(), Console(), as_json=as_json)
