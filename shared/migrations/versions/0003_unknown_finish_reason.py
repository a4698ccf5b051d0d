"""A model may stop without a reason, or with one that is not known: `unknown`, which is never told as `stop`."""

from alembic import op

from shared.postgres.widening import widen_check

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let the column take the new name; no row changes."""
    widen_check(
        op.get_bind(),
        "turns",
        "finish_reason",
        ["stop", "length", "content_filter", "refusal", "unknown"],
    )
