"""What is billed, and what may start; its statements stand in the .sql file of the same name.

Disputed figures with what the provider said, corrections of the ledger, holds that keep their price, and a claim that
looks at an organization's switch and budget.
"""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and functions, and let what was checked before hold more words."""
    # Straight to psycopg, without parameters: a percent sign is one.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute(Path(__file__).with_suffix(".sql").read_text())
