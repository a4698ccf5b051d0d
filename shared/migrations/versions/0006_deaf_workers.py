"""Workers say how they learn of turns; null: by doorbells, as all workers did before."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, which rewrites no row."""
    op.execute(
        "ALTER TABLE turnkeeper.workers ADD COLUMN deaf_since timestamptz,"
        " ADD COLUMN mute_since timestamptz, ADD COLUMN asked_at timestamptz"
    )
    op.execute(
        "COMMENT ON COLUMN turnkeeper.workers.deaf_since IS"
        " 'since when nothing proves that it would hear a doorbell; null while something does'"
    )
    op.execute(
        "COMMENT ON COLUMN turnkeeper.workers.mute_since IS"
        " 'since when its Redis takes no writes, and so no doorbells; null while it does'"
    )
    op.execute(
        "COMMENT ON COLUMN turnkeeper.workers.asked_at IS"
        " 'when it last asked for turns itself, or was full, while doorbells could not be relied on'"
    )
