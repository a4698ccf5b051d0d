"""`turnkeeper migrate`: brings the schema up to date, as the database's owner."""

import click

from turnkeeper.cli.options import Command, up_option
from turnkeeper.owner import as_owner, environment, owner_url
from turnkeeper.up.records import Folder


@click.command(cls=Command)
@up_option
@as_owner
def migrate(data: Folder) -> int:
    """Bring the database's schema up to date."""
    from shared.postgres.migrate import migrate

    environ = environment()
    # `DATABASE_URL` names the application's login, but for another database than that of an `up` on a folder.
    app_url = "" if data.is_named else environ.get("DATABASE_URL", "").strip()
    migrate(owner_url(environ, data), app_url)
    return 0
