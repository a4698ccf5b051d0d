"""A whole service for the tests that need real processes: started once, and nothing of it may stay behind.

Its provider is the scripted one, as an OpenAI-compatible endpoint in a process of its own, whose record of what it was
asked is the tests' oracle.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from tests import doorbells
from tests.e2e.protocol_client import LIMIT_SECONDS, Api, Oracle, wait_until
from tests.marks import banner_of, leaks_in_files, leaks_in_redis, marked, secrets_of

HERE = Path(__file__).parent
START_LIMIT_SECONDS = 150.0
END_LIMIT_SECONDS = 120.0
"""More than the time that `up` grants the processes it ends, one kind after another."""
PROVIDER_KEY = marked("provider")
OURS = (
    "MCP_",
    "ANTHROPIC_",
    "DATABASE_",
    "REDIS_",
    "SCRIPTED_",
    "TURNKEEPER_",
    "ENVIRONMENT",
    "OTEL_",
    "SENTRY_",
)
PARENT_DEATH = str(Path(__file__).parents[2] / "turnkeeper" / "up" / "parent_death.py")
QUICK = {
    # Short enough to wait for, and still several times what a loaded machine needs.
    "LEASE_SECONDS": "5",
    "LEASE_RENEW_SECONDS": "1",
    "LEASE_TRUST_SECONDS": "3.5",
    "DRAIN_SECONDS": "3",
    "PROVIDER_IDLE_TIMEOUT_SECONDS": "20",
}
CALM = {
    # Where no lease may run out: longer than a machine may stall. A test that kills a worker makes its lease run out.
    "LEASE_SECONDS": "40",
    "LEASE_RENEW_SECONDS": "1",
    "LEASE_TRUST_SECONDS": "35",
    "DRAIN_SECONDS": "10",
    "PROVIDER_IDLE_TIMEOUT_SECONDS": "60",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked `soak` unless they are asked for."""
    if "soak" in config.getoption("markexpr"):
        return
    long = [item for item in items if HERE in item.path.parents and item.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@dataclass
class Service:
    """A running `turnkeeper up`."""

    process: subprocess.Popen
    folder: Path
    apis: list[Api] = field(default_factory=list)

    @property
    def state(self) -> dict:
        return json.loads((self.folder / "state.json").read_text())

    @property
    def url(self) -> str:
        return self.state["url"]

    def pids(self, kind: str) -> list[int]:
        return self.state["pids"][kind]

    def key(self, role: str = "service") -> str:
        return self.state[f"{role}_key"]

    def api(self, role: str = "service") -> Api:
        """Return a client with a connection of its own."""
        self.apis.append(Api(self.url, self.key(role)))
        return self.apis[-1]

    def api_beside(self, api: Api) -> Api:
        """Return a client whose connection another web process serves, as far as that can be known beforehand."""
        for _ in range(20):
            other = self.api()
            if other.server_of(self.pids("web")) != api.server_of(self.pids("web")):
                return other
            other.close()
        raise AssertionError("all connections went to one web process")

    def await_pids(self, kind: str, gone: list[int]) -> None:
        """Wait until processes have been replaced and the service is ready again."""
        wait_until(
            lambda: len(self.pids(kind)) == len(gone) and not set(gone) & set(self.pids(kind)),
            f"other {kind} processes",
        )
        api = self.api()
        wait_until(lambda: api.call("GET", "/readyz").status_code == 200, "the service to be ready")

    def kill_workers(self, turn_id: str) -> list[int]:
        """Kill all workers while one has this turn, whose lease then runs out at once; return the killed pids."""
        processes = [psutil.Process(pid) for pid in self.pids("worker")]
        for process in processes:
            process.kill()
        # What they had begun to write must not arrive later.
        psutil.wait_procs(processes, timeout=LIMIT_SECONDS)
        with psycopg.connect(self.state["database_owner_url"], connect_timeout=int(LIMIT_SECONDS)) as db:
            lost = db.execute(
                "update turnkeeper.turns set lease_expires_at = now()"
                " where id = %s and status in ('running', 'stopping')",
                (turn_id,),
            )
        assert lost.rowcount == 1, "the turn was over before its worker was killed"
        return [process.pid for process in processes]

    def log_files(self) -> list[Path]:
        """Return the files that any of its processes writes to, including its servers."""
        servers = (self.folder / "data").glob("*/server.log")
        return [*(self.folder / "data" / "logs").glob("*"), *servers, self.folder / "output"]

    def logs(self) -> str:
        """Return everything that its processes wrote."""
        return "\n".join(file.read_text(errors="replace") for file in self.log_files())

    def logs_with(self, word: str) -> str | None:
        """Return what its own processes logged; None until it contains `word`."""
        files = (self.folder / "data" / "logs").glob("*")
        logs = "\n".join(file.read_text(errors="replace") for file in files)
        return logs if word in logs else None

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    def end(self, number: signal.Signals = signal.SIGINT) -> list[psutil.Process]:
        """Ask it to end; return the processes that it left behind, which are then killed."""
        for api in self.apis:
            api.close()
        if self.process.poll() is not None:
            return []
        root = psutil.Process(self.process.pid)
        family = [root, *root.children(recursive=True)]
        self.process.send_signal(number)
        self.process.wait(END_LIMIT_SECONDS)
        left = psutil.wait_procs(family, timeout=LIMIT_SECONDS)[1]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return left


StartService = Callable[..., AbstractContextManager[Service]]


def spawn(folder: Path, arguments: list[str], environ: dict[str, str]) -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            # Tied to this process, so that a run that is killed leaves nothing behind.
            [
                sys.executable,
                "-I",
                "-S",
                PARENT_DEATH,
                str(os.getpid()),
                str(int(signal.SIGTERM)),
                "-",
                sys.executable,
                "-m",
                "turnkeeper",
                *arguments,
            ],
            cwd=folder,
            env={**kept, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def await_file(path: Path, process: subprocess.Popen) -> str:
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while not path.exists():
        said = (path.parent / "output").read_text(errors="replace")
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.02)
    return path.read_text()


@contextlib.contextmanager
def running_service(folder: Path, processes: int = 1, **environ: str) -> Iterator[Service]:
    """Run a service on the data in `folder`; it must leave no process behind, and leak nothing (I10)."""
    kinds = [word for kind in ("web", "relay", "worker") for word in (f"--{kind}", str(processes))]
    where = ["--data", str(folder / "data"), "--state", str(folder / "state.json"), "--port", "0"]
    service = Service(spawn(folder, ["up", *where, *kinds], {**CALM, **environ}), folder)
    state, told = "", []
    try:
        state = await_file(folder / "state.json", service.process)
        yield service
        # A Redis that a test ended, or that is down, can no longer be searched.
        with contextlib.suppress(redis.RedisError):
            told += leaks_in_redis(json.loads(state)["redis_url"], secrets_of(environ, state))
    finally:
        left = service.end()
    assert left == []
    told += leaks_in_files(service.log_files(), secrets_of(environ, state), shown=banner_of(state))
    assert not told, told


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder with a short path that PostgreSQL, which root runs as another user, can pass through."""
    with tempfile.TemporaryDirectory(prefix="tk-e2e-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="session")
def start_service() -> StartService:
    """`start_service(folder, processes, VARIABLE=...)` runs a test's own service."""
    return running_service


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for a test's own service."""
    with temporary_folder() as path:
        yield path


@pytest.fixture(scope="session")
def scripted() -> Iterator[Oracle]:
    """The scripted provider in a process of its own, and its record."""
    with temporary_folder() as path:
        process = spawn(path, ["provider", "--port-file", str(path / "port")], {})
        port = await_file(path / "port", process).strip()
        oracle = Oracle(f"http://127.0.0.1:{port}")
        yield oracle
        oracle.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_SECONDS) == 0


@pytest.fixture(scope="session")
def openai_compatible(scripted: Oracle) -> dict[str, str]:
    """The variables that make the scripted provider an OpenAI-compatible one, with a price."""
    return {
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": f"{scripted.url}/v1",
        "MCP_LLM_MODEL": "scripted",
        "MCP_LLM_API_KEY": PROVIDER_KEY,
        "MCP_LLM_PRICE_INPUT_PER_M_USD": "3",
        "MCP_LLM_PRICE_OUTPUT_PER_M_USD": "15",
    }


@pytest.fixture(scope="session")
def stack(openai_compatible: dict[str, str]) -> Iterator[Service]:
    """Two of each process, in front of the scripted provider."""
    with (
        temporary_folder() as path,
        running_service(path, 2, **openai_compatible) as service,
        doorbells.listening(service.state["redis_url"]),
    ):
        yield service


@pytest.fixture
def api(stack: Service) -> Iterator[Api]:
    """A back end's client of `stack`."""
    client = stack.api()
    yield client
    client.close()
