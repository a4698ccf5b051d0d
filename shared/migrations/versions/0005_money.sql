-- Figures that no turn can have used are billed by their bound; what the provider said is kept beside it.
ALTER TABLE turnkeeper.turns DROP CONSTRAINT turns_usage_source_check,
    ADD CONSTRAINT turns_usage_source_check CHECK (usage_source IN ('provider', 'partial', 'estimated', 'disputed'));
ALTER TABLE turnkeeper.ledger DROP CONSTRAINT ledger_usage_source_check,
    ADD CONSTRAINT ledger_usage_source_check CHECK (usage_source IN ('provider', 'partial', 'estimated', 'disputed'));
ALTER TABLE turnkeeper.ledger ADD COLUMN reported jsonb;
COMMENT ON COLUMN turnkeeper.ledger.reported IS 'the provider''s own figures, where they are disputed or contradict each other; else null';
ALTER TABLE turnkeeper.checkpoints ADD COLUMN reported jsonb;

-- Renewals of a release before save no `reported`; theirs goes through the function below, too.
CREATE FUNCTION turnkeeper.save_checkpoints(
    worker uuid, turns uuid[], attempts integer[], seqs bigint[], calls boolean[], contents text[],
    reasonings text[], inputs bigint[], cache_reads bigint[], cache_writes bigint[], cache_writes_1h bigint[],
    outputs bigint[], reasoning_counts bigint[], sources text[], reports text[])
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    INSERT INTO turnkeeper.checkpoints AS c (organization_id, turn_id, attempt, seq, called, content, reasoning,
        input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
        usage_source, reported)
    SELECT t.organization_id, t.id, held.attempt, held.seq, held.called, held.content, held.reasoning,
        held.input_tokens, held.cache_read, held.cache_write, held.cache_write_1h, held.output_tokens,
        held.reasoning_count, held.source, held.reported::jsonb
    FROM unnest(turns, attempts, seqs, calls, contents, reasonings, inputs, cache_reads, cache_writes,
                cache_writes_1h, outputs, reasoning_counts, sources, reports)
        AS held (id, attempt, seq, called, content, reasoning, input_tokens, cache_read, cache_write, cache_write_1h,
                 output_tokens, reasoning_count, source, reported)
    JOIN turnkeeper.turns AS t ON t.id = held.id AND t.attempt = held.attempt AND t.worker_id = worker
        AND t.status IN ('running', 'stopping')
    ORDER BY t.id
    ON CONFLICT (organization_id, turn_id) DO UPDATE
    SET attempt = excluded.attempt, seq = excluded.seq, called = excluded.called, content = excluded.content,
        reasoning = excluded.reasoning, input_tokens = excluded.input_tokens,
        cache_read_tokens = excluded.cache_read_tokens, cache_write_tokens = excluded.cache_write_tokens,
        cache_write_1h_tokens = excluded.cache_write_1h_tokens,
        output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens,
        usage_source = excluded.usage_source, reported = excluded.reported, saved_at = now()
    WHERE excluded.attempt >= c.attempt
$$;

-- Corrections: rows that are added to the row they correct. Number 0 is the attempt's own row, as in every row so far.
ALTER TABLE turnkeeper.ledger
    ADD COLUMN correction integer NOT NULL DEFAULT 0 CHECK (correction >= 0),
    ADD COLUMN corrects uuid,
    ADD COLUMN reason text CHECK (length(reason) BETWEEN 1 AND 500),
    ADD COLUMN corrected_by text CHECK (length(corrected_by) BETWEEN 1 AND 200),
    ADD COLUMN corrected_at timestamptz CHECK (
        (correction > 0) = (corrected_at IS NOT NULL)
        AND (correction > 0) = (corrects IS NOT NULL AND reason IS NOT NULL AND corrected_by IS NOT NULL));
COMMENT ON COLUMN turnkeeper.ledger.correction IS '0: what an attempt used; n: the nth correction of that row, to be added to it';
COMMENT ON COLUMN turnkeeper.ledger.created_at IS 'when the attempt was settled; a correction has that of the row it corrects, and stands beside it';
ALTER TABLE turnkeeper.ledger
    DROP CONSTRAINT ledger_input_tokens_check,
    ADD CONSTRAINT ledger_input_tokens_check CHECK (input_tokens >= 0 OR correction > 0),
    DROP CONSTRAINT ledger_cache_read_tokens_check,
    ADD CONSTRAINT ledger_cache_read_tokens_check CHECK (cache_read_tokens >= 0 OR correction > 0),
    DROP CONSTRAINT ledger_cache_write_tokens_check,
    ADD CONSTRAINT ledger_cache_write_tokens_check CHECK (cache_write_tokens >= 0 OR correction > 0),
    DROP CONSTRAINT ledger_check,
    ADD CONSTRAINT ledger_check CHECK (cache_write_1h_tokens BETWEEN 0 AND cache_write_tokens OR correction > 0),
    DROP CONSTRAINT ledger_output_tokens_check,
    ADD CONSTRAINT ledger_output_tokens_check CHECK (output_tokens >= 0 OR correction > 0),
    DROP CONSTRAINT ledger_reasoning_tokens_check,
    ADD CONSTRAINT ledger_reasoning_tokens_check CHECK (reasoning_tokens >= 0 OR correction > 0),
    DROP CONSTRAINT ledger_cost_usd_check,
    ADD CONSTRAINT ledger_cost_usd_check CHECK (cost_usd >= 0 OR correction > 0),
    DROP CONSTRAINT ledger_organization_id_turn_id_attempt_key,
    ADD CONSTRAINT ledger_organization_id_turn_id_attempt_key UNIQUE (organization_id, turn_id, attempt, correction);
-- The service bills and never corrects: that is the owner's.
ALTER POLICY own_insert ON turnkeeper.ledger
    WITH CHECK (organization_id = (SELECT turnkeeper.required_organization()) AND correction = 0);

-- What was held at a price is billed at that price.
ALTER TABLE turnkeeper.holds ADD COLUMN price jsonb;
COMMENT ON COLUMN turnkeeper.holds.price IS 'the model and the rates for which it was computed; null: a release before took it';

CREATE FUNCTION turnkeeper.take_hold(
    organization uuid, turn uuid, of_attempt integer, prompt_usd numeric, token_usd numeric,
    least_tokens integer, most_tokens integer, at_price jsonb)
RETURNS TABLE (tokens integer, period text, limit_usd numeric, spent_usd numeric, held_usd numeric, starts_on date)
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
#variable_conflict use_column
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    first_of_month date := date_trunc('month', today::timestamp)::date;
    budget record;
    of_day turnkeeper.spend;
    of_month turnkeeper.spend;
    payable integer;
    amount numeric;
BEGIN
    SELECT o.daily_usd, o.monthly_usd INTO budget FROM turnkeeper.organizations AS o WHERE o.id = organization;
    IF budget.daily_usd IS NULL AND budget.monthly_usd IS NULL THEN
        RETURN QUERY SELECT NULL::integer, NULL::text, NULL::numeric, NULL::numeric, NULL::numeric, NULL::date;
        RETURN;
    END IF;
    of_month := turnkeeper.lock_spend(organization, 'month', first_of_month);
    of_day := turnkeeper.lock_spend(organization, 'day', today);
    payable := least(
        turnkeeper.payable_tokens(budget.daily_usd, of_day, prompt_usd, token_usd, most_tokens),
        turnkeeper.payable_tokens(budget.monthly_usd, of_month, prompt_usd, token_usd, most_tokens));
    IF payable < least_tokens THEN
        -- The month where both refuse: to wait for the next day would be in vain.
        IF turnkeeper.payable_tokens(budget.monthly_usd, of_month, prompt_usd, token_usd, most_tokens) < least_tokens THEN
            RETURN QUERY SELECT 0, 'month', budget.monthly_usd, of_month.spent_usd, of_month.held_usd, first_of_month;
        ELSE
            RETURN QUERY SELECT 0, 'day', budget.daily_usd, of_day.spent_usd, of_day.held_usd, today;
        END IF;
        RETURN;
    END IF;
    amount := prompt_usd + payable * token_usd;
    UPDATE turnkeeper.spend AS p SET held_usd = p.held_usd + amount
    WHERE p.organization_id = organization
      AND (p.period = 'month' AND p.starts_on = first_of_month OR p.period = 'day' AND p.starts_on = today);
    INSERT INTO turnkeeper.holds (organization_id, turn_id, attempt, day, month, amount_usd, price)
    VALUES (organization, turn, of_attempt, today, first_of_month, amount, at_price);
    IF payable < most_tokens THEN
        UPDATE turnkeeper.turns AS t SET max_output_tokens = payable WHERE t.organization_id = organization AND t.id = turn;
    END IF;
    RETURN QUERY SELECT payable, NULL::text, NULL::numeric, NULL::numeric, NULL::numeric, NULL::date;
END
$$;

-- What a claim must know about money besides `read_claim`: the price of its hold, and whether it needs one and has none.
-- It runs with the rights of whoever calls it, in the organization that the claim bound the transaction to.
CREATE FUNCTION turnkeeper.money_of_claim(turn uuid, of_attempt integer)
RETURNS TABLE (hold_price jsonb, needs_hold boolean)
LANGUAGE plpgsql SET search_path = pg_catalog SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT h.price, h.turn_id IS NULL AND coalesce(o.daily_usd, o.monthly_usd) IS NOT NULL
    FROM turnkeeper.turns AS t
    JOIN turnkeeper.organizations AS o ON o.id = t.organization_id
    LEFT JOIN turnkeeper.holds AS h
        ON h.organization_id = t.organization_id AND h.turn_id = t.id AND h.attempt = of_attempt
    WHERE t.id = turn;
END
$$;

-- Whether what a period has spent leaves nothing for a turn that waits with a hold of it. A hold of nothing is a free
-- model's; of a turn without a hold, the worker that claims it asks for one.
CREATE FUNCTION turnkeeper.is_spent(organization uuid, turn uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog
AS $$
    SELECT EXISTS (
        SELECT FROM turnkeeper.holds AS h
        JOIN turnkeeper.organizations AS o ON o.id = h.organization_id
        JOIN turnkeeper.spend AS p ON p.organization_id = h.organization_id
            AND (p.period = 'month' AND p.starts_on = h.month AND p.spent_usd >= o.monthly_usd
                 OR p.period = 'day' AND p.starts_on = h.day AND p.spent_usd >= o.daily_usd)
        WHERE h.organization_id = organization AND h.turn_id = turn AND h.amount_usd > 0)
$$;

-- As before, and no turn starts whose organization is switched off or has nothing to spend.
CREATE OR REPLACE FUNCTION turnkeeper.claim_turn(turn uuid, worker uuid, lease_seconds double precision)
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    claimed uuid;
BEGIN
    UPDATE turnkeeper.turns AS t
    SET status = 'running', attempt = greatest(t.attempt, 1), worker_id = worker,
        lease_expires_at = clock_timestamp() + make_interval(secs => lease_seconds),
        started_at = coalesce(t.started_at, clock_timestamp())
    WHERE t.id = turn AND t.status = 'queued'
      AND t.number = (
          SELECT first.number FROM turnkeeper.turns AS first
          WHERE first.organization_id = t.organization_id AND first.session_id = t.session_id
            AND first.status IN ('queued', 'running', 'stopping')
          ORDER BY first.number LIMIT 1)
      AND EXISTS (
          SELECT FROM turnkeeper.organizations AS o
          WHERE o.id = t.organization_id AND o.ai_enabled
            AND o.daily_usd IS DISTINCT FROM 0 AND o.monthly_usd IS DISTINCT FROM 0
            AND (coalesce(o.daily_usd, o.monthly_usd) IS NULL OR NOT turnkeeper.is_spent(o.id, t.id)))
    RETURNING t.organization_id INTO claimed;
    IF claimed IS NOT NULL THEN
        PERFORM set_config('turnkeeper.organization_id', claimed::text, true);
    END IF;
    RETURN claimed;
END
$$;

-- As before, and nothing is looked for behind the last turn of a session: with thousands that end at once, a plan made
-- from figures that are out of date would search all of them for none.
CREATE OR REPLACE FUNCTION turnkeeper.turn_ends() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
DECLARE
    next_turn uuid;
BEGIN
    PERFORM FROM turnkeeper.sessions AS s
    WHERE s.organization_id = NEW.organization_id AND s.id = NEW.session_id FOR NO KEY UPDATE;
    SELECT t.id INTO next_turn FROM turnkeeper.turns AS t
    WHERE t.organization_id = NEW.organization_id AND t.session_id = NEW.session_id
      AND t.status IN ('queued', 'running', 'stopping')
    ORDER BY t.number LIMIT 1;
    IF next_turn IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE turnkeeper.turns AS t SET claimable_at = clock_timestamp(), rung_at = to_timestamp(0)
    WHERE t.organization_id = NEW.organization_id AND t.id = (
        SELECT n.id FROM turnkeeper.turns AS n
        WHERE n.organization_id = NEW.organization_id AND n.id = next_turn
          AND n.status = 'queued' AND n.claimable_at IS NULL
        FOR NO KEY UPDATE SKIP LOCKED);
    RETURN NULL;
END
$$;

-- Waiting turns that no claim takes any more, with the word for why; at most `most`, those of a session in their order.
-- Where nothing is switched off and no budget is spent, only the organizations with turns are looked at.
CREATE FUNCTION turnkeeper.barred_turns(most integer, is_free boolean)
RETURNS TABLE (organization_id uuid, turn_id uuid, why text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
BEGIN
    RETURN QUERY
    WITH RECURSIVE active AS (
        (SELECT t.organization_id AS id FROM turnkeeper.turns AS t
         WHERE t.status IN ('queued', 'running', 'stopping') ORDER BY t.organization_id LIMIT 1)
        UNION ALL
        SELECT (SELECT t.organization_id FROM turnkeeper.turns AS t
                WHERE t.status IN ('queued', 'running', 'stopping') AND t.organization_id > a.id
                ORDER BY t.organization_id LIMIT 1)
        FROM active AS a WHERE a.id IS NOT NULL
    ), barred AS MATERIALIZED (
        SELECT o.id, o.ai_enabled, o.daily_usd = 0 OR o.monthly_usd = 0 AS pays_nothing,
            -- Yesterday's, too: its turns may still wait with holds.
            array(SELECT p.starts_on FROM turnkeeper.spend AS p
                  WHERE p.organization_id = o.id AND p.period = 'day' AND p.starts_on >= today - 1
                    AND p.spent_usd >= o.daily_usd) AS days,
            array(SELECT p.starts_on FROM turnkeeper.spend AS p
                  WHERE p.organization_id = o.id AND p.period = 'month'
                    AND p.starts_on >= date_trunc('month', (today - 1)::timestamp)::date
                    AND p.spent_usd >= o.monthly_usd) AS months
        FROM active AS a JOIN turnkeeper.organizations AS o ON o.id = a.id
        WHERE NOT o.ai_enabled OR coalesce(o.daily_usd, o.monthly_usd) IS NOT NULL
    )
    SELECT b.id, w.id, CASE WHEN b.ai_enabled THEN 'budget' ELSE 'ai_disabled' END
    FROM barred AS b CROSS JOIN LATERAL (
        SELECT t.id FROM turnkeeper.turns AS t
        WHERE t.organization_id = b.id AND t.status IN ('queued', 'running', 'stopping') AND t.status = 'queued'
          AND (NOT b.ai_enabled OR b.pays_nothing OR turnkeeper.is_spent(b.id, t.id)
               OR NOT is_free AND (today = ANY (b.days) OR date_trunc('month', today::timestamp)::date = ANY (b.months))
                  AND NOT EXISTS (SELECT FROM turnkeeper.holds AS h
                                  WHERE h.organization_id = b.id AND h.turn_id = t.id))
        ORDER BY t.session_id, t.number LIMIT most
    ) AS w
    WHERE NOT b.ai_enabled OR b.pays_nothing OR cardinality(b.days) > 0 OR cardinality(b.months) > 0
    LIMIT most;
END
$$;

GRANT SELECT ON turnkeeper.spend TO turnkeeper_across;
GRANT EXECUTE ON FUNCTION turnkeeper.is_spent(uuid, uuid) TO turnkeeper_app, turnkeeper_across;
GRANT EXECUTE ON FUNCTION
    turnkeeper.take_hold(uuid, uuid, integer, numeric, numeric, integer, integer, jsonb),
    turnkeeper.money_of_claim(uuid, integer)
    TO turnkeeper_app;

GRANT CREATE ON SCHEMA turnkeeper TO turnkeeper_across;
REVOKE ALL ON FUNCTION turnkeeper.save_checkpoints(
    uuid, uuid[], integer[], bigint[], boolean[], text[], text[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[],
    text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION turnkeeper.save_checkpoints(
    uuid, uuid[], integer[], bigint[], boolean[], text[], text[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[],
    text[], text[]) TO turnkeeper_app;
ALTER FUNCTION turnkeeper.save_checkpoints(
    uuid, uuid[], integer[], bigint[], boolean[], text[], text[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[],
    text[], text[]) OWNER TO turnkeeper_across;
REVOKE ALL ON FUNCTION turnkeeper.barred_turns(integer, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION turnkeeper.barred_turns(integer, boolean) TO turnkeeper_app;
ALTER FUNCTION turnkeeper.barred_turns(integer, boolean) OWNER TO turnkeeper_across;
REVOKE CREATE ON SCHEMA turnkeeper FROM turnkeeper_across;
