"""A process that starts before its release was migrated works on the schema before, and on the new one afterwards."""

import shutil
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory

from api.app import create_app
from shared.configuration.settings import load_settings
from shared.postgres.accounts import KeyRole, create_key, create_organization
from shared.postgres.database import Database
from shared.postgres.migrate import SCRIPTS, migrate
from shared.postgres.schema import has_money
from shared.turn.turns import FinishReason, StopReason
from tests.integration.conftest import Api
from tests.integration.test_disputes import DISPUTED, HONEST
from turnkeeper.cli import main
from turnkeeper.up.embedded import temporary_postgres
from worker.recovery.barred import end_barred_turns
from worker.turn.claim import claim_next_turn
from worker.turn.outcome import Completed, Requeued, Stopped
from worker.turn.settle import Settlement, settle

WORKER = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def scripts_before(tmp_path: Path) -> Path:
    """The migrations that were there before 0005."""
    folder = tmp_path / "migrations"
    shutil.copytree(SCRIPTS, folder)
    known = ScriptDirectory(str(folder))
    kept = {
        Path(each.path).stem for each in known.iterate_revisions("0005", "base") if each.revision != "0005"
    }
    for path in (folder / "versions").iterdir():
        if path.is_file() and path.stem not in kept:
            path.unlink()
    return folder


def test_turns_run_are_billed_and_shown_before_and_after_the_migration(
    scripts_before: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    with temporary_postgres() as server:
        migrate(server.owner_url, server.app_url, scripts=scripts_before)
        monkeypatch.setenv("DATABASE_OWNER_URL", server.owner_url)
        organization = create_organization(server.owner_url, "Acme")
        key = create_key(server.owner_url, organization, KeyRole.ADMIN)
        settings = load_settings(
            {
                "DATABASE_URL": server.app_url,
                "REDIS_URL": redis_url,
                "MCP_LLM_PROVIDER": "scripted",
                "SCRIPTED_BASE_URL": "http://127.0.0.1:9/v1",
            }
        )
        app = create_app("web", settings)
        api = Api(app)
        database = Database(server.app_url, pool_size=2)

        def run(ending) -> str:
            turn = api.turn(key, api.session(key, user="ada"))
            claim = claim_next_turn(database, WORKER, None, lease_seconds=60, context_tokens=10_000)
            assert str(claim.turn_id) == turn
            wanted = Settlement(organization, claim.turn_id, claim.attempt, 9, quote=claim.turn.quote())
            assert settle(database, settings.provider, wanted, ending) is not None
            return turn

        def shows(*sources: str) -> None:
            rows = api.get("/v1/ledger", key).json["data"]
            assert sorted(row["usage_source"] for row in rows) == sorted(sources)
            assert {row["kind"] for row in rows} == {"usage"}
            report = api.get("/v1/usage", key).json
            assert report["totals"]["attempts"] == len(sources)
            assert api.get("/v1/ledger", key, headers={"Accept": "text/csv"}).status_code == 200
            assert main(["ledger", "check"]) == 0

        with psycopg.connect(server.owner_url) as db:
            db.execute("update turnkeeper.organizations set daily_usd = %s", (Decimal(10),))
        run(Completed(HONEST, FinishReason.STOP))
        run(Stopped(DISPUTED, StopReason.USER))
        shows("provider", "partial")  # the schema before has no word for it
        requeued = run(Requeued(HONEST))
        again = claim_next_turn(database, WORKER, None, lease_seconds=60, context_tokens=10_000)
        assert (str(again.turn_id), again.turn.quote(), again.turn.needs_hold) == (requeued, None, False)
        assert list(end_barred_turns(database, is_free=False)) == []
        with database.across() as db:
            assert not has_money(db)

        migrate(server.owner_url, server.app_url)
        wanted = Settlement(organization, again.turn_id, again.attempt, 9, quote=again.turn.quote())
        assert settle(database, settings.provider, wanted, Completed(HONEST, FinishReason.STOP)) is not None
        run(Completed(DISPUTED, FinishReason.STOP))
        shows("provider", "provider", "provider", "partial", "disputed")
        database.dispose()
        app.extensions["turnkeeper"].close()
