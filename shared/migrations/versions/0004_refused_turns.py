"""A claim's history leaves out the turns that the provider refused, and says how much of it was not read."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


_READ_CLAIMED = """
CREATE FUNCTION turnkeeper.read_claimed(turn uuid, most_bytes bigint, refusals text[])
RETURNS TABLE (
    id uuid, organization_id uuid, session_id uuid, number bigint, attempt integer, status text, recovery text,
    answer_id uuid, max_output_tokens integer, last_seq bigint, title text, queued_at timestamptz, traceparent text,
    seconds_left double precision, queued_seconds double precision, claimable_seconds double precision,
    first_token_at timestamptz, handed_back integer, system_prompt text, checkpoint_seq bigint, kept_text text,
    hold_usd numeric, history json, all_messages bigint, unread_tokens bigint, earlier_turns bigint)
LANGUAGE plpgsql SET search_path = pg_catalog SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    of_turn record;
    refused bigint[];
BEGIN
    SELECT t.organization_id, t.session_id, t.number, t.user_message_id INTO of_turn
    FROM turnkeeper.turns AS t WHERE t.id = turn;
    IF of_turn.number = 1 THEN
        SELECT json_build_array(json_build_array(1, 'user', m.content)), 1, 0, 1
        INTO history, all_messages, unread_tokens, earlier_turns FROM turnkeeper.messages AS m
        WHERE m.organization_id = of_turn.organization_id AND m.id = of_turn.user_message_id;
    ELSE
        SELECT coalesce(array_agg(r.number), '{}') INTO refused FROM turnkeeper.turns AS r
        WHERE r.organization_id = of_turn.organization_id AND r.session_id = of_turn.session_id
          AND r.number < of_turn.number AND r.error ->> 'code' = ANY (refusals);
        SELECT json_agg(json_build_array(m.position / 2, m.role, m.content) ORDER BY m.position)
                   FILTER (WHERE m.newer_bytes <= most_bytes),
               count(*),
               -- As `estimate_tokens` counts a text: a token for four bytes, rounded up.
               coalesce(sum((octet_length(m.content) + 3) / 4) FILTER (WHERE m.newer_bytes > most_bytes), 0),
               count(*) FILTER (WHERE m.role = 'user') - 1
        INTO history, all_messages, unread_tokens, earlier_turns
        FROM (
            SELECT n.position, n.role, n.content,
                   sum(octet_length(n.content)) OVER (ORDER BY n.position DESC) - octet_length(n.content) AS newer_bytes
            FROM turnkeeper.messages AS n
            WHERE n.organization_id = of_turn.organization_id AND n.session_id = of_turn.session_id
              AND n.position <= of_turn.number * 2 AND n.position / 2 <> ALL (refused)
        ) AS m;
    END IF;
    RETURN QUERY
    SELECT t.id, t.organization_id, t.session_id, t.number, t.attempt, t.status, t.recovery,
           t.answer_id, t.max_output_tokens, t.last_seq, t.title, t.queued_at, t.traceparent,
           (t.deadline_seconds - extract(epoch FROM clock_timestamp() - t.started_at))::double precision,
           extract(epoch FROM clock_timestamp() - t.queued_at)::double precision,
           extract(epoch FROM clock_timestamp() - t.claimable_at)::double precision, t.first_token_at,
           t.handed_back, s.system_prompt, c.seq, c.content, h.amount_usd,
           read_claimed.history, read_claimed.all_messages, read_claimed.unread_tokens,
           read_claimed.earlier_turns
    FROM turnkeeper.turns AS t
    JOIN turnkeeper.sessions AS s ON s.organization_id = t.organization_id AND s.id = t.session_id
    LEFT JOIN turnkeeper.checkpoints AS c ON c.organization_id = t.organization_id AND c.turn_id = t.id
    LEFT JOIN turnkeeper.holds AS h
        ON h.organization_id = t.organization_id AND h.turn_id = t.id AND h.attempt = t.attempt
    WHERE t.organization_id = of_turn.organization_id AND t.id = turn;
END
$$;
"""
"""Beside `read_claim`, which the workers of the release before go on using: it lacks what they do not ask for.

`refusals` has the codes of errors; turns that ended with one of them are left out of the history and of the counts.
"""


def upgrade() -> None:
    """Add the function."""
    op.execute(_READ_CLAIMED)
    op.execute("REVOKE ALL ON FUNCTION turnkeeper.read_claimed(uuid, bigint, text[]) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION turnkeeper.read_claimed(uuid, bigint, text[]) TO turnkeeper_app")
