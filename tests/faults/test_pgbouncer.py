"""PgBouncer in transaction mode: each transaction may come over another connection (I9).

It runs with the configuration that the how-to page gives, and with one connection to PostgreSQL where that is
hardest.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from shared.postgres.database import Database
from shared.postgres.migrate import migrate
from tests.documents import allotted
from tests.e2e.conftest import PROVIDER_KEY, running_service, temporary_folder
from tests.e2e.protocol_client import LIMIT_SECONDS, Oracle
from tests.soak.tenancy.fuzz import Fuzz
from tests.tenants import two_organizations
from turnkeeper.doctor.connections import check_connections
from turnkeeper.doctor.findings import Level
from turnkeeper.up.embedded import EmbeddedPostgres, temporary_postgres

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
(FILE,) = allotted(__file__)

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed here: apt-get install pgbouncer"
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def configuration(folder: Path, server_port: int, port: int, connections: int, mode: str) -> str:
    """The page's file, on other addresses and with so many connections."""
    text_of_page = FILE.take()
    for theirs, ours in (
        ("port=5432", f"port={server_port}"),
        ("listen_port = 6432", f"listen_port = {port}"),
        ("/etc/pgbouncer/userlist.txt", str(folder / "users")),
        ("pool_mode = transaction", f"pool_mode = {mode}"),
        ("default_pool_size = 20", f"default_pool_size = {connections}"),
    ):
        assert theirs in text_of_page, theirs
        text_of_page = text_of_page.replace(theirs, ours)
    # It may not run as root, and needs neither a file of its number nor a socket in the file system.
    user = "user = nobody\n" if os.geteuid() == 0 else ""
    return text_of_page + user + "unix_socket_dir =\n"


@contextlib.contextmanager
def pgbouncer(server: EmbeddedPostgres, connections: int, mode: str = "transaction") -> Iterator[str]:
    """Run it before a server; yield the application's URL through it."""
    direct = urlsplit(server.app_url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="turnkeeper-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "users").write_text(f'"{direct.username}" "{unquote(direct.password or "")}"\n')
        (folder / "pgbouncer.ini").write_text(
            configuration(folder, direct.port or 0, port, connections, mode)
        )
        output = folder / "output"
        with output.open("wb") as said:
            process = subprocess.Popen(
                [PROGRAM or "", str(folder / "pgbouncer.ini")], stdout=said, stderr=said
            )
        try:
            await_listening(port, process, output)
            yield direct._replace(netloc=f"{direct.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_SECONDS)


def await_listening(port: int, process: subprocess.Popen, output: Path) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with temporary_postgres() as running:
        migrate(running.owner_url, running.app_url)
        yield running


def test_nothing_crosses_where_every_transaction_shares_one_connection(server: EmbeddedPostgres):
    owner = create_engine(make_url(server.owner_url).set(drivername="postgresql+psycopg"))

    def as_owner(statement: str, **parameters: Any) -> list[Any]:
        with owner.begin() as db:
            found = db.execute(text(statement), parameters)
            return list(found) if found.returns_rows else []

    organizations = two_organizations(server.owner_url, as_owner)
    with pgbouncer(server, connections=1) as url:
        # Two clients, so that one's transaction follows the other's on the connection that they share.
        database = Database(url, pool_size=2, prepare=False, pool_wait_seconds=LIMIT_SECONDS)
        runs = [Fuzz(database, as_owner, organizations, seed=seed) for seed in (1, 2)]
        failures: list[BaseException] = []

        def run(fuzz: Fuzz) -> None:
            try:
                fuzz.run(1_500)
            except BaseException as failure:  # noqa: BLE001 -- raised again in the test's thread
                failures.append(failure)

        threads = [threading.Thread(target=run, args=(fuzz,)) for fuzz in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        for fuzz in runs:
            fuzz.check_what_was_written()
        database.dispose()
    owner.dispose()


def test_the_limits_of_statements_are_set_behind_it(server: EmbeddedPostgres):
    with pgbouncer(server, connections=1) as url:
        database = Database(url, prepare=False)
        with database.across() as db:
            shown = {
                name: db.execute(text(f"show {name}")).scalar_one()
                for name in (
                    "statement_timeout",
                    "lock_timeout",
                    "idle_in_transaction_session_timeout",
                    "timezone",
                )
            }
        database.dispose()
    assert shown == {
        "statement_timeout": "5s",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "15s",
        "timezone": "UTC",
    }


def test_the_doctor_sees_it_and_whether_prepared_statements_pass(server: EmbeddedPostgres):
    said = subprocess.run(
        [PROGRAM or "", "--version"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    version = tuple(int(part) for part in re.search(r"PgBouncer (\d+)\.(\d+)", said).groups())
    with pgbouncer(server, connections=4) as url:
        found = {each.name: each for each in check_connections(url, 1, prepares=True, owner_url=url)}
        without = {
            each.name for each in check_connections(url, 1, prepares=False, owner_url=server.owner_url)
        }
    assert found["postgres.pooler"].level is Level.OK, found
    assert "pooler" in found["postgres.pooler"].says
    # Since 1.24 `max_prepared_statements` is not 0 by default.
    assert found["postgres.prepared_statements"].level is (Level.OK if version >= (1, 24) else Level.WRONG)
    assert found["postgres.owner"].level is Level.WARNING
    assert without == {"postgres.pooler"}


def test_the_doctor_warns_of_session_mode(server: EmbeddedPostgres):
    with pgbouncer(server, connections=4, mode="session") as url:
        (found,) = check_connections(url, 1, prepares=True)
    assert (found.level, "session mode" in found.says) == (Level.WARNING, True)


def test_a_turn_runs_and_is_stopped_behind_it(server: EmbeddedPostgres, oracle: Oracle):
    with pgbouncer(server, connections=4) as url, temporary_folder() as folder:
        environ = {
            "MCP_LLM_PROVIDER": "openai-compatible",
            "MCP_LLM_BASE_URL": f"{oracle.url}/v1",
            "MCP_LLM_MODEL": "scripted",
            "MCP_LLM_API_KEY": PROVIDER_KEY,
            "DATABASE_URL": url,
            "DATABASE_OWNER_URL": server.owner_url,
            "DATABASE_PREPARE": "false",
        }
        with running_service(folder, **environ) as service:
            api = service.api()
            session = api.session(user="alice")
            turn = api.ask("[[tokens=50]] through a pooler", session)
            assert turn["status"] == "completed", turn
            assert api.read(turn["id"]).is_whole
            long = api.turn(session, "[[tokens=100000 rate=50]] through a pooler")
            with api.stream("GET", f"/v1/turns/{long}/events") as events:
                next(event for event in events if event["type"] == "content_delta")
            api.stop(long)
            stopped = api.final(long)
            assert stopped["status"] == "stopped", stopped
            assert api.answer_to(stopped)
            assert len(api.messages(session)) == 4
