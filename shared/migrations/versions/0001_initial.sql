-- The schema of release 0.1. Three roles: the owner (runs migrations), turnkeeper_app (what the
-- application's login is a member of: owns nothing, bypasses nothing) and turnkeeper_across (no login;
-- owns the few SECURITY DEFINER functions that must look across organizations).

CREATE SCHEMA turnkeeper;
GRANT USAGE ON SCHEMA turnkeeper TO turnkeeper_app, turnkeeper_across;

-- set_config(…, true) leaves '' behind on a pooled connection, not NULL: both mean "no organization".
-- Both functions are bound when they are made and set nothing, so that the planner puts their bodies in place of
-- the calls: policies ask on every table of every statement, some thirty times a turn.
CREATE FUNCTION turnkeeper.current_organization() RETURNS uuid LANGUAGE sql STABLE
RETURN nullif(current_setting('turnkeeper.organization_id', true), '')::uuid;

CREATE FUNCTION turnkeeper.no_organization() RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog
AS $$
BEGIN
    RAISE EXCEPTION 'no organization is set for this transaction' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE FUNCTION turnkeeper.required_organization() RETURNS uuid LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('turnkeeper.organization_id', true), '')::uuid, turnkeeper.no_organization());

CREATE TABLE turnkeeper.organizations (
    id uuid PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    ai_enabled boolean NOT NULL DEFAULT true,
    weight integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000),
    max_concurrent_turns integer CHECK (max_concurrent_turns >= 0),
    max_turns_per_session integer CHECK (max_turns_per_session >= 0),
    turns_per_minute_per_user integer CHECK (turns_per_minute_per_user BETWEEN 0 AND 1000000),
    turns_per_hour integer CHECK (turns_per_hour BETWEEN 0 AND 1000000),
    daily_usd numeric NULL CHECK (daily_usd >= 0),
    monthly_usd numeric NULL CHECK (monthly_usd >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN turnkeeper.organizations.weight IS 'its share of busy workers: one of weight 2 runs twice the turns of one of weight 1';
COMMENT ON COLUMN turnkeeper.organizations.max_concurrent_turns IS 'most turns queued and running at once; null is no limit, 0 allows nothing';
COMMENT ON COLUMN turnkeeper.organizations.max_turns_per_session IS 'most that a new session''s max_turns may be; null is no limit, 0 allows nothing';
COMMENT ON COLUMN turnkeeper.organizations.turns_per_minute_per_user IS 'null: what the service is set to; 0 allows nothing';
COMMENT ON COLUMN turnkeeper.organizations.turns_per_hour IS 'null: what the service is set to; 0 allows nothing';
COMMENT ON COLUMN turnkeeper.organizations.daily_usd IS 'most that the turns of a UTC day may cost; null is no limit, 0 allows nothing';
COMMENT ON COLUMN turnkeeper.organizations.monthly_usd IS 'most that the turns of a UTC month may cost; null is no limit, 0 allows nothing';

CREATE TABLE turnkeeper.api_keys (
    organization_id uuid NOT NULL REFERENCES turnkeeper.organizations (id),
    id uuid NOT NULL,
    role text NOT NULL CHECK (role IN ('user', 'service', 'admin')),
    user_name text CHECK (length(user_name) BETWEEN 1 AND 200),
    name text NOT NULL DEFAULT '' CHECK (length(name) <= 200),
    prefix text NOT NULL,
    secret_sha256 bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (organization_id, id),
    CHECK ((role = 'user') = (user_name IS NOT NULL))
);
-- Not an oracle across organizations: nobody chooses a secret of 256 random bits.
CREATE UNIQUE INDEX api_keys_secret ON turnkeeper.api_keys (secret_sha256);

CREATE TABLE turnkeeper.sessions (
    organization_id uuid NOT NULL REFERENCES turnkeeper.organizations (id),
    id uuid NOT NULL,
    user_name text NOT NULL CHECK (length(user_name) BETWEEN 1 AND 200),
    title text CHECK (length(title) BETWEEN 1 AND 200),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'closed', 'expired')),
    system_prompt text,
    max_turns integer NOT NULL CHECK (max_turns >= 0),
    turn_count integer NOT NULL DEFAULT 0,
    next_turn_number bigint NOT NULL DEFAULT 1,
    input_tokens bigint NOT NULL DEFAULT 0,
    cache_read_tokens bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    reasoning_tokens bigint NOT NULL DEFAULT 0,
    cost_usd numeric NOT NULL DEFAULT 0 CHECK (cost_usd >= 0),
    flagged boolean NOT NULL DEFAULT false,
    flag_reason text,
    flagged_by text,
    flagged_at timestamptz,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_activity_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    forgotten_at timestamptz,
    PRIMARY KEY (organization_id, id)
);
COMMENT ON COLUMN turnkeeper.sessions.forgotten_at IS 'when its content was removed, by retention or erasure; null again when something was added';
CREATE INDEX sessions_by_activity ON turnkeeper.sessions (organization_id, last_activity_at DESC, id DESC);
CREATE INDEX sessions_by_user ON turnkeeper.sessions (organization_id, user_name, last_activity_at DESC, id DESC);
CREATE INDEX sessions_flagged ON turnkeeper.sessions (organization_id, flagged_at DESC, id DESC) WHERE flagged;
CREATE INDEX sessions_to_expire ON turnkeeper.sessions (last_activity_at) WHERE status = 'active';
CREATE INDEX sessions_to_forget ON turnkeeper.sessions (closed_at) WHERE status <> 'active' AND forgotten_at IS NULL;

CREATE TABLE turnkeeper.turns (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    session_id uuid NOT NULL,
    number bigint NOT NULL,
    user_name text NOT NULL,
    status text NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    handed_back integer NOT NULL DEFAULT 0 CHECK (handed_back BETWEEN 0 AND attempt),
    recovery text NOT NULL CHECK (recovery IN ('restart', 'fail')),
    user_message_id uuid NOT NULL,
    answer_id uuid NOT NULL,
    message_id uuid,
    max_output_tokens integer NOT NULL CHECK (max_output_tokens > 0),
    deadline_seconds double precision NOT NULL CHECK (deadline_seconds > 0),
    provider text,
    model text,
    finish_reason text CHECK (finish_reason IN ('stop', 'length', 'content_filter', 'refusal')),
    stop_reason text CHECK (stop_reason IN ('user', 'budget', 'session_closed', 'superseded')),
    input_tokens bigint NOT NULL DEFAULT 0 CHECK (input_tokens >= 0),
    cache_read_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_read_tokens >= 0),
    cache_write_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_write_tokens >= 0),
    output_tokens bigint NOT NULL DEFAULT 0 CHECK (output_tokens >= 0),
    reasoning_tokens bigint NOT NULL DEFAULT 0 CHECK (reasoning_tokens BETWEEN 0 AND output_tokens),
    usage_source text CHECK (usage_source IN ('provider', 'partial', 'estimated')),
    cost_usd numeric NOT NULL DEFAULT 0 CHECK (cost_usd >= 0),
    error jsonb,
    last_seq bigint NOT NULL,
    history_trimmed integer NOT NULL DEFAULT 0,
    metadata jsonb NOT NULL DEFAULT '{}',
    title text,
    traceparent text NOT NULL DEFAULT '',
    request_id text NOT NULL DEFAULT '',
    worker_id uuid,
    lease_expires_at timestamptz,
    claimable_at timestamptz DEFAULT now(),
    dropped boolean NOT NULL DEFAULT false,
    rung_at timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    first_token_at timestamptz,
    stop_requested_at timestamptz,
    stop_observed_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, session_id, number),
    FOREIGN KEY (organization_id, session_id) REFERENCES turnkeeper.sessions (organization_id, id),
    CONSTRAINT turns_status CHECK (status IN ('queued', 'running', 'stopping', 'completed', 'stopped', 'failed', 'expired')),
    CONSTRAINT turns_terminal_is_finished CHECK ((status IN ('completed', 'stopped', 'failed', 'expired')) = (finished_at IS NOT NULL)),
    CONSTRAINT turns_stopped_says_why CHECK (status NOT IN ('stopping', 'stopped') OR stop_reason IS NOT NULL),
    CONSTRAINT turns_failed_says_why CHECK ((status = 'failed') = (error IS NOT NULL))
);
COMMENT ON COLUMN turnkeeper.turns.attempt IS 'the fencing token: raised when an attempt is taken from its worker or given back, so the next one finds its number';
COMMENT ON COLUMN turnkeeper.turns.handed_back IS 'attempts that a draining worker gave back: they do not count against the most';
COMMENT ON COLUMN turnkeeper.turns.claimable_at IS 'since when it could be claimed; null while an earlier turn of its session is active';
COMMENT ON COLUMN turnkeeper.turns.dropped IS 'none of its messages is kept: a newer turn rolled it back, or its content was removed';
COMMENT ON COLUMN turnkeeper.turns.title IS 'the title that this turn gave its session: the event title_updated can be written again from the row';
-- A turn's id is all that a doorbell says; workers find it without knowing the organization.
CREATE UNIQUE INDEX turns_by_id ON turnkeeper.turns (id);
-- One turn at a time per session is this index, not a check.
CREATE UNIQUE INDEX turns_one_running ON turnkeeper.turns (organization_id, session_id)
    WHERE status IN ('running', 'stopping');
CREATE INDEX turns_active ON turnkeeper.turns (organization_id, session_id, number)
    WHERE status IN ('queued', 'running', 'stopping');
CREATE INDEX turns_queued ON turnkeeper.turns (queued_at) WHERE status = 'queued';
-- Fairness looks at each organization's head; what waits behind its own session's turn is in nobody's way.
CREATE INDEX turns_claimable ON turnkeeper.turns (organization_id, queued_at)
    WHERE status = 'queued' AND claimable_at IS NOT NULL;
CREATE INDEX turns_by_start ON turnkeeper.turns (organization_id, started_at) WHERE started_at IS NOT NULL;
CREATE INDEX turns_by_wait ON turnkeeper.turns (claimable_at) WHERE status = 'queued' AND claimable_at IS NOT NULL;
CREATE INDEX turns_leased ON turnkeeper.turns (lease_expires_at) WHERE status IN ('running', 'stopping');
-- What operators look for. Ids are in the order of acceptance; a turn that completes is not in it.
CREATE INDEX turns_cut_short ON turnkeeper.turns (organization_id, status, id)
    WHERE status IN ('stopped', 'failed', 'expired');

CREATE TABLE turnkeeper.messages (
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    session_id uuid NOT NULL,
    turn_id uuid NOT NULL,
    position bigint NOT NULL,
    role text NOT NULL CHECK (role IN ('user', 'assistant', 'tool')),
    content text NOT NULL,
    reasoning text,
    status text NOT NULL CHECK (status IN ('complete', 'partial')),
    finish_reason text,
    input_tokens bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    output_tokens bigint,
    reasoning_tokens bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, session_id, position),
    UNIQUE (organization_id, turn_id, role),
    FOREIGN KEY (organization_id, session_id) REFERENCES turnkeeper.sessions (organization_id, id),
    FOREIGN KEY (organization_id, turn_id) REFERENCES turnkeeper.turns (organization_id, id)
);
COMMENT ON COLUMN turnkeeper.messages.position IS 'twice the turn''s number for its question, one more for its answer';

-- A turn's own rules, whichever statement moves it.
CREATE FUNCTION turnkeeper.turn_moves() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    IF NEW.dropped THEN
        NEW.message_id := NULL;
    END IF;
    IF NEW.status = 'queued' AND OLD.status <> 'queued' THEN
        NEW.claimable_at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER turn_moves BEFORE UPDATE OF status ON turnkeeper.turns
    FOR EACH ROW EXECUTE FUNCTION turnkeeper.turn_moves();

-- When a turn ends, the next of its session may be claimed. Two turns of a session that end at once meet at
-- the session's row: the later one sees that the earlier ended. A next turn that is locked is being ended
-- itself, and its own end looks again; waiting for it here could deadlock (the order is turn, then session).
CREATE FUNCTION turnkeeper.turn_ends() RETURNS trigger
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
    UPDATE turnkeeper.turns AS t SET claimable_at = clock_timestamp(), rung_at = to_timestamp(0)
    WHERE t.organization_id = NEW.organization_id AND t.id = (
        SELECT n.id FROM turnkeeper.turns AS n
        WHERE n.organization_id = NEW.organization_id AND n.id = next_turn
          AND n.status = 'queued' AND n.claimable_at IS NULL
        FOR NO KEY UPDATE SKIP LOCKED);
    RETURN NULL;
END
$$;
CREATE TRIGGER turn_ends AFTER UPDATE OF status ON turnkeeper.turns
    FOR EACH ROW WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION turnkeeper.turn_ends();

-- A turn may be rolled back while its worker settles it: whoever writes the answer, there is none.
CREATE FUNCTION turnkeeper.answer_is_kept() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    IF EXISTS (SELECT FROM turnkeeper.turns AS t
               WHERE t.organization_id = NEW.organization_id AND t.id = NEW.turn_id AND t.dropped) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER answer_is_kept BEFORE INSERT ON turnkeeper.messages
    FOR EACH ROW WHEN (NEW.role = 'assistant') EXECUTE FUNCTION turnkeeper.answer_is_kept();

-- What a running attempt had said when its lease was last renewed; gone when the turn is settled.
CREATE TABLE turnkeeper.checkpoints (
    organization_id uuid NOT NULL,
    turn_id uuid NOT NULL,
    attempt integer NOT NULL,
    seq bigint NOT NULL,
    called boolean NOT NULL,
    content text NOT NULL,
    reasoning text NOT NULL,
    input_tokens bigint NOT NULL DEFAULT 0,
    cache_read_tokens bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    cache_write_1h_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    reasoning_tokens bigint NOT NULL DEFAULT 0,
    usage_source text NOT NULL DEFAULT 'estimated',
    saved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, turn_id),
    FOREIGN KEY (organization_id, turn_id) REFERENCES turnkeeper.turns (organization_id, id)
);

CREATE TABLE turnkeeper.ledger (
    organization_id uuid NOT NULL REFERENCES turnkeeper.organizations (id),
    id uuid NOT NULL,
    turn_id uuid NOT NULL,
    session_id uuid NOT NULL,
    user_name text NOT NULL,
    attempt integer NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    cache_read_tokens bigint NOT NULL CHECK (cache_read_tokens >= 0),
    cache_write_tokens bigint NOT NULL CHECK (cache_write_tokens >= 0),
    cache_write_1h_tokens bigint NOT NULL DEFAULT 0 CHECK (cache_write_1h_tokens BETWEEN 0 AND cache_write_tokens),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    reasoning_tokens bigint NOT NULL CHECK (reasoning_tokens >= 0),
    usage_source text NOT NULL CHECK (usage_source IN ('provider', 'partial', 'estimated')),
    price jsonb NOT NULL,
    cost_usd numeric NOT NULL CHECK (cost_usd >= 0),
    day date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, id),
    UNIQUE (organization_id, turn_id, attempt)
);
COMMENT ON COLUMN turnkeeper.ledger.day IS 'the UTC day whose budget paid: that of the attempt''s hold; without one, of its settlement';
CREATE INDEX ledger_by_time ON turnkeeper.ledger (organization_id, created_at DESC, id DESC);

-- Totals of the ledger and of the open holds by UTC day and month, kept in the transactions that write those. Rows are
-- locked after all else, a month before its days: so nothing deadlocks. `turnkeeper ledger check` proves the sums.
CREATE TABLE turnkeeper.spend (
    organization_id uuid NOT NULL REFERENCES turnkeeper.organizations (id),
    period text NOT NULL CHECK (period IN ('day', 'month')),
    starts_on date NOT NULL,
    attempts bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    cache_read_tokens bigint NOT NULL DEFAULT 0,
    cache_write_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    spent_usd numeric NOT NULL DEFAULT 0 CHECK (spent_usd >= 0),
    held_usd numeric NOT NULL DEFAULT 0 CHECK (held_usd >= 0),
    PRIMARY KEY (organization_id, period, starts_on)
);

-- What a turn that has not ended may still cost, for the attempt that runs or is to run; only where its
-- organization has a budget.
CREATE TABLE turnkeeper.holds (
    organization_id uuid NOT NULL REFERENCES turnkeeper.organizations (id),
    turn_id uuid NOT NULL,
    attempt integer NOT NULL CHECK (attempt >= 1),
    day date NOT NULL,
    month date NOT NULL CHECK (month = date_trunc('month', day::timestamp)::date),
    amount_usd numeric NOT NULL CHECK (amount_usd >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, turn_id, attempt),
    FOREIGN KEY (organization_id, turn_id) REFERENCES turnkeeper.turns (organization_id, id)
);

-- Takes a hold (I6): the prompt's most, and as many of `most_tokens` as the day and the month can pay. Both rows stay
-- locked until the transaction ends, so parallel ones come one after the other and none is passed.
-- `tokens` is null when there is no budget; else what was paid for, or 0 and which budget refuses.
CREATE FUNCTION turnkeeper.take_hold(
    organization uuid, turn uuid, of_attempt integer, prompt_usd numeric, token_usd numeric,
    least_tokens integer, most_tokens integer)
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
    INSERT INTO turnkeeper.holds (organization_id, turn_id, attempt, day, month, amount_usd)
    VALUES (organization, turn, of_attempt, today, first_of_month, amount);
    IF payable < most_tokens THEN
        UPDATE turnkeeper.turns AS t SET max_output_tokens = payable WHERE t.organization_id = organization AND t.id = turn;
    END IF;
    RETURN QUERY SELECT payable, NULL::text, NULL::numeric, NULL::numeric, NULL::numeric, NULL::date;
END
$$;

-- Locks the totals of a period, made when they are missing.
CREATE FUNCTION turnkeeper.lock_spend(organization uuid, of_period text, since date) RETURNS turnkeeper.spend
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
DECLARE
    found turnkeeper.spend;
BEGIN
    LOOP
        SELECT * INTO found FROM turnkeeper.spend AS p
        WHERE p.organization_id = organization AND p.period = of_period AND p.starts_on = since FOR NO KEY UPDATE;
        IF found.organization_id IS NOT NULL THEN
            RETURN found;
        END IF;
        INSERT INTO turnkeeper.spend (organization_id, period, starts_on) VALUES (organization, of_period, since)
        ON CONFLICT DO NOTHING;
    END LOOP;
END
$$;

-- How many tokens what is left of a budget pays after the prompt; fewer than none where it does not pay that. Of 0
-- nothing is paid, be it free. div() is exact, where / might round the last token up.
CREATE FUNCTION turnkeeper.payable_tokens(
    limit_usd numeric, totals turnkeeper.spend, prompt_usd numeric, token_usd numeric, most_tokens integer)
RETURNS integer LANGUAGE sql IMMUTABLE SET search_path = pg_catalog
AS $$
    SELECT CASE
        WHEN limit_usd IS NULL THEN most_tokens
        WHEN limit_usd = 0 THEN -1
        WHEN prompt_usd = 0 AND token_usd = 0 THEN most_tokens
        WHEN limit_usd - totals.spent_usd - totals.held_usd < prompt_usd THEN -1
        WHEN token_usd = 0 THEN most_tokens
        ELSE least(most_tokens, div(limit_usd - totals.spent_usd - totals.held_usd - prompt_usd, token_usd))::integer
    END
$$;

-- A turn that ends while it waits has no worker that would settle it: whichever statement ends it, its hold goes.
CREATE FUNCTION turnkeeper.turn_frees_hold() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
DECLARE
    freed turnkeeper.holds;
BEGIN
    DELETE FROM turnkeeper.holds AS h
    WHERE h.organization_id = NEW.organization_id AND h.turn_id = NEW.id RETURNING * INTO freed;
    IF freed.turn_id IS NOT NULL THEN
        -- Two statements: a month is locked before its day.
        UPDATE turnkeeper.spend AS p SET held_usd = p.held_usd - freed.amount_usd
        WHERE p.organization_id = NEW.organization_id AND p.period = 'month' AND p.starts_on = freed.month;
        UPDATE turnkeeper.spend AS p SET held_usd = p.held_usd - freed.amount_usd
        WHERE p.organization_id = NEW.organization_id AND p.period = 'day' AND p.starts_on = freed.day;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER turn_frees_hold AFTER UPDATE OF status ON turnkeeper.turns
    FOR EACH ROW WHEN (OLD.status = 'queued' AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION turnkeeper.turn_frees_hold();

CREATE TABLE turnkeeper.idempotency_keys (
    organization_id uuid NOT NULL REFERENCES turnkeeper.organizations (id),
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint bytea NOT NULL,
    turn_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, key),
    FOREIGN KEY (organization_id, turn_id) REFERENCES turnkeeper.turns (organization_id, id)
);
CREATE INDEX idempotency_keys_by_age ON turnkeeper.idempotency_keys (created_at);

-- How often a limit refused a turn, by the UTC day. Counted in memory and added about once a second.
CREATE TABLE turnkeeper.refusals (
    organization_id uuid NOT NULL REFERENCES turnkeeper.organizations (id),
    day date NOT NULL,
    user_name text NOT NULL CHECK (length(user_name) <= 200),
    code text NOT NULL,
    scope text NOT NULL DEFAULT '',
    refused bigint NOT NULL CHECK (refused > 0),
    last_at timestamptz NOT NULL,
    PRIMARY KEY (organization_id, day, user_name, code, scope)
);
COMMENT ON COLUMN turnkeeper.refusals.scope IS 'user or organization of a rate, day or month of a budget; else empty';

-- Worker processes; knows no organization.
CREATE TABLE turnkeeper.workers (
    id uuid PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    renewed_at timestamptz NOT NULL DEFAULT now(),
    claimed_at timestamptz,
    heard_at timestamptz NOT NULL DEFAULT now(),
    hearing_since timestamptz NOT NULL DEFAULT now(),
    running integer NOT NULL DEFAULT 0
);
COMMENT ON COLUMN turnkeeper.workers.heard_at IS 'when it last heard a doorbell or a canary: a deaf worker renews and does not hear';
COMMENT ON COLUMN turnkeeper.workers.hearing_since IS 'since when it has heard without a long silence, as while Redis is away';

-- Removes what people wrote and what models answered from sessions that take no more turns; what happened
-- and what it cost stays. A turn that is being settled meanwhile is waited for, and its answer goes, too; one
-- that is settled later is `dropped` by then and has none. Turns are locked in the order of their numbers, as
-- everywhere. It runs with the rights of whoever calls it.
CREATE FUNCTION turnkeeper.forget_content(organization uuid, forgotten uuid[])
RETURNS TABLE (sessions integer, messages integer, checkpoints integer, idempotency_keys integer)
LANGUAGE plpgsql SET search_path = pg_catalog
AS $$
BEGIN
    PERFORM FROM turnkeeper.turns AS t
    WHERE t.organization_id = organization AND t.session_id = ANY (forgotten)
    ORDER BY t.session_id, t.number FOR NO KEY UPDATE;
    UPDATE turnkeeper.turns AS t SET dropped = true, message_id = NULL, title = NULL, metadata = '{}'
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

-- Row-level security: reads without an organization see nothing, writes raise.
DO $do$
DECLARE
    name text;
    own text;
BEGIN
    FOREACH name IN ARRAY ARRAY['organizations', 'api_keys', 'sessions', 'turns', 'messages', 'checkpoints',
                                'ledger', 'spend', 'holds', 'idempotency_keys', 'refusals'] LOOP
        own := CASE name WHEN 'organizations' THEN 'id' ELSE 'organization_id' END;
        EXECUTE format('ALTER TABLE turnkeeper.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE turnkeeper.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY own_select ON turnkeeper.%I FOR SELECT TO turnkeeper_app
                        USING (%I = (SELECT turnkeeper.current_organization()))', name, own);
        EXECUTE format('CREATE POLICY own_insert ON turnkeeper.%I FOR INSERT TO turnkeeper_app
                        WITH CHECK (%I = (SELECT turnkeeper.required_organization()))', name, own);
        EXECUTE format('CREATE POLICY own_update ON turnkeeper.%I FOR UPDATE TO turnkeeper_app
                        USING (%I = (SELECT turnkeeper.required_organization()))
                        WITH CHECK (%I = (SELECT turnkeeper.required_organization()))', name, own, own);
        EXECUTE format('CREATE POLICY own_delete ON turnkeeper.%I FOR DELETE TO turnkeeper_app
                        USING (%I = (SELECT turnkeeper.required_organization()))', name, own);
        -- The owner's commands (orgs create, keys create) and the functions below.
        EXECUTE format('CREATE POLICY across_organizations ON turnkeeper.%I TO turnkeeper_across, CURRENT_USER
                        USING (true) WITH CHECK (true)', name);
    END LOOP;
END
$do$;

GRANT SELECT ON turnkeeper.organizations TO turnkeeper_app;
-- What an admin may change over HTTP; name and weight are the operator's.
GRANT UPDATE (ai_enabled, daily_usd, monthly_usd, max_turns_per_session, turns_per_minute_per_user, turns_per_hour,
              max_concurrent_turns) ON turnkeeper.organizations TO turnkeeper_app;
GRANT SELECT, INSERT, UPDATE ON turnkeeper.api_keys TO turnkeeper_app;
GRANT SELECT, INSERT, UPDATE ON turnkeeper.sessions, turnkeeper.turns, turnkeeper.spend TO turnkeeper_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON turnkeeper.messages, turnkeeper.checkpoints, turnkeeper.idempotency_keys,
    turnkeeper.refusals TO turnkeeper_app;
GRANT SELECT, INSERT ON turnkeeper.ledger TO turnkeeper_app;
GRANT SELECT, INSERT, DELETE ON turnkeeper.holds TO turnkeeper_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON turnkeeper.workers TO turnkeeper_app;

GRANT SELECT ON turnkeeper.organizations, turnkeeper.workers, turnkeeper.holds TO turnkeeper_across;
GRANT SELECT, UPDATE ON turnkeeper.api_keys, turnkeeper.sessions, turnkeeper.turns TO turnkeeper_across;
GRANT SELECT, INSERT, UPDATE ON turnkeeper.checkpoints TO turnkeeper_across;
GRANT SELECT, DELETE ON turnkeeper.idempotency_keys TO turnkeeper_across;
-- Retention.
GRANT SELECT, DELETE ON turnkeeper.messages TO turnkeeper_across;
GRANT DELETE ON turnkeeper.checkpoints TO turnkeeper_across;

-- Functions across organizations, each doing one thing.

CREATE FUNCTION turnkeeper.authenticate(secret bytea)
RETURNS TABLE (organization_id uuid, key_id uuid, role text, user_name text, ai_enabled boolean,
               max_turns_per_session integer, turns_per_minute_per_user integer, turns_per_hour integer)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    WITH used AS (
        UPDATE turnkeeper.api_keys SET last_used_at = now()
        WHERE secret_sha256 = secret AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
          AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
    )
    SELECT k.organization_id, k.id, k.role, k.user_name, o.ai_enabled,
           o.max_turns_per_session, o.turns_per_minute_per_user, o.turns_per_hour
    FROM turnkeeper.api_keys k JOIN turnkeeper.organizations o ON o.id = k.organization_id
    WHERE k.secret_sha256 = secret AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
$$;

-- plpgsql keeps its plans for the connection; PostgreSQL before 18 plans an SQL function anew at each call.
-- What follows in the transaction of a claim is bound to the organization of the turn's row (I9).
CREATE FUNCTION turnkeeper.claim_turn(turn uuid, worker uuid, lease_seconds double precision)
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
    RETURNING t.organization_id INTO claimed;
    IF claimed IS NOT NULL THEN
        PERFORM set_config('turnkeeper.organization_id', claimed::text, true);
    END IF;
    RETURN claimed;
END
$$;

-- Takes the turn that fairness says: of the organizations with a claimable turn, that with the fewest running
-- for its weight; among equals (all of them, where a worker has one slot) that which was given nothing for longest,
-- for its weight. A backlog's age says nothing: who asks for most would always have the oldest. Of the organization
-- the oldest turn, or `hint`, the turn that the doorbell named. The planner's figures for a queue are always stale,
-- and the indexes are made for this: no other plan may be chosen.
CREATE FUNCTION turnkeeper.claim_next_turn(worker uuid, lease_seconds double precision, hint uuid)
RETURNS TABLE (organization_id uuid, turn_id uuid)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    entitled record;
    least double precision;
    picked uuid;
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
        SELECT w.id,
               (SELECT count(*) FROM turnkeeper.turns AS r
                WHERE r.organization_id = w.id AND r.status IN ('running', 'stopping'))::double precision
                   / o.weight AS load,
               o.weight * extract(epoch FROM clock_timestamp() - (
                   SELECT t.started_at FROM turnkeeper.turns AS t
                   WHERE t.organization_id = w.id AND t.started_at IS NOT NULL
                   ORDER BY t.started_at DESC LIMIT 1)) AS rested,
               w.id = (SELECT h.id FROM hinted AS h) AS has_hint
        FROM waiting AS w JOIN turnkeeper.organizations AS o ON o.id = w.id
        ORDER BY load, rested DESC NULLS FIRST, has_hint DESC NULLS LAST
    LOOP
        least := coalesce(least, entitled.load);
        IF entitled.has_hint AND entitled.load <= least THEN
            IF turnkeeper.claim_turn(hint, worker, lease_seconds) IS NOT NULL THEN
                RETURN QUERY SELECT entitled.id, hint;
                RETURN;
            END IF;
        END IF;
        -- Two that claim at once take two turns; rows that were not promoted in time are passed over.
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

-- What the attempt of a claimed turn needs. It runs with the rights of whoever calls it, in the organization that the
-- claim bound the transaction to. Of the history the newest `most_bytes` are read, the question among them always.
CREATE FUNCTION turnkeeper.read_claim(turn uuid, most_bytes bigint)
RETURNS TABLE (
    id uuid, organization_id uuid, session_id uuid, number bigint, attempt integer, status text, recovery text,
    answer_id uuid, max_output_tokens integer, last_seq bigint, title text, queued_at timestamptz, traceparent text,
    seconds_left double precision, queued_seconds double precision, claimable_seconds double precision,
    first_token_at timestamptz, handed_back integer, system_prompt text, checkpoint_seq bigint, kept_text text,
    hold_usd numeric, history json, all_messages bigint, earlier_turns bigint)
LANGUAGE plpgsql SET search_path = pg_catalog SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    of_turn record;
BEGIN
    SELECT t.organization_id, t.session_id, t.number, t.user_message_id INTO of_turn
    FROM turnkeeper.turns AS t WHERE t.id = turn;
    IF of_turn.number = 1 THEN
        SELECT json_build_array(json_build_array(1, 'user', m.content)), 1, 1
        INTO history, all_messages, earlier_turns FROM turnkeeper.messages AS m
        WHERE m.organization_id = of_turn.organization_id AND m.id = of_turn.user_message_id;
    ELSE
        SELECT json_agg(json_build_array(m.position / 2, m.role, m.content) ORDER BY m.position)
                   FILTER (WHERE m.newer_bytes <= most_bytes),
               count(*), count(*) FILTER (WHERE m.role = 'user') - 1
        INTO history, all_messages, earlier_turns
        FROM (
            SELECT n.position, n.role, n.content,
                   sum(octet_length(n.content)) OVER (ORDER BY n.position DESC) - octet_length(n.content) AS newer_bytes
            FROM turnkeeper.messages AS n
            WHERE n.organization_id = of_turn.organization_id AND n.session_id = of_turn.session_id
              AND n.position <= of_turn.number * 2
        ) AS m;
    END IF;
    RETURN QUERY
    SELECT t.id, t.organization_id, t.session_id, t.number, t.attempt, t.status, t.recovery,
           t.answer_id, t.max_output_tokens, t.last_seq, t.title, t.queued_at, t.traceparent,
           (t.deadline_seconds - extract(epoch FROM clock_timestamp() - t.started_at))::double precision,
           extract(epoch FROM clock_timestamp() - t.queued_at)::double precision,
           extract(epoch FROM clock_timestamp() - t.claimable_at)::double precision, t.first_token_at,
           t.handed_back, s.system_prompt, c.seq, c.content, h.amount_usd,
           read_claim.history, read_claim.all_messages, read_claim.earlier_turns
    FROM turnkeeper.turns AS t
    JOIN turnkeeper.sessions AS s ON s.organization_id = t.organization_id AND s.id = t.session_id
    LEFT JOIN turnkeeper.checkpoints AS c ON c.organization_id = t.organization_id AND c.turn_id = t.id
    LEFT JOIN turnkeeper.holds AS h
        ON h.organization_id = t.organization_id AND h.turn_id = t.id AND h.attempt = t.attempt
    WHERE t.organization_id = of_turn.organization_id AND t.id = turn;
END
$$;

-- How long the turn that waits longest for a worker has waited, in all and for workers that heard of turns meanwhile
-- (all of it, when none lives); no row when none waits.
CREATE FUNCTION turnkeeper.longest_wait() RETURNS TABLE (seconds double precision, heard_seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    WITH alive AS (
        SELECT w.heard_at, w.hearing_since, max(w.heard_at) OVER () AS last_heard
        FROM turnkeeper.workers AS w WHERE w.renewed_at > clock_timestamp() - interval '15 seconds'
    ), hearing AS (
        SELECT max(a.heard_at) AS until, min(a.hearing_since) AS since
        FROM alive AS a WHERE a.heard_at > a.last_heard - interval '45 seconds'
    )
    SELECT extract(epoch FROM clock_timestamp() - t.claimable_at)::double precision,
        extract(epoch FROM coalesce(h.until, clock_timestamp()) - greatest(t.claimable_at, h.since))::double precision
    FROM turnkeeper.turns AS t CROSS JOIN hearing AS h
    WHERE t.status = 'queued' AND t.claimable_at IS NOT NULL ORDER BY t.claimable_at LIMIT 1
$$;

-- What operators are shown of all organizations together: counts and sums, nothing of any row (I9).
CREATE FUNCTION turnkeeper.service_figures() RETURNS TABLE (
    queued bigint, claimable bigint, oldest_seconds double precision, running bigint, stopping bigint,
    holds bigint, held_usd numeric, workers bigint, hearing bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT t.queued, t.claimable, t.oldest_seconds, t.running, t.stopping, h.holds, h.held_usd, w.workers, w.hearing
    FROM (
        SELECT count(*) FILTER (WHERE t.status = 'queued') AS queued,
            count(*) FILTER (WHERE t.status = 'queued' AND t.claimable_at IS NOT NULL) AS claimable,
            coalesce(extract(epoch FROM clock_timestamp() - min(t.claimable_at) FILTER (WHERE t.status = 'queued')), 0)
                ::double precision AS oldest_seconds,
            count(*) FILTER (WHERE t.status = 'running') AS running,
            count(*) FILTER (WHERE t.status = 'stopping') AS stopping
        FROM turnkeeper.turns AS t WHERE t.status IN ('queued', 'running', 'stopping')
    ) AS t CROSS JOIN (
        SELECT count(*) AS holds, coalesce(sum(h.amount_usd), 0) AS held_usd FROM turnkeeper.holds AS h
    ) AS h CROSS JOIN (
        SELECT count(*) AS workers,
            count(*) FILTER (WHERE w.heard_at > clock_timestamp() - interval '60 seconds') AS hearing
        FROM turnkeeper.workers AS w WHERE w.renewed_at > clock_timestamp() - interval '15 seconds'
    ) AS w
$$;

-- Which of the turns that a relay watches in silence have more than their readers were sent; it tells nothing of it (I9).
CREATE FUNCTION turnkeeper.turns_ahead(turns uuid[], seqs bigint[]) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT t.id
    FROM unnest(turns, seqs) AS seen (id, seq)
    JOIN turnkeeper.turns AS t ON t.id = seen.id
    LEFT JOIN turnkeeper.checkpoints AS c ON c.organization_id = t.organization_id AND c.turn_id = t.id
    WHERE t.status NOT IN ('queued', 'running', 'stopping') OR c.seq > seen.seq
$$;

-- Renews every lease of one worker in one statement, saves the texts that changed and says what is still
-- owned; a turn that does not come back is lost.
CREATE FUNCTION turnkeeper.renew_leases(
    worker uuid, lease_seconds double precision, turns uuid[], attempts integer[])
RETURNS TABLE (turn_id uuid, stop_reason text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    UPDATE turnkeeper.turns AS t
    SET lease_expires_at = clock_timestamp() + make_interval(secs => lease_seconds)
    FROM unnest(turns, attempts) AS held (id, attempt)
    WHERE t.id = held.id AND t.attempt = held.attempt AND t.worker_id = worker
      AND t.status IN ('running', 'stopping')
    RETURNING t.id, CASE t.status WHEN 'stopping' THEN t.stop_reason END
$$;

CREATE FUNCTION turnkeeper.save_checkpoints(
    worker uuid, turns uuid[], attempts integer[], seqs bigint[], calls boolean[], contents text[],
    reasonings text[], inputs bigint[], cache_reads bigint[], cache_writes bigint[], cache_writes_1h bigint[],
    outputs bigint[], reasoning_counts bigint[], sources text[])
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    INSERT INTO turnkeeper.checkpoints AS c (organization_id, turn_id, attempt, seq, called, content, reasoning,
        input_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens,
        usage_source)
    SELECT t.organization_id, t.id, held.attempt, held.seq, held.called, held.content, held.reasoning,
        held.input_tokens, held.cache_read, held.cache_write, held.cache_write_1h, held.output_tokens,
        held.reasoning_count, held.source
    FROM unnest(turns, attempts, seqs, calls, contents, reasonings, inputs, cache_reads, cache_writes,
                cache_writes_1h, outputs, reasoning_counts, sources)
        AS held (id, attempt, seq, called, content, reasoning, input_tokens, cache_read, cache_write, cache_write_1h,
                 output_tokens, reasoning_count, source)
    JOIN turnkeeper.turns AS t ON t.id = held.id AND t.attempt = held.attempt AND t.worker_id = worker
        AND t.status IN ('running', 'stopping')
    ORDER BY t.id
    ON CONFLICT (organization_id, turn_id) DO UPDATE
    SET attempt = excluded.attempt, seq = excluded.seq, called = excluded.called, content = excluded.content,
        reasoning = excluded.reasoning, input_tokens = excluded.input_tokens,
        cache_read_tokens = excluded.cache_read_tokens, cache_write_tokens = excluded.cache_write_tokens,
        cache_write_1h_tokens = excluded.cache_write_1h_tokens,
        output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens,
        usage_source = excluded.usage_source, saved_at = now()
    WHERE excluded.attempt >= c.attempt
$$;

-- Turns whose worker let the lease run out.
CREATE FUNCTION turnkeeper.lost_turns(most integer)
RETURNS TABLE (organization_id uuid, turn_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT t.organization_id, t.id FROM turnkeeper.turns AS t
    WHERE t.status IN ('running', 'stopping') AND t.lease_expires_at < clock_timestamp()
    ORDER BY t.lease_expires_at LIMIT most
$$;

-- When the next lease runs out; a renewal moves it, so only what is dead comes near.
CREATE FUNCTION turnkeeper.seconds_to_next_lease_end() RETURNS double precision
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT extract(epoch FROM t.lease_expires_at - clock_timestamp())::double precision FROM turnkeeper.turns AS t
    WHERE t.status IN ('running', 'stopping') AND t.lease_expires_at >= clock_timestamp()
    ORDER BY t.lease_expires_at LIMIT 1
$$;

-- Queued turns that no worker has heard of for a while; each is given out once per `again_seconds`.
CREATE FUNCTION turnkeeper.unheard_turns(again_seconds double precision, most integer)
RETURNS TABLE (turn_id uuid, traceparent text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    UPDATE turnkeeper.turns AS t SET rung_at = clock_timestamp()
    WHERE t.id IN (
        SELECT q.id FROM turnkeeper.turns AS q
        WHERE q.status = 'queued' AND q.claimable_at IS NOT NULL
          AND q.rung_at < clock_timestamp() - make_interval(secs => again_seconds)
        ORDER BY q.queued_at LIMIT most FOR UPDATE SKIP LOCKED)
    RETURNING t.id, t.traceparent
$$;

CREATE FUNCTION turnkeeper.overdue_turns(queue_seconds double precision, most integer)
RETURNS TABLE (organization_id uuid, turn_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT t.organization_id, t.id FROM turnkeeper.turns AS t
    WHERE t.status = 'queued' AND t.claimable_at < clock_timestamp() - make_interval(secs => queue_seconds)
    ORDER BY t.claimable_at LIMIT most
$$;

CREATE FUNCTION turnkeeper.expire_sessions(idle_seconds double precision, age_seconds double precision, most integer)
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    WITH stale AS (
        SELECT s.organization_id, s.id FROM turnkeeper.sessions AS s
        WHERE s.status = 'active'
          AND (s.last_activity_at < now() - make_interval(secs => idle_seconds)
               OR s.created_at < now() - make_interval(secs => age_seconds))
          AND NOT EXISTS (
              SELECT FROM turnkeeper.turns AS t
              WHERE t.organization_id = s.organization_id AND t.session_id = s.id
                AND t.status IN ('queued', 'running', 'stopping'))
        LIMIT most FOR UPDATE SKIP LOCKED
    ), expired AS (
        UPDATE turnkeeper.sessions AS s SET status = 'expired', closed_at = now() FROM stale
        WHERE s.organization_id = stale.organization_id AND s.id = stale.id RETURNING 1
    )
    SELECT count(*)::integer FROM expired
$$;

CREATE FUNCTION turnkeeper.forget_idempotency_keys(older_than_seconds double precision, most integer)
RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    WITH old AS (
        SELECT k.organization_id, k.key FROM turnkeeper.idempotency_keys AS k
        WHERE k.created_at < now() - make_interval(secs => older_than_seconds) LIMIT most
    ), forgotten AS (
        DELETE FROM turnkeeper.idempotency_keys AS k USING old
        WHERE k.organization_id = old.organization_id AND k.key = old.key RETURNING 1
    )
    SELECT count(*)::integer FROM forgotten
$$;

-- Retention: a batch of sessions, of any organization, that ended longer ago than that. It ends with the session
-- that reaches 5,000 turns, so that a batch is done well within a statement's time whatever it holds.
CREATE FUNCTION turnkeeper.forget_sessions(older_than_seconds double precision, most integer)
RETURNS TABLE (sessions bigint, messages bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
AS $$
    WITH ended AS MATERIALIZED (
        SELECT s.organization_id, s.id, s.closed_at, s.next_turn_number AS turns FROM turnkeeper.sessions AS s
        WHERE s.status <> 'active' AND s.forgotten_at IS NULL
          AND s.closed_at < now() - make_interval(secs => older_than_seconds)
          AND NOT EXISTS (
              SELECT FROM turnkeeper.turns AS t
              WHERE t.organization_id = s.organization_id AND t.session_id = s.id
                AND t.status IN ('queued', 'running', 'stopping'))
        ORDER BY s.closed_at LIMIT most
    ), counted AS (
        SELECT e.organization_id, e.id, sum(e.turns) OVER (ORDER BY e.closed_at, e.id) - e.turns AS before FROM ended AS e
    ), of_each AS MATERIALIZED (
        SELECT c.organization_id, array_agg(c.id ORDER BY c.id) AS ids FROM counted AS c
        WHERE c.before < 5000 GROUP BY c.organization_id
    )
    SELECT coalesce(sum(f.sessions), 0)::bigint, coalesce(sum(f.messages), 0)::bigint
    FROM of_each AS e, turnkeeper.forget_content(e.organization_id, e.ids) AS f
$$;

-- Handing a function to another role needs membership in it and its right to create in the schema, for
-- as long as the handing over takes.
GRANT CREATE ON SCHEMA turnkeeper TO turnkeeper_across;
DO $do$
DECLARE
    signature regprocedure;
BEGIN
    FOR signature IN
        SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'turnkeeper' AND p.prosecdef
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO turnkeeper_app', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO turnkeeper_across', signature);
    END LOOP;
END
$do$;
REVOKE CREATE ON SCHEMA turnkeeper FROM turnkeeper_across;
GRANT EXECUTE ON FUNCTION
    turnkeeper.current_organization(), turnkeeper.required_organization(), turnkeeper.no_organization(),
    turnkeeper.forget_content(uuid, uuid[])
    TO turnkeeper_app, turnkeeper_across;
GRANT EXECUTE ON FUNCTION
    turnkeeper.take_hold(uuid, uuid, integer, numeric, numeric, integer, integer),
    turnkeeper.lock_spend(uuid, text, date),
    turnkeeper.read_claim(uuid, bigint),
    turnkeeper.payable_tokens(numeric, turnkeeper.spend, numeric, numeric, integer)
    TO turnkeeper_app;
