"""A turn's reads in PostgreSQL do not grow with the data, even in a database without statistics."""

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.engine import make_url

from shared.ids import new_id
from shared.money.usage import Usage, UsageSource
from shared.postgres.migrate import migrate
from shared.turn.turns import FinishReason
from turnkeeper.up.embedded import EmbeddedPostgres
from worker.turn.claim import claim_next_turn
from worker.turn.outcome import Answer, Completed
from worker.turn.settle import Settlement, settle

SESSIONS = 3000
TURNS = 40
MOST_ROWS = 100
"""Of a turn: itself, its session, its history of one question, and what the guards look at."""
WORKER = new_id()
ANSWER = Answer(
    "hello", "", called=True, usage=Usage(input_tokens=10, output_tokens=5), usage_source=UsageSource.PROVIDER
)


@pytest.fixture
def owner_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database that was just made, and of which no statistics are gathered."""
    name = f"plans_{new_id().hex}"
    with psycopg.connect(postgres.owner_url, autocommit=True) as db:
        db.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    url = _named(postgres.owner_url, name)
    migrate(url, _named(postgres.app_url, name))
    with psycopg.connect(url) as db:
        for (table,) in db.execute(
            "select tablename from pg_tables where schemaname = 'turnkeeper'"
        ).fetchall():
            off = "alter table turnkeeper.{} set (autovacuum_enabled = false)"
            db.execute(sql.SQL(off).format(sql.Identifier(table)))
    yield url
    with psycopg.connect(postgres.owner_url, autocommit=True) as db:
        db.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, owner_url: str) -> str:
    return _named(postgres.app_url, make_url(owner_url).database)


def _named(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)


def test_a_turn_reads_no_other_turns_though_the_tables_were_empty_when_its_statements_were_planned(
    api, keys, database, settings, organization, as_owner, owner_url
):
    def run(turns: int) -> None:
        for _ in range(turns):
            turn = api.turn(keys.service, api.session(keys.service, user="carol"))
            claim = claim_next_turn(database, WORKER, None, lease_seconds=600, context_tokens=10_000)
            assert str(claim.turn_id) == turn
            ended = Settlement(organization, claim.turn_id, claim.attempt, last_seq=9)
            assert (
                settle(database, settings.provider, ended, Completed(ANSWER, FinishReason.STOP)) is not None
            )

    def rows_read() -> int:
        for pool in (database, api.services.database):
            with pool.across() as db:
                db.execute(text("select pg_stat_force_next_flush()"))
        ((read,),) = as_owner(
            "select sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) from pg_stat_user_tables"
        )
        return int(read)

    run(TURNS)
    _fill(owner_url, organization)
    run(2 * TURNS)  # after which each connection was used twice as often as when the tables filled
    before = rows_read()
    run(TURNS)
    assert (rows_read() - before) / TURNS < MOST_ROWS


def test_a_search_reads_nothing_of_another_organization_however_much_that_has_written(
    api, keys, strangers, database, as_owner, owner_url, organization
):
    def rows_read() -> int:
        for pool in (database, api.services.database):
            with pool.across() as db:
                db.execute(text("select pg_stat_force_next_flush()"))
        ((read,),) = as_owner(
            "select sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) from pg_stat_user_tables"
            " where relname in ('sessions', 'messages')"
        )
        return int(read)

    _fill(owner_url, organization)
    api.turn(strangers.alice, api.session(strangers.alice), "a needle")
    before = rows_read()
    for _ in range(TURNS):
        found = api.get("/v1/sessions/search?q=needle", strangers.alice).json["data"]
        assert len(found) == 1
    assert (rows_read() - before) / TURNS < MOST_ROWS


def _fill(owner_url: str, organization: UUID) -> None:
    """Add the sessions of a busy hour, each with a turn that was answered."""
    with psycopg.connect(owner_url) as db:
        db.execute("set local session_replication_role = replica")  # the guards have seen enough
        db.execute(
            "insert into turnkeeper.sessions (organization_id, id, user_name, max_turns, next_turn_number)"
            " select %s, gen_random_uuid(), 'dave', 50, 2 from generate_series(1, %s)",
            [organization, SESSIONS],
        )
        db.execute(
            "insert into turnkeeper.turns (organization_id, id, session_id, number, user_name, status, recovery,"
            " user_message_id, answer_id, max_output_tokens, deadline_seconds, last_seq, claimable_at, finished_at)"
            " select organization_id, gen_random_uuid(), id, 1, user_name, 'completed', 'restart',"
            " gen_random_uuid(), gen_random_uuid(), 100, 60, 9, null, now()"
            " from turnkeeper.sessions where user_name = 'dave'"
        )
        db.execute(
            "insert into turnkeeper.messages"
            " (organization_id, id, session_id, turn_id, position, role, content, status)"
            " select organization_id, user_message_id, session_id, id, 2, 'user', 'question', 'complete'"
            " from turnkeeper.turns where user_name = 'dave'"
        )
