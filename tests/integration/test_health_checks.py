"""The containers' health checks, against the states that they must distinguish."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from shared.postgres.database import Database

SCRIPT = Path(__file__).parents[2] / "deploy" / "health.py"


@pytest.fixture(scope="module")
def health() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_health", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Answering(BaseHTTPRequestHandler):
    """Answers `/healthz` as its server says."""

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_a_process_that_answers_200_is_healthy(
    health: ModuleType, server: HTTPServer, status: int, code: int
):
    server.status = status
    assert health.main(["http", str(server.server_port)]) == code


def test_a_check_asks_no_proxy(health: ModuleType, server: HTTPServer):
    """A new process: which proxies there are is read from its environment."""
    server.status = 200
    environ = {
        **os.environ,
        "http_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "no_proxy": "",
    }
    command = [sys.executable, str(SCRIPT), "http", str(server.server_port)]
    assert subprocess.run(command, env=environ, check=False, timeout=60).returncode == 0


def test_a_port_on_which_nobody_listens_is_not_healthy(health: ModuleType, server: HTTPServer):
    server.status = 200
    port = server.server_port
    server.socket.close()
    assert health.main(["http", str(port)]) == 1


def test_a_worker_is_healthy_while_it_talks_to_the_database(
    health: ModuleType, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert health.main(["worker"]) == 1
    database = Database(database_url, pool_size=2)
    with database.across() as db:
        db.exec_driver_sql("select 1")
    assert health.main(["worker"]) == 0
    monkeypatch.setattr(health, "SILENCE_SECONDS", 0)
    assert health.main(["worker"]) == 1  # its last word is too old
    database.dispose()


def test_a_worker_whose_database_is_away_is_not_healthy(health: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert health.main(["worker"]) == 1


@pytest.mark.parametrize("arguments", [[], ["http"], ["http", "x"], ["worker", "x"], ["web"]])
def test_a_check_that_does_not_exist_is_wrong_use(health: ModuleType, arguments: list[str]):
    assert health.main(arguments) == 2
