"""Migrations next to a running service: each in its own transaction, and none waits long for a lock."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from shared.configuration.settings import load_settings
from shared.errors import NotServingError, UnavailableError
from shared.postgres import migrate as migrating
from shared.postgres.accounts import create_organization
from shared.postgres.database import Database
from shared.postgres.migrate import SCRIPTS, head_revision, migrate
from shared.turn.turns import FinishReason
from tests.integration.test_claim_and_settle import ANSWER, Ledgers, settlement
from turnkeeper.up.embedded import EmbeddedPostgres, temporary_postgres
from worker.turn.claim import Claim
from worker.turn.outcome import Completed
from worker.turn.settle import settle

NEWEST = int(head_revision())


def later(number: int) -> str:
    """The revision that many migrations after this release's newest."""
    return f"{NEWEST + number:04}"


HEAD = """
from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade():
"""
COLUMN = """
    op.execute("alter table turnkeeper.organizations add column later text")
"""
INDEX = """
    with op.get_context().autocommit_block():
        op.execute("create index concurrently if not exists later on turnkeeper.turns (user_name)")
"""
WRONG = """
    op.execute("create table turnkeeper.half ()")
    op.execute("select 1 / 0")
"""
EXPANDS = """
    op.execute("alter table turnkeeper.turns add column region text not null default ''")
"""
INDEXES = """
    with op.get_context().autocommit_block():
        op.execute("drop index concurrently if exists turnkeeper.turns_by_region")
        op.execute("create index concurrently turns_by_region on turnkeeper.turns (region)")
"""
CONTRACTS = """
    op.execute("alter table turnkeeper.turns drop column history_trimmed")
"""


@pytest.fixture(scope="module")
def server():
    """A server of its own: these change the schema."""
    with temporary_postgres() as server:
        migrate(server.owner_url, server.app_url)
        yield server


@pytest.fixture
def scripts(tmp_path: Path, server):
    """A folder to add migrations to; what they make is taken back."""
    shutil.copytree(SCRIPTS, tmp_path / "migrations")
    yield tmp_path / "migrations"
    with psycopg.connect(server.owner_url) as db:
        db.execute("drop index if exists turnkeeper.later")
        db.execute("alter table turnkeeper.organizations drop column if exists later")
        db.execute("alter table turnkeeper.turns drop column if exists region")
        db.execute(
            "alter table turnkeeper.turns add column if not exists history_trimmed integer not null default 0"
        )
        db.execute("update public.schema_version set version_num = %s", (later(0),))


def add(scripts: Path, *bodies: str) -> None:
    for number, body in enumerate(bodies, start=1):
        head = HEAD.format(revision=later(number), before=later(number - 1))
        (scripts / "versions" / f"{later(number)}_added.py").write_text(head + body)


def looked_up(server, query: str):
    with psycopg.connect(server.owner_url) as db:
        return db.execute(query).fetchall()


def version(server) -> str:
    return looked_up(server, "select version_num from public.schema_version")[0][0]


def test_a_migration_that_fails_leaves_those_before_it_and_nothing_of_itself(server, scripts):
    add(scripts, COLUMN, WRONG)
    with pytest.raises(Exception, match="division by zero"):
        migrate(server.owner_url, server.app_url, scripts=scripts)
    assert version(server) == later(1)
    assert looked_up(server, "select to_regclass('turnkeeper.half')") == [(None,)]
    (scripts / "versions" / f"{later(2)}_added.py").unlink()
    migrate(server.owner_url, server.app_url, scripts=scripts)  # what went wrong keeps nobody out


def test_an_index_is_built_concurrently_while_another_process_waits_to_migrate(server, scripts):
    add(scripts, INDEX, COLUMN)
    failed = []

    def run():
        try:
            migrate(server.owner_url, server.app_url, scripts=scripts)
        except Exception as error:  # noqa: BLE001 -- told by the test
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert failed == []
    assert version(server) == later(2)
    assert looked_up(
        server, "select indisvalid from pg_index where indexrelid = 'turnkeeper.later'::regclass"
    ) == [(True,)]


def test_a_migration_that_does_not_get_its_lock_lets_the_service_serve_and_tries_again(
    server, scripts, monkeypatch
):
    monkeypatch.setattr(migrating, "_LOCK_TIMEOUT_MS", 100)
    tried = threading.Event()
    monkeypatch.setattr(migrating.time, "sleep", lambda _: tried.set())
    add(scripts, COLUMN)
    with psycopg.connect(server.owner_url) as busy:
        busy.execute("select * from turnkeeper.organizations")  # a transaction that stays open
        with pytest.raises(UnavailableError, match="did not get its locks"):
            migrate(server.owner_url, server.app_url, scripts=scripts)
        assert tried.is_set()
        assert version(server) == later(0)
        # Nobody waits behind it.
        with psycopg.connect(server.owner_url, options="-c lock_timeout=5s") as db:
            db.execute("select * from turnkeeper.organizations")
    migrate(server.owner_url, server.app_url, scripts=scripts)
    assert version(server) == later(1)


@contextmanager
def one_turn(server: EmbeddedPostgres) -> Iterator[tuple[Ledgers, UUID, Claim]]:
    """A turn that this release has claimed."""
    database = Database(server.app_url)
    try:
        ledgers = Ledgers(database, create_organization(server.owner_url, "Acme"))
        turn = ledgers.queue_turn()
        claim = ledgers.claim(turn)
        assert claim is not None
        yield ledgers, turn, claim
    finally:
        database.dispose()


def settle_as(ledgers: Ledgers, server: EmbeddedPostgres, claim: Claim) -> None:
    settings = load_settings(
        {
            "DATABASE_URL": server.app_url,
            "REDIS_URL": "redis://127.0.0.1:9",
            "MCP_LLM_PROVIDER": "scripted",
            "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
        }
    )
    outcome = Completed(ANSWER, FinishReason.STOP)
    assert settle(ledgers.database, settings.provider, settlement(claim), outcome) is not None


def test_this_release_runs_turns_while_and_after_the_next_one_expands_the_schema(server, scripts):
    add(scripts, EXPANDS, INDEXES)
    with one_turn(server) as (ledgers, turn, claim):
        migrate(server.owner_url, server.app_url, scripts=scripts)
        assert version(server) == later(2)
        settle_as(ledgers, server, claim)
        assert ledgers.turn(turn).status == "completed"
    with one_turn(server) as (ledgers, turn, claim):
        settle_as(ledgers, server, claim)
        assert (ledgers.turn(turn).status, ledgers.turn(turn).region) == ("completed", "")


def test_this_release_cannot_end_its_turns_on_a_schema_that_dropped_a_column_of_its(server, scripts):
    add(scripts, CONTRACTS)
    with one_turn(server) as (ledgers, turn, claim):
        migrate(server.owner_url, server.app_url, scripts=scripts)
        with pytest.raises(NotServingError, match="42703"):
            settle_as(ledgers, server, claim)
        assert ledgers.turn(turn).status == "running"
