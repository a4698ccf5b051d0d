"""A turn keeps what the provider said in its last error, for admins."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


_FORGET_CONTENT = """
CREATE OR REPLACE FUNCTION turnkeeper.forget_content(organization uuid, forgotten uuid[])
RETURNS TABLE (sessions integer, messages integer, checkpoints integer, idempotency_keys integer)
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    PERFORM FROM turnkeeper.turns AS t
    WHERE t.organization_id = organization AND t.session_id = ANY (forgotten)
    ORDER BY t.session_id, t.number FOR NO KEY UPDATE;
    UPDATE turnkeeper.turns AS t SET dropped = true, message_id = NULL, title = NULL, metadata = '{}',
        provider_error = NULL
    WHERE t.organization_id = organization AND t.session_id = ANY (forgotten);
    DELETE FROM turnkeeper.messages AS m
    WHERE m.organization_id = organization AND m.session_id = ANY (forgotten);
    GET DIAGNOSTICS messages = ROW_COUNT;
    DELETE FROM turnkeeper.checkpoints AS c USING turnkeeper.turns AS t
    WHERE t.organization_id = organization AND t.session_id = ANY (forgotten)
      AND c.organization_id = organization AND c.turn_id = t.id;
    GET DIAGNOSTICS checkpoints = ROW_COUNT;
    DELETE FROM turnkeeper.idempotency_keys AS k USING turnkeeper.turns AS t
    WHERE t.organization_id = organization AND t.session_id = ANY (forgotten)
      AND k.organization_id = organization AND k.turn_id = t.id;
    GET DIAGNOSTICS idempotency_keys = ROW_COUNT;
    UPDATE turnkeeper.sessions AS s
    SET title = NULL, system_prompt = NULL, metadata = '{}', flag_reason = NULL, forgotten_at = clock_timestamp()
    WHERE s.organization_id = organization AND s.id = ANY (forgotten);
    GET DIAGNOSTICS sessions = ROW_COUNT;
    RETURN NEXT;
END
$$;
"""


def upgrade() -> None:
    """Add the column, which rewrites no row."""
    op.execute("ALTER TABLE turnkeeper.turns ADD COLUMN provider_error text")
    op.execute(
        "COMMENT ON COLUMN turnkeeper.turns.provider_error IS "
        "'what the provider said in its last error, cut and redacted; shown to admins alone'"
    )
    op.execute(_FORGET_CONTENT)
