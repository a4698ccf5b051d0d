"""`turnkeeper up` as a person runs it: one process tree, from nothing to an address and back to nothing."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from turnkeeper.up.embedded.redis import redis_binary

START_LIMIT_SECONDS = 150.0
END_LIMIT_SECONDS = 120.0
LIMIT_SECONDS = 60.0
BLACK_HOLES = {
    each: "http://127.0.0.1:9"
    for name in ("http_proxy", "https_proxy", "all_proxy")
    for each in (name, name.upper())
}
"""As on the machines of companies, whose proxy knows nothing of this one."""
KINDS = ("web", "relay", "worker", "postgres", "redis")


def wait_until(is_true: Callable[[], bool], what: str, limit_seconds: float = LIMIT_SECONDS) -> None:
    deadline = time.monotonic() + limit_seconds
    while not is_true():
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.02)


def environment(**more: str) -> dict[str, str]:
    """This process's environment without a configuration of its own."""
    ours = ("MCP_", "ANTHROPIC_", "DATABASE_", "REDIS_", "SCRIPTED_", "TURNKEEPER_", "ENVIRONMENT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, **BLACK_HOLES, "PYTHONPATH": str(Path.cwd()), "DRAIN_SECONDS": "3", **more}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "turnkeeper", *map(str, arguments)]


def run(folder: Path, name: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, on the data in `folder`."""
    return subprocess.run(
        command(name, "--data", folder / "data", *arguments),
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@dataclass
class Up:
    """A running `turnkeeper up`."""

    process: subprocess.Popen
    folder: Path

    @property
    def state_file(self) -> Path:
        return self.folder / "here.json"

    @property
    def state(self) -> dict:
        return json.loads(self.state_file.read_text())

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def pids(self, kind: str) -> list[int]:
        return self.state["pids"][kind]

    def get(self, path: str) -> int:
        with urllib.request.urlopen(self.state["url"] + path, timeout=LIMIT_SECONDS) as answer:
            return answer.status

    def kill_and_await_successor(self, kind: str) -> None:
        before = self.pids(kind)
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda: len(self.pids(kind)) == len(before) and before[0] not in self.pids(kind),
            f"another {kind} process",
        )


@contextlib.contextmanager
def running_in(folder: Path, *arguments: object, **more: str) -> Iterator[Up]:
    """Run `up` in `folder`; the caller ends it, or a failure does."""
    started = start(folder, *arguments, **more)
    try:
        await_ready(started)
        yield started
    finally:
        if started.process.poll() is None:
            end(started)


def start(folder: Path, *arguments: object, **more: str) -> Up:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command("up", "--data", folder / "data", "--state", folder / "here.json", *arguments),
            cwd=folder,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    return Up(process, folder)


def await_ready(started: Up) -> None:
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while "turnkeeper is running at" not in started.output:
        assert started.process.poll() is None, started.output
        assert time.monotonic() < deadline, started.output
        time.sleep(0.02)


def family_of(started: Up) -> list[psutil.Process]:
    """Every process below and including `up`."""
    root = psutil.Process(started.process.pid)
    return [root, *root.children(recursive=True)]


def end(started: Up, number: signal.Signals = signal.SIGINT) -> list[psutil.Process]:
    """Ask it to end; return the processes that it left behind."""
    family = family_of(started) if started.process.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        started.process.send_signal(number)
    started.process.wait(END_LIMIT_SECONDS)
    # Those that are not children of ours are gone a moment after it is.
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(map(is_alive, family)), "the family to be gone")
    left = [process for process in family if is_alive(process)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return left


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs: one that only waits to be reaped by init does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="turnkeeper-up-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Up]:
    with running_in(home, "--web", 2) as started:
        yield started
        assert end(started) == []


def test_it_says_where_it_runs_once_it_is_ready(running: Up):
    assert running.get("/healthz") == 200
    assert running.get("/readyz") == 200
    state = running.state
    assert {"service_key", "user_key", "admin_key", "database_url", "redis_url"} <= state.keys()
    assert set(state["pids"]) == set(KINDS)
    assert [len(running.pids(kind)) for kind in KINDS] == [2, 1, 1, 1, 1]
    family = {process.pid for process in family_of(running)}
    assert {pid for kind in KINDS for pid in running.pids(kind)} < family
    assert f"turnkeeper is running at {state['url']}" in running.output


def test_the_secrets_are_for_the_owner_only(running: Up):
    for path in (
        running.state_file,
        running.folder / "data" / "keys.json",
        running.folder / "data" / "state.json",
    ):
        assert path.stat().st_mode & 0o077 == 0


def test_the_processes_have_the_applications_login_and_not_the_owners(running: Up):
    with psycopg.connect(running.state["database_url"]) as db:
        row = db.execute(
            "select rolsuper or rolbypassrls or rolcreaterole from pg_roles where rolname = current_user"
        ).fetchone()
    assert row == (False,)
    assert all(
        "DATABASE_OWNER_URL" not in psutil.Process(running.pids(kind)[0]).environ()
        for kind in ("web", "relay", "worker")
    )


def test_a_smoke_test_passes(running: Up):
    finished = run(running.folder, "smoke")
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize(
    "line",
    [
        "migrate",
        "orgs list",
        "keys list",
        "ledger check",
        "users export demo",
        "doctor --json",
        "smoke",
        "chat",
    ],
)
def test_whoever_named_its_folder_can_use_every_command_from_elsewhere(
    running: Up, line: str, tmp_path: Path
):
    finished = subprocess.run(
        command(*line.split()),
        cwd=tmp_path,
        env=environment(TURNKEEPER_DATA=str(running.folder / "data")),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_is_replaced_and_the_state_says_so(running: Up, kind: str):
    addresses = {name: value for name, value in running.state.items() if name.endswith("url")}
    running.kill_and_await_successor(kind)
    assert {name: value for name, value in running.state.items() if name.endswith("url")} == addresses
    wait_until(lambda: is_ready(running), "the service to be ready again")


def is_ready(running: Up) -> bool:
    try:
        return running.get("/readyz") == 200
    except (OSError, http.client.HTTPException):
        return False


def test_a_second_one_on_the_same_data_is_refused(running: Up):
    finished = run(running.folder, "up")
    assert finished.returncode == 1
    assert f"in use by process {running.process.pid}" in finished.stdout + finished.stderr
    assert running.get("/healthz") == 200


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="turnkeeper-up-") as name:
        yield Path(name)


@pytest.mark.timeout(3 * START_LIMIT_SECONDS + 3 * END_LIMIT_SECONDS)
def test_ctrl_c_leaves_no_process_and_the_next_start_finds_everything_again(folder: Path):
    with running_in(folder) as first:
        before = first.state
        assert before["service_key"] in first.output
        assert end(first) == []
        assert first.process.returncode == 0
        assert not first.state_file.exists()
    with running_in(folder) as second:
        assert second.state["user_key"] == before["user_key"]
        assert before["service_key"] not in second.output
        # Killed as nobody would wish: what it started ends by itself, and the data is whole.
        family = family_of(second)
        second.process.kill()
        second.process.wait(LIMIT_SECONDS)
        if sys.platform.startswith("linux"):
            wait_until(lambda: not any(map(is_alive, family)), "the family to end by itself")
    with running_in(folder) as third:
        assert third.state["user_key"] == before["user_key"]
        assert end(third, signal.SIGTERM) == []


@contextlib.contextmanager
def redis_at(path: Path) -> Iterator[str]:
    """Run a Redis that listens on no port."""
    options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(path.parent)]
    server = subprocess.Popen([redis_binary(), *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "the socket of Redis")
        yield f"unix://{path}"
    finally:
        server.kill()
        server.wait(LIMIT_SECONDS)


def test_redis_may_be_reached_through_a_file(folder: Path):
    with redis_at(folder / "redis.sock") as url, running_in(folder, REDIS_URL=url):
        smoke = run(folder, "smoke")
        assert smoke.returncode == 0, smoke.stderr


def test_a_wrong_configuration_is_refused_with_all_problems_and_starts_nothing(tmp_path):
    (tmp_path / ".env").write_text("WEB_THREADS=none\nLEASE_SECONDS=-1\n")
    finished = run(tmp_path, "up", MCP_LLM_PROVIDER="openai-compatible", LEASE_SECONDS="0")
    assert finished.returncode == 2
    for name in ("MCP_LLM_BASE_URL", "MCP_LLM_MODEL", "MCP_LLM_API_KEY", "WEB_THREADS", "LEASE_SECONDS"):
        assert name in finished.stderr
    assert "'0'" in finished.stderr  # the real environment wins over .env
    assert not (tmp_path / "data").exists()


def test_a_port_that_was_asked_for_and_is_taken_is_refused(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finished = run(tmp_path, "up", "--port", port)
    assert finished.returncode != 0
    assert str(port) in finished.stdout + finished.stderr


def test_a_database_that_does_not_answer_is_refused(tmp_path):
    finished = run(
        tmp_path, "up", DATABASE_URL="postgresql://u:secret@127.0.0.1:1/x", REDIS_URL="redis://127.0.0.1:1"
    )
    assert finished.returncode != 0
    said = finished.stdout + finished.stderr
    assert "DATABASE_URL" in said
    assert "secret" not in said
    assert "Traceback" not in said
