"""The shell lines of the tutorial and the how-to pages, run word for word."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from shared.migrate import migrate
from tests.e2e.clone import ROOT, blocks_of, run_shell, running_clone, script_of
from tests.e2e.protocol_client import Api, wait_until
from turnkeeper.embedded import temporary_postgres
from turnkeeper.embedded.programs import packaged_programs

DOCS = ROOT / "docs"
PAGES = sorted([*(DOCS / "tutorial").glob("*.md"), *(DOCS / "howto").glob("*.md")])
TESTED = {
    "back-up-and-restore",
    "budgets",
    "check-with-doctor",
    "costs",
    "debug-a-stuck-turn",
    "deploy-without-losing-turns",
    "first-turn",
    "keys",
    "privacy",
    "rotate-keys",
    "scale-out",
    "use-anthropic",
}
Run = Callable[..., str]


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    with running_clone("--worker", "2") as folder:
        yield folder


def state_of(clone: Path) -> dict:
    return json.loads((clone / ".turnkeeper" / "state.json").read_text())


@pytest.fixture
def api(clone: Path) -> Iterator[Api]:
    state = state_of(clone)
    client = Api(state["url"], state["service_key"])
    yield client
    client.close()


def run_page(clone: Path, name: str, said: str = "", **environ: str) -> str:
    """Run a page's lines with what an operator has: the commands and the logins."""
    (page,) = [page for page in PAGES if page.stem == name]
    state = state_of(clone)
    servers = {name: state[name.lower()] for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL")}
    path = f"{clone / '.venv' / 'bin'}:{packaged_programs()}:{os.environ['PATH']}"
    return run_shell(clone, script_of(page), said, is_quiet=False, **{"PATH": path, **servers, **environ})


def test_every_line_is_run_here_or_says_why_not():
    runnable = {page.stem for page in PAGES if any(is_run for _, is_run in blocks_of(page))}
    assert runnable == TESTED
    this = Path(__file__).read_text()
    assert [name for name in sorted(TESTED) if len(re.findall(rf'"{name}(\.md)?"', this)) < 2] == []


def test_the_tutorial_ends_with_one_whole_answer_after_the_workers_were_killed(clone: Path, api: Api):
    state = state_of(clone)
    turn_id = api.turn(api.session(user="alice"), "Count for a while. [[tokens=400 rate=40]]")
    wait_until(lambda: "content_delta" in [event["type"] for event in api.page(turn_id)["data"]], "some text")
    said = run_page(clone, "first-turn", "What happens when a worker dies?\n")
    assert re.search(r"completed|USD", said), said
    wait_until(
        lambda: not set(state["pids"]["worker"]) & set(state_of(clone)["pids"]["worker"]), "other workers"
    )
    turn = api.final(turn_id)
    assert (turn["status"], turn["attempt"]) == ("completed", 2)
    reading = api.read(turn_id)
    assert (reading.is_whole, reading.resets) == (True, 1)


def test_keys_are_made_revoked_and_rotated(clone: Path):
    url = state_of(clone)["database_url"]
    said = run_page(clone, "keys")
    assert re.search(r"^[0-9a-f-]{36}  user +active .*alice$", said, re.MULTILINE)
    login, _, place = url.rpartition("@")
    assert login
    before, after = (f"postgresql://{name}:word@{place}" for name in ("backend_before", "backend_next"))
    owner_url = state_of(clone)["database_owner_url"]
    migrate(owner_url, before)
    said = run_page(clone, "rotate-keys", NEXT_DATABASE_URL=after)
    assert "'backend_next' owns nothing" in said
    with psycopg.connect(owner_url) as db:
        rows = db.execute(
            "select name, revoked_at is null from turnkeeper.api_keys where name like 'backend%'"
        ).fetchall()
        roles = db.execute("select rolname from pg_roles where rolname like 'backend%'").fetchall()
    assert dict(rows) == {"backend": False, "backend-2": True}
    assert roles == [("backend_next",)]


def test_what_turns_cost_is_shown_and_limits_are_set(clone: Path, api: Api):
    api.ask("[[tokens=5]] costs")
    said = run_page(clone, "costs")
    assert '"daily_usd":"10.000000"' in said.replace(" ", "")
    assert (clone / "ledger.csv").read_text().startswith("id,")
    assert run_page(clone, "budgets").splitlines() == ["ledger, totals and holds agree"] * 2


def test_a_user_is_exported(clone: Path, api: Api):
    api.ask("[[tokens=5]] mine")
    run_page(clone, "privacy")
    lines = (clone / "alice.jsonl").read_text().splitlines()
    assert any("mine" in line for line in lines)


def test_the_queue_and_the_count_of_connections_are_shown(clone: Path):
    said = run_page(clone, "scale-out")
    assert "oldest" in said
    assert len(re.findall(r"^ [0-9a-f-]{36} ", said, re.MULTILINE)) >= 2, "one for each worker"
    assert "the processes open up to 132" in said


def test_the_doctor_finds_nothing_wrong_with_it(clone: Path):
    assert run_page(clone, "check-with-doctor").splitlines()[-1].endswith(" 0 wrong")


def test_a_release_is_migrated_and_looked_at(clone: Path):
    assert "0 wrong" in run_page(clone, "deploy-without-losing-turns")
    assert "0 wrong" in run_page(clone, "use-anthropic")


def test_a_turn_that_seems_stuck_is_looked_at_and_ended(clone: Path, api: Api):
    turn_id = api.turn(api.session(user="alice"), "[[delay=3000]] stuck")
    wait_until(lambda: api.get_turn(turn_id)["status"] == "running", "a worker")
    state = state_of(clone)
    said = run_page(
        clone,
        "debug-a-stuck-turn",
        TURN=turn_id,
        TK=state["url"],
        AUTH=f"Authorization: Bearer {state['service_key']}",
    )
    assert re.search(r"^lease_left +\| 00:00:0[0-9]", said, re.MULTILINE), said
    assert api.final(turn_id)["status"] == "stopped"


# --- backups -------------------------------------------------------------------------------------------


@contextmanager
def dumped(clone: Path, api: Api) -> Iterator[dict]:
    """Turns of every kind, and the page's dump of them, made while one runs and one waits."""
    session = api.session(user="alice")
    done = api.ask("[[tokens=20]] before the dump", session)
    running = api.turn(session, "[[tokens=400 rate=100]] in the middle")
    waiting = api.turn(session, "[[tokens=5]] behind it", multitask_strategy="enqueue")
    wait_until(lambda: "content_delta" in [event["type"] for event in api.page(running)["data"]], "some text")
    backup, restore = (script for script, _ in blocks_of(DOCS / "howto" / "back-up-and-restore.md"))
    path = f"{clone / '.venv' / 'bin'}:{packaged_programs()}:{os.environ['PATH']}"
    said = run_shell(clone, backup, PATH=path, DATABASE_OWNER_URL=state_of(clone)["database_owner_url"])
    assert int(said) >= 10, "tables with data"
    assert api.get_turn(running)["status"] == "running"
    late = api.ask("[[tokens=5]] after the dump", api.session(user="alice"))
    yield {
        "session": session,
        "done": done,
        "running": running,
        "waiting": waiting,
        "late": late,
        "messages": api.messages(session)[:2],
        "restore": restore,
        "path": path,
    }


def test_a_dump_of_a_running_service_is_restored_whole_and_its_turns_go_on(clone: Path, api: Api):
    with dumped(clone, api) as known, temporary_postgres() as server:
        servers = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url}
        said = run_shell(clone, known["restore"], PATH=known["path"], **servers)
        assert "ledger, totals and holds agree" in said
        with running_clone(**servers) as restored:
            again = Api(state_of(restored)["url"], api.key)
            assert again.messages(known["session"])[:2] == known["messages"]
            assert again.get_turn(known["done"]["id"]) == known["done"]
            running, waiting = again.final(known["running"]), again.final(known["waiting"])
            assert (running["status"], running["attempt"], waiting["status"]) == ("completed", 2, "completed")
            reading = again.read(known["done"]["id"])
            assert (reading.is_whole, reading.text) == (True, known["messages"][1]["content"])
            # What was accepted afterwards is what a dump loses.
            assert again.call("GET", f"/v1/turns/{known['late']['id']}").status_code == 404
            again.close()


def test_of_a_lost_redis_nothing_is_missed_that_was_accepted(clone: Path, api: Api):
    session = api.session(user="alice")
    done = api.ask("[[tokens=20]] before", session)
    text = api.read(done["id"]).text
    running = api.turn(session, "[[tokens=200 rate=50]] meanwhile")
    waiting = api.turn(session, "[[tokens=5]] later", multitask_strategy="enqueue")
    wait_until(lambda: "content_delta" in [event["type"] for event in api.page(running)["data"]], "some text")
    with Redis.from_url(state_of(clone)["redis_url"]) as redis:
        redis.flushall()
    assert {api.final(turn)["status"] for turn in (running, waiting)} == {"completed"}
    reading = api.read(done["id"])
    assert (reading.is_whole, reading.text, len(reading.snapshots)) == (True, text, 1)
    assert [message["status"] for message in api.messages(session)] == ["complete"] * 6
