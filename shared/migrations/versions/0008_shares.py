"""No organization holds all slots of a worker, and a full queue is that of the organization whose turns fill it."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


_CLAIM_NEXT_TURN = """
-- As the function of the same name with three arguments, which workers of the release before call; beyond that, an
-- organization may hold at most `most_of_one` slots of a worker, so that another's turn finds one at once and not when
-- some turn of minutes ends. Where there is only one organization, it may hold them all.
CREATE FUNCTION turnkeeper.claim_next_turn(
    worker uuid, lease_seconds double precision, hint uuid, most_of_one integer)
RETURNS TABLE (organization_id uuid, turn_id uuid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    entitled record;
    least double precision;
    picked uuid;
    is_shared boolean := EXISTS (SELECT FROM turnkeeper.organizations OFFSET 1);
BEGIN
    FOR entitled IN
        WITH RECURSIVE waiting AS (
            (SELECT t.organization_id AS id FROM turnkeeper.turns AS t
             WHERE t.status = 'queued' AND t.claimable_at IS NOT NULL ORDER BY t.organization_id LIMIT 1)
            UNION ALL
            SELECT (SELECT t.organization_id FROM turnkeeper.turns AS t
                    WHERE t.status = 'queued' AND t.claimable_at IS NOT NULL AND t.organization_id > w.id
                    ORDER BY t.organization_id LIMIT 1)
            FROM waiting AS w WHERE w.id IS NOT NULL
        ), hinted AS (
            SELECT t.organization_id AS id FROM turnkeeper.turns AS t WHERE t.id = hint AND t.status = 'queued'
        )
        SELECT w.id, r.running::double precision / o.weight AS load,
               o.weight * extract(epoch FROM clock_timestamp() - (
                   SELECT t.started_at FROM turnkeeper.turns AS t
                   WHERE t.organization_id = w.id AND t.started_at IS NOT NULL
                   ORDER BY t.started_at DESC LIMIT 1)) AS rested,
               w.id = (SELECT h.id FROM hinted AS h) AS has_hint
        FROM waiting AS w JOIN turnkeeper.organizations AS o ON o.id = w.id
            CROSS JOIN LATERAL (
                SELECT count(*) AS running, count(*) FILTER (WHERE r.worker_id = worker) AS here
                FROM turnkeeper.turns AS r
                WHERE r.organization_id = w.id AND r.status IN ('running', 'stopping')) AS r
        WHERE NOT is_shared OR r.here < most_of_one
        ORDER BY load, rested DESC NULLS FIRST, has_hint DESC NULLS LAST
    LOOP
        least := coalesce(least, entitled.load);
        IF entitled.has_hint AND entitled.load <= least THEN
            IF turnkeeper.claim_turn(hint, worker, lease_seconds) IS NOT NULL THEN
                RETURN QUERY SELECT entitled.id, hint;
                RETURN;
            END IF;
        END IF;
        SELECT t.id INTO picked FROM turnkeeper.turns AS t
        WHERE t.organization_id = entitled.id AND t.status = 'queued' AND t.claimable_at IS NOT NULL
          AND NOT EXISTS (
              SELECT FROM turnkeeper.turns AS earlier
              WHERE earlier.organization_id = t.organization_id AND earlier.session_id = t.session_id
                AND earlier.number < t.number AND earlier.status IN ('queued', 'running', 'stopping'))
        ORDER BY t.queued_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
        IF picked IS NOT NULL AND turnkeeper.claim_turn(picked, worker, lease_seconds) IS NOT NULL THEN
            RETURN QUERY SELECT entitled.id, picked;
            RETURN;
        END IF;
    END LOOP;
END
$$;
"""
_OWN_WAIT = """
-- How long the turns of the transaction's organization wait for a worker, in all and for workers that heard of turns
-- meanwhile (null where none waits), and whether more of them wait than its part of `most_in_all`: that divided by how
-- many organizations have turns waiting, at least two. Of an organization only its hundred oldest waiting turns are
-- looked at, and of the organizations a hundred, so that the question costs the same however long the queue is.
CREATE FUNCTION turnkeeper.own_wait(most_in_all integer)
RETURNS TABLE (seconds double precision, heard_seconds double precision, has_too_many boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    WITH RECURSIVE alive AS (
        SELECT w.heard_at, w.hearing_since, max(w.heard_at) OVER () AS last_heard
        FROM turnkeeper.workers AS w WHERE w.renewed_at > clock_timestamp() - interval '15 seconds'
    ), hearing AS (
        SELECT max(a.heard_at) AS until, min(a.hearing_since) AS since
        FROM alive AS a WHERE a.heard_at > a.last_heard - interval '45 seconds'
    ), own AS (
        SELECT min(t.claimable_at) AS since FROM (
            SELECT q.claimable_at FROM turnkeeper.turns AS q
            WHERE q.organization_id = turnkeeper.current_organization()
              AND q.status = 'queued' AND q.claimable_at IS NOT NULL
            ORDER BY q.queued_at LIMIT 100) AS t
    ), waiting AS (
        (SELECT t.organization_id AS id, 1 AS place FROM turnkeeper.turns AS t
         WHERE t.status = 'queued' AND t.claimable_at IS NOT NULL ORDER BY t.organization_id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.organization_id FROM turnkeeper.turns AS t
                WHERE t.status = 'queued' AND t.claimable_at IS NOT NULL AND t.organization_id > w.id
                ORDER BY t.organization_id LIMIT 1), w.place + 1
        FROM waiting AS w WHERE w.id IS NOT NULL AND w.place < 100
    ), share AS (
        SELECT most_in_all / greatest(2, count(w.id)) AS most FROM waiting AS w
    )
    SELECT extract(epoch FROM clock_timestamp() - own.since)::double precision,
        CASE WHEN own.since IS NOT NULL THEN
            extract(epoch FROM coalesce(h.until, clock_timestamp()) - greatest(own.since, h.since))::double precision
        END,
        (SELECT count(*) FROM (
            SELECT FROM turnkeeper.turns AS t
            WHERE t.organization_id = turnkeeper.current_organization() AND t.status = 'queued'
            LIMIT share.most) AS t) >= share.most
    FROM own CROSS JOIN hearing AS h CROSS JOIN share
$$;
"""
_RIGHTS = """
GRANT CREATE ON SCHEMA turnkeeper TO turnkeeper_across;
REVOKE ALL ON FUNCTION turnkeeper.claim_next_turn(uuid, double precision, uuid, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION turnkeeper.own_wait(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION turnkeeper.claim_next_turn(uuid, double precision, uuid, integer) TO turnkeeper_app;
GRANT EXECUTE ON FUNCTION turnkeeper.own_wait(integer) TO turnkeeper_app;
ALTER FUNCTION turnkeeper.claim_next_turn(uuid, double precision, uuid, integer) OWNER TO turnkeeper_across;
ALTER FUNCTION turnkeeper.own_wait(integer) OWNER TO turnkeeper_across;
REVOKE CREATE ON SCHEMA turnkeeper FROM turnkeeper_across;
"""


def upgrade() -> None:
    """Add the functions; those that they replace stay for the release before."""
    for statements in (_CLAIM_NEXT_TURN, _OWN_WAIT, _RIGHTS):
        op.execute(statements)
