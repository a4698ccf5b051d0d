"""The options of `turnkeeper dump`."""

from pathlib import Path

import click

from turnkeeper.cli.options import FILE, Command, up_option
from turnkeeper.owner import as_owner, environment, owner_url
from turnkeeper.up.records import Folder


@click.command(cls=Command)
@click.argument("file", type=FILE)
@up_option
@as_owner
def dump(file: Path, data: Folder) -> int:
    """Write the database to FILE, which `pg_restore` reads."""
    from turnkeeper.commands.dump import dump

    environ = environment()
    return dump(owner_url(environ, data), file, environ)
