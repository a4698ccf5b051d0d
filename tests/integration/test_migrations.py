"""Migrations beside a service that serves: each its own transaction, none waits long for a lock."""

import shutil
import threading
from pathlib import Path

import psycopg
import pytest

from shared import migrate as migrating
from shared.errors import UnavailableError
from shared.migrate import SCRIPTS, migrate
from turnkeeper.embedded import temporary_postgres

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
        db.execute("update public.schema_version set version_num = '0001'")


def add(scripts: Path, *bodies: str) -> None:
    for number, body in enumerate(bodies, start=2):
        head = HEAD.format(revision=f"{number:04}", before=f"{number - 1:04}")
        (scripts / "versions" / f"{number:04}_added.py").write_text(head + body)


def looked_up(server, query: str):
    with psycopg.connect(server.owner_url) as db:
        return db.execute(query).fetchall()


def version(server) -> str:
    return looked_up(server, "select version_num from public.schema_version")[0][0]


def test_a_migration_that_fails_leaves_those_before_it_and_nothing_of_itself(server, scripts):
    add(scripts, COLUMN, WRONG)
    with pytest.raises(Exception, match="division by zero"):
        migrate(server.owner_url, server.app_url, scripts=scripts)
    assert version(server) == "0002"
    assert looked_up(server, "select to_regclass('turnkeeper.half')") == [(None,)]
    (scripts / "versions" / "0003_added.py").unlink()
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
    assert version(server) == "0003"
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
        assert version(server) == "0001"
        # Nobody waits behind it.
        with psycopg.connect(server.owner_url, options="-c lock_timeout=5s") as db:
            db.execute("select * from turnkeeper.organizations")
    migrate(server.owner_url, server.app_url, scripts=scripts)
    assert version(server) == "0002"
