"""Every schema that was released, with data in it, is brought to today's: nothing is lost, and turns go on.

`released/` has a file for each release, made by running it: the rows of all tables as JSON, with a turn that runs and
one that waits behind it. A release adds its line to `RELEASED` and its file; neither is edited afterwards.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from api.app import create_app
from shared.configuration.settings import load_settings
from shared.postgres.accounts import KeyRole, create_key
from shared.postgres.database import Database
from shared.postgres.migrate import SCRIPTS, head_revision, migrate
from shared.turn.turns import FinishReason
from tests.integration.conftest import Api, choices_of
from tests.integration.test_claim_and_settle import ANSWER, settlement
from turnkeeper.commands.export import export_user
from turnkeeper.commands.ledger import differences
from turnkeeper.up.embedded import EmbeddedPostgres, temporary_postgres
from worker.recovery.sweeper import Sweeper
from worker.turn.claim import claim_next_turn
from worker.turn.outcome import Completed
from worker.turn.settle import settle

HERE = Path(__file__).parent / "released"


@dataclass(frozen=True)
class Release:
    """A release that somebody may run.

    Args:
        name: Its version.
        revision: Its newest migration.
        migrations: SHA-256 of all its migrations' files, in the order of their names: none is edited after a release.
    """

    name: str
    revision: str
    migrations: str


RELEASED = (
    Release(
        "0.1.0", "0001", "2f837373a9eea2e165bb2ae38a6835042faf9f3a608d077b7fd1f39bc54339a2"
    ),  # never tagged, but run
    Release("0.2.0", "0002", "afd9f1810242d081d1ab83c2a19ebb49e25b81add5dd2cb6aee10a503e1d01dd"),
)


def files_until(revision: str) -> list[Path]:
    numbered = (path for path in (SCRIPTS / "versions").iterdir() if path.suffix in {".py", ".sql"})
    return sorted(path for path in numbered if path.name[:4] <= revision)


def rows_of(release: Release) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for line in (HERE / f"{release.name}.jsonl").read_text().splitlines():
        each = json.loads(line)
        tables.setdefault(each["table"], []).append(each["row"])
    return tables


@dataclass(frozen=True)
class Upgraded:
    """A database of a release with its rows, brought to today's schema."""

    release: Release
    server: EmbeddedPostgres
    rows: Mapping[str, list[dict[str, Any]]]
    environment: Mapping[str, str]

    @property
    def organization(self) -> UUID:
        return UUID(self.rows["organizations"][0]["id"])


@pytest.fixture(scope="module", params=RELEASED, ids=lambda release: release.name)
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    """A server of its own, since its schema grows."""
    release: Release = request.param
    then = tmp_path_factory.mktemp("then") / "migrations"
    shutil.copytree(SCRIPTS, then)
    for path in (then / "versions").iterdir():
        if path.name[:4].isdigit() and path.name[:4] > release.revision:
            path.unlink()
    rows = rows_of(release)
    with temporary_postgres() as server:
        migrate(server.owner_url, server.app_url, scripts=then)
        with psycopg.connect(server.owner_url) as db:
            assert db.execute("select version_num from public.schema_version").fetchone() == (
                release.revision,
            )
            db.execute("set local session_replication_role = replica")  # foreign keys in any order
            for table, each in rows.items():
                name = sql.Identifier("turnkeeper", table)
                db.execute(
                    sql.SQL("insert into {} select * from jsonb_populate_recordset(null::{}, %s)").format(
                        name, name
                    ),
                    (Jsonb(each),),
                )
        migrate(server.owner_url, server.app_url)
        yield Upgraded(
            release,
            server,
            rows,
            {
                "DATABASE_URL": server.app_url,
                "REDIS_URL": "redis://127.0.0.1:9",
                "MCP_LLM_PROVIDER": "scripted",
                "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
            },
        )


@pytest.mark.parametrize("release", RELEASED, ids=lambda release: release.name)
def test_a_released_migration_is_not_edited(release: Release):
    found = hashlib.sha256()
    for path in files_until(release.revision):
        found.update(path.read_bytes())
    assert found.hexdigest() == release.migrations, "a released migration is never edited: add another one"


def test_every_row_is_there_with_all_that_it_held(upgraded: Upgraded):
    with psycopg.connect(upgraded.server.owner_url) as db:
        assert db.execute("select version_num from public.schema_version").fetchone() == (head_revision(),)
        for table, before in upgraded.rows.items():
            query = sql.SQL("select to_jsonb(t) from {} as t").format(sql.Identifier("turnkeeper", table))
            now = [row for (row,) in db.execute(query)]
            kept = [{name: row[name] for name in before[0]} for row in now]
            assert sorted(map(json.dumps, kept)) == sorted(map(json.dumps, before)), table


def test_conversations_turns_bills_and_exports_are_read_as_before(upgraded: Upgraded):
    service = create_key(upgraded.server.owner_url, upgraded.organization, KeyRole.SERVICE, name="upgrade")
    admin = create_key(upgraded.server.owner_url, upgraded.organization, KeyRole.ADMIN, name="upgrade")
    app = create_app("web", load_settings(upgraded.environment))
    try:
        api = Api(app)
        for session in upgraded.rows["sessions"]:
            answer = api.get(f"/v1/sessions/{session['id']}/messages", service)
            stored = [row for row in upgraded.rows["messages"] if row["session_id"] == session["id"]]
            assert answer.status_code == 200
            assert [(row["role"], row["content"]) for row in answer.json["data"]] == [
                (row["role"], row["content"]) for row in sorted(stored, key=lambda row: row["position"])
            ]
        for turn in upgraded.rows["turns"]:
            answer = api.get(f"/v1/turns/{turn['id']}", service)
            assert (answer.status_code, answer.json["status"]) == (200, turn["status"])
        ledger = api.get("/v1/ledger", admin)
        assert sorted(row["id"] for row in ledger.json["data"]) == sorted(
            row["id"] for row in upgraded.rows["ledger"]
        )
    finally:
        app.extensions["turnkeeper"].close()
    database = Database(upgraded.server.app_url)
    try:
        for user in {row["user_name"] for row in upgraded.rows["sessions"]}:
            assert "".join(export_user(database, upgraded.organization, user))
    finally:
        database.dispose()


def test_the_books_agree_and_what_ran_and_waited_is_carried_to_its_end(upgraded: Upgraded, monkeypatch):
    engine = create_engine(make_url(upgraded.server.owner_url).set(drivername="postgresql+psycopg"))
    database = Database(upgraded.server.app_url)
    settings = load_settings(upgraded.environment)
    keeper = Sweeper(settings, choices_of(settings), uuid4(), database, None, None, lambda *_: None)
    monkeypatch.setattr(keeper, "_tell", lambda *_: None)  # what readers see is not the question
    try:
        with engine.connect() as db:
            assert list(differences(db, None)) == []
        keeper.sweep()  # hands on what a worker of that release ran
        waiting = sorted(
            (row["number"], row["id"]) for row in upgraded.rows["turns"] if row["finished_at"] is None
        )
        assert len(waiting) == 2
        for _, turn in waiting:
            claim = claim_next_turn(database, uuid4(), None, lease_seconds=60, context_tokens=10_000)
            assert claim is not None
            assert str(claim.turn_id) == turn
            assert settle(
                database, settings.provider, settlement(claim), Completed(ANSWER, FinishReason.STOP)
            )
        with psycopg.connect(upgraded.server.owner_url) as owner:
            assert owner.execute("select from turnkeeper.turns where finished_at is null").fetchall() == []
            assert owner.execute("select from turnkeeper.holds").fetchall() == []
        with engine.connect() as db:
            assert list(differences(db, None)) == []
    finally:
        keeper.stop()
        database.dispose()
        engine.dispose()


def test_a_new_turn_is_accepted_and_run(upgraded: Upgraded):
    service = create_key(upgraded.server.owner_url, upgraded.organization, KeyRole.SERVICE, name="new turn")
    settings = load_settings(upgraded.environment)
    app = create_app("web", settings)
    database = Database(upgraded.server.app_url)
    try:
        api = Api(app)
        turn = api.turn(service, api.session(service, user="demo"))
        claim = claim_next_turn(database, uuid4(), None, lease_seconds=60, context_tokens=10_000)
        assert claim is not None
        assert str(claim.turn_id) == turn
        assert settle(database, settings.provider, settlement(claim), Completed(ANSWER, FinishReason.STOP))
        assert api.get(f"/v1/turns/{turn}", service).json["status"] == "completed"
    finally:
        database.dispose()
        app.extensions["turnkeeper"].close()
