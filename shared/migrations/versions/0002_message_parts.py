"""A message may hold parts that are not text; null where it holds none, so that its content says all."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, which rewrites no row."""
    op.execute("ALTER TABLE turnkeeper.messages ADD COLUMN parts jsonb")
    op.execute(
        "COMMENT ON COLUMN turnkeeper.messages.parts IS "
        "'what the message is made of, in order; null: its reasoning and its content are all'"
    )
