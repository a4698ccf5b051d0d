"""The first schema; its statements stand in the .sql file of the same name."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create tables, policies, functions and the grants of the roles."""
    # Straight to psycopg, without parameters: the percent signs are format()'s.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
