"""`turnkeeper migrate`."""

import click

from turnkeeper.owner import as_owner, environment, owner_url


@click.command()
@as_owner
def migrate() -> int:
    """Bring the database's schema up to date."""
    from shared.postgres.migrate import migrate

    environ = environment()
    # The application's login is made from `DATABASE_URL`.
    migrate(owner_url(environ), environ.get("DATABASE_URL", "").strip())
    return 0
