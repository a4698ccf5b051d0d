"""Relays learn which of the turns and sessions that they watch do not exist: a failover may have lost their rows."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# They say nothing of any row but whether there is one (I9), and are called for all readers of a process at once.
_TURNS_AHEAD = """
CREATE OR REPLACE FUNCTION turnkeeper.turns_ahead(turns uuid[], seqs bigint[]) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT seen.id
    FROM unnest(turns, seqs) AS seen (id, seq)
    LEFT JOIN turnkeeper.turns AS t ON t.id = seen.id
    LEFT JOIN turnkeeper.checkpoints AS c ON c.organization_id = t.organization_id AND c.turn_id = t.id
    WHERE t.id IS NULL OR t.status NOT IN ('queued', 'running', 'stopping') OR c.seq > seen.seq
$$
"""
_MISSING_SESSIONS = """
CREATE FUNCTION turnkeeper.missing_sessions(organizations uuid[], sessions uuid[]) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT watched.id FROM unnest(organizations, sessions) AS watched (organization_id, id)
    WHERE NOT EXISTS (
        SELECT FROM turnkeeper.sessions AS s WHERE s.organization_id = watched.organization_id AND s.id = watched.id)
$$
"""


def upgrade() -> None:
    """Replace one function and add one; releases before this one call neither differently."""
    op.execute(_TURNS_AHEAD)
    op.execute(_MISSING_SESSIONS)
    op.execute("REVOKE ALL ON FUNCTION turnkeeper.missing_sessions(uuid[], uuid[]) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION turnkeeper.missing_sessions(uuid[], uuid[]) TO turnkeeper_app")
    # Handing a function over needs the right to create in the schema, for as long as that takes.
    op.execute("GRANT CREATE ON SCHEMA turnkeeper TO turnkeeper_across")
    op.execute("ALTER FUNCTION turnkeeper.missing_sessions(uuid[], uuid[]) OWNER TO turnkeeper_across")
    op.execute("REVOKE CREATE ON SCHEMA turnkeeper FROM turnkeeper_across")
