"""The shell lines of the tutorial and the how-to pages, run word for word, and the output that the pages show."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from redis import Redis

from shared.metrics.pages import folder_of
from shared.metrics.table import Service
from shared.postgres.migrate import migrate
from tests.documents import Block, allotted
from tests.e2e.clone import environment, run_shell, running_clone
from tests.e2e.protocol_client import Api, Oracle, wait_until
from tests.e2e.terminal import CTRL_C, CTRL_D, terminal
from tests.nginx import replaced
from tests.ports import free_ports
from turnkeeper.doctor.command import now, show
from turnkeeper.doctor.redis import check_redis
from turnkeeper.up.embedded import temporary_postgres
from turnkeeper.up.embedded.programs import packaged_programs

BLOCKS = allotted(__file__)
TESTED = {
    "back-up-and-restore",
    "budgets",
    "check-with-doctor",
    "costs",
    "debug-a-stuck-turn",
    "deploy-without-losing-turns",
    "first-turn",
    "keys",
    "limits",
    "monitor",
    "privacy",
    "read-the-log",
    "rotate-keys",
    "scale-out",
    "use-anthropic",
    "use-the-command-line",
}
REDIS_CLI = """#!/bin/sh
exec "$(dirname "$0")/python" -c '
import os, sys, redis
print(redis.Redis.from_url(os.environ["REDIS_URL"]).execute_command(*sys.argv[1:]))' "$@"
"""
"""Redis' own asks 127.0.0.1:6379, where nobody or a stranger is."""
FIRST_PORT = 9464
"""Of metrics, in the pages."""
SLOW = 4
"""Tokens a second."""


def of(page: str, language: str = "sh") -> list[Block]:
    """The blocks of a page that this file runs."""
    return [block for block in BLOCKS if Path(block.page).stem == page and block.language == language]


@pytest.fixture(scope="module")
def metrics_port() -> Iterator[int]:
    """The first of the three ports with metrics; what is counted under it is forgotten."""
    port = free_ports(len(Service))
    figures = folder_of(port, Service.WEB).parent
    shutil.rmtree(figures, ignore_errors=True)
    yield port
    shutil.rmtree(figures, ignore_errors=True)


@pytest.fixture(scope="module")
def clone(metrics_port: int) -> Iterator[Path]:
    """Started as the tutorial says, and with metrics, as their page says."""
    tutorial, monitor = of("first-turn")[0].take(), of("monitor")[0].take()
    line = replaced(monitor, (str(FIRST_PORT), str(metrics_port)), ("turnkeeper up", tutorial.strip()))
    with running_clone(line) as folder:
        program = folder / ".venv" / "bin" / "redis-cli"
        program.write_text(REDIS_CLI)
        program.chmod(0o755)
        yield folder


def state_of(clone: Path) -> dict:
    return json.loads((clone / ".turnkeeper" / "state.json").read_text())


@pytest.fixture
def api(clone: Path) -> Iterator[Api]:
    state = state_of(clone)
    client = Api(state["url"], state["service_key"])
    yield client
    client.close()


@pytest.fixture
def provider(clone: Path) -> Iterator[Oracle]:
    """The provider of `clone`: told to be slow while a turn is asked for, it is slow for that attempt alone."""
    oracle = Oracle(state_of(clone)["provider_url"].removesuffix("/v1"))
    yield oracle
    oracle.close()


def tools(clone: Path) -> dict[str, str]:
    """An operator's shell, with the commands and the logins."""
    state = state_of(clone)
    servers = {name: state[name.lower()] for name in ("DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL")}
    return {"PATH": f"{clone / '.venv' / 'bin'}:{packaged_programs()}:{os.environ['PATH']}", **servers}


def run_page(clone: Path, name: str, **environ: str) -> str:
    """Run a page's lines in one shell."""
    script = "\n".join(block.take() for block in of(name))
    return run_shell(clone, script, is_quiet=False, **{**tools(clone), **environ})


def as_admin(clone: Path) -> dict[str, str]:
    """What the lines of the page on costs set."""
    state = state_of(clone)
    return {"TK": state["url"], "AUTH": f"Authorization: Bearer {state['admin_key']}"}


def test_every_page_with_lines_has_a_test():
    assert {Path(block.page).stem for block in BLOCKS} == TESTED
    this = Path(__file__).read_text()
    assert [name for name in sorted(TESTED) if len(re.findall(rf'"{name}"', this)) < 2] == []


def test_the_tutorial_shows_what_it_says(clone: Path, api: Api, provider: Oracle):
    _start, chat, kill = of("first-turn")
    (long,) = of("first-turn", "text")
    state, said = state_of(clone), (clone / "output").read_text()
    keys = json.loads((clone / ".turnkeeper" / "keys.json").read_text())
    for role in ("service", "user", "admin"):
        assert re.search(rf"^  {role} +{re.escape(keys[f'{role}_key'])}$", said, re.MULTILINE), role
    assert f"turnkeeper is running at {state['url']} " in said
    with terminal(chat.take(), clone, environment()) as shell:
        shell.await_text("^you> ")
        with provider.scripted(rate=SLOW):
            shell.type("How does Stop work?\n")
            shell.await_text(r"How does Stop work\?\n(\S+\s+){3}")
        shell.type(CTRL_C)
        end = shell.await_text(r"^(stopped|completed) \(.*\) · \d+ tokens · 0\.\d+ USD\n(?s:.*)you> ")
        assert end[1] == "stopped"

        shell.type(long.take())
        begin = shell.await_text(r"rate=\d+\]\]\n(\S+\s+){3}", end.end()).start()
        run_shell(clone, kill.take())
        anew = shell.await_text(r"^\(begun anew\)\n", begin).end()
        last = shell.await_text(r"^completed \(stop\) · \d+ tokens · (0\.\d+) USD\n", anew)
        shell.type(CTRL_D)
        assert shell.await_end() == 0
    wait_until(
        lambda: not set(state["pids"]["worker"]) & set(state_of(clone)["pids"]["worker"]), "other workers"
    )
    again = re.findall(
        r"^(worker-\d) was ended by SIGKILL: started again$", (clone / "output").read_text(), re.MULTILINE
    )
    assert sorted(again) == ["worker-1", "worker-2"]
    with psycopg.connect(state["database_owner_url"]) as db:
        (turn_id, attempt, cost) = db.execute(
            "select id, attempt, cost_usd from turnkeeper.turns order by queued_at desc limit 1"
        ).fetchone()
        costs = db.execute("select cost_usd from turnkeeper.ledger where turn_id = %s", (turn_id,)).fetchall()
    assert (attempt, len(costs)) == (2, 2)
    assert min(costs)[0] > 0
    assert sum(each for (each,) in costs) == cost
    assert last[1].rstrip("0") == f"{cost:f}".rstrip("0")
    reading = api.read(str(turn_id))
    assert (reading.is_whole, reading.resets) == (True, 1)
    # The terminal breaks no line, so what it shows is the text.
    assert reading.text == shell.shown[anew : last.start() - 1]


def test_keys_are_made_revoked_and_rotated(clone: Path):
    url = state_of(clone)["database_url"]
    said = run_page(clone, "keys")
    assert re.search(r"^[0-9a-f-]{36}  user +active .* alice .*$", said, re.MULTILINE)
    login, _, place = url.rpartition("@")
    assert login
    before, after = (f"postgresql://{name}:word@{place}" for name in ("backend_before", "backend_next"))
    owner_url = state_of(clone)["database_owner_url"]
    migrate(owner_url, before)
    said = run_page(clone, "rotate-keys", NEXT_DATABASE_URL=after)
    assert "'backend_next' owns nothing" in said
    servers = state_of(clone)["redis_url"]
    old_password = servers.partition("://:")[2].partition("@")[0]
    for password in ("the-new-one", old_password):
        with Redis.from_url(servers.replace(old_password, password)) as redis:
            assert redis.ping()
    with Redis.from_url(servers) as redis:
        redis.acl_setuser("default", enabled=True, passwords=["-the-new-one"])
    with psycopg.connect(owner_url) as db:
        rows = db.execute(
            "select name, revoked_at is null from turnkeeper.api_keys where name like 'backend%'"
        ).fetchall()
        roles = db.execute("select rolname from pg_roles where rolname like 'backend%'").fetchall()
    assert dict(rows) == {"backend": False, "backend-2": True}
    assert roles == [("backend_next",)]


def test_the_command_line_finds_the_service_from_elsewhere(clone: Path):
    # Without the logins: they are what the commands ask the running `up` for.
    script = "\n".join(block.take() for block in of("use-the-command-line"))
    said = run_shell(clone, script, is_quiet=False, PATH=tools(clone)["PATH"])
    assert said.startswith("Usage: turnkeeper [OPTIONS] COMMAND")
    assert len(re.findall(r"^[0-9a-f-]{36}  default$", said, re.MULTILINE)) == 2


def test_what_turns_cost_is_shown_and_limits_are_set(clone: Path, api: Api):
    api.ask("[[tokens=5]] costs")
    said = run_page(clone, "costs")
    assert '"daily_usd":"10.000000"' in said.replace(" ", "")
    assert (clone / "ledger.csv").read_text().startswith("id,")
    assert run_page(clone, "budgets").splitlines() == ["ledger, totals and holds agree"] * 2


def test_who_was_refused_is_shown(clone: Path):
    assert json.loads(run_page(clone, "limits", **as_admin(clone)))["data"] == []


def test_a_user_is_exported_and_erased(clone: Path, api: Api):
    turn = api.ask("[[tokens=5]] mine", session := api.session(user="alice"))
    export, erase = of("privacy")
    run_shell(clone, export.take(), is_quiet=False, **tools(clone))
    lines = (clone / "alice.jsonl").read_text().splitlines()
    assert any("mine" in line for line in lines)
    with terminal(erase.take(), clone, {**environment(), **tools(clone)}) as shell:
        shell.await_text("to go on: ")
        shell.type("alice\n")
        assert shell.await_end() == 0, shell.shown
    assert api.messages(session) == []
    assert api.get_turn(turn["id"])["status"] == "completed"


def test_metrics_are_answered_at_the_three_ports(clone: Path, metrics_port: int):
    _start, asked = of("monitor")
    lines = asked.take().splitlines()
    for number, (line, service) in enumerate(zip(lines, Service, strict=True)):
        here = replaced(line, (str(FIRST_PORT + number), str(metrics_port + number)))
        assert here.endswith(f"# {service}")
        assert "\nturnkeeper_processes" in run_shell(clone, here)


def test_a_log_line_has_the_fields_that_are_shown_and_is_found_by_its_turn(clone: Path, api: Api):
    turn_id = api.turn(api.session(user="alice"), "[[tokens=5]] log me")
    api.final(turn_id)
    (sample,) = of("read-the-log", "json")
    shown = json.loads(sample.take())

    def logged() -> list[dict]:
        found = run_page(clone, "read-the-log", TURN=turn_id).splitlines()
        return [one for one in map(json.loads, found) if one.get("route") == shown["route"]]

    (line,) = wait_until(logged, "the request's line")
    assert [*line] == [*shown]
    same = ("level", "logger", "process", "message", "method", "status")
    assert {name: line[name] for name in same} == {name: shown[name] for name in same}
    assert {name: type(value) for name, value in line.items()} == {
        name: type(value) for name, value in shown.items()
    }


def test_the_queue_and_the_count_of_connections_are_shown(clone: Path):
    said = run_page(clone, "scale-out")
    assert "oldest" in said
    assert len(re.findall(r"^ [0-9a-f-]{36} ", said, re.MULTILINE)) >= 2, "one for each worker"
    assert "the processes open up to 132" in said


def test_the_doctor_finds_nothing_wrong_with_it_and_says_what_is(clone: Path, capsys: pytest.CaptureFixture):
    said = run_page(clone, "check-with-doctor").splitlines()
    assert said[-1].endswith(" 0 wrong")
    (sample,) = of("check-with-doctor", "text")
    role = urlsplit(state_of(clone)["database_url"]).username
    lines = replaced(sample.take(), ("'turnkeeper'", f"'{role}'")).splitlines()
    fine, *wrong = (line.split() for line in lines)
    assert fine in [line.split() for line in said]
    url = state_of(clone)["redis_url"]
    with Redis.from_url(url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            show([one for one in check_redis(url, now) if one.name == "redis.eviction"])
        finally:
            redis.config_set("maxmemory-policy", "noeviction")
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:-1]] == wrong


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
def dumped(clone: Path, api: Api, provider: Oracle) -> Iterator[dict]:
    """Turns of every kind, and the page's dump of them, made while one runs and one waits."""
    session = api.session(user="alice")
    done = api.ask("[[tokens=20]] before the dump", session)
    with provider.scripted(rate=SLOW):
        running = api.turn(session, "[[tokens=400]] in the middle")
        api.await_text(running)
    waiting = api.turn(session, "[[tokens=5]] behind it", multitask_strategy="enqueue")
    dump, backup, restore = of("back-up-and-restore")
    assert "pg_restore" in run_shell(clone, dump.take(), **tools(clone))
    said = run_shell(clone, backup.take(), **tools(clone))
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
        "restore": restore.take(),
    }
    api.stop(running)


def test_a_dump_of_a_running_service_is_restored_whole_and_its_turns_go_on(
    clone: Path, api: Api, provider: Oracle
):
    with dumped(clone, api, provider) as known, temporary_postgres() as server:
        servers = {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url}
        said = run_shell(clone, known["restore"], **{**tools(clone), **servers})
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
    api.await_text(running)
    with Redis.from_url(state_of(clone)["redis_url"]) as redis:
        redis.flushall()
    assert {api.final(turn)["status"] for turn in (running, waiting)} == {"completed"}
    reading = api.read(done["id"])
    assert (reading.is_whole, reading.text, len(reading.snapshots)) == (True, text, 1)
    assert [message["status"] for message in api.messages(session)] == ["complete"] * 6
