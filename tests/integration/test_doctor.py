"""`turnkeeper doctor`: each fault is really caused, and appears in its output."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from psycopg import sql
from redis import Redis

from tests.certificates import make_certificates
from tests.integration.conftest import LIMIT_SECONDS, until
from tests.ports import closed_port, free_port
from turnkeeper import cli
from turnkeeper.doctor import connections
from turnkeeper.doctor.findings import Finding, Level
from turnkeeper.doctor.machine import PAGE, check_page, check_ports, check_prices
from turnkeeper.doctor.postgres import check_postgres
from turnkeeper.doctor.provider import check_provider
from turnkeeper.doctor.redis import check_redis
from turnkeeper.up.embedded import EmbeddedPostgres, EmbeddedRedis
from worker.main import Worker

OURS = ("MCP_", "ANTHROPIC_", "DATABASE_", "REDIS_", "SCRIPTED_", "TURNKEEPER_", "ENVIRONMENT", "ALLOWED_")
WORKER = (
    "insert into turnkeeper.workers (id, renewed_at, heard_at)"
    " values (gen_random_uuid(), now(), now() - make_interval(secs => :silent))"
)
OTHERS = (
    "select count(*) from pg_stat_activity"
    " where datid is not null and usesysid is not null and pid <> pg_backend_pid()"
)
HERE = "127.0.0.1"
ROOT = Path(__file__).parents[2]
PRICES = ROOT / "shared" / "money" / "prices.toml"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No finding because this machine is slow; a test of a limit sets it."""
    for name in ("redis._SLOW_SECONDS", "redis._LATE_SECONDS", "provider._SLOW_SECONDS"):
        monkeypatch.setattr(f"turnkeeper.doctor.{name}", LIMIT_SECONDS)


@pytest.fixture(autouse=True)
def durable(owner_url: str, database_url: str) -> Iterator[None]:
    """As on a server of one's own; the tests' own keeps nothing when it crashes."""
    login = sql.Identifier(urlsplit(database_url).username or "")
    for change in ("set synchronous_commit = on", "reset synchronous_commit"):
        with psycopg.connect(owner_url) as db:
            db.execute(sql.SQL("alter role {} " + change).format(login))
        if change.startswith("set"):
            yield


@pytest.fixture
def provider() -> Iterator[int]:
    """A port that takes connections."""
    with socket.create_server((HERE, 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def doctor(
    environment: dict[str, str], provider: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> Callable[..., tuple[int, dict[str, dict]]]:
    """Runs the command with variables changed; returns its exit code and its findings by name."""
    secrets = [unquote(urlsplit(environment[name]).password or "") for name in ("DATABASE_URL", "REDIS_URL")]

    def run(*arguments: str, **changed: str) -> tuple[int, dict[str, dict]]:
        for name in [name for name in os.environ if name.startswith(OURS)]:
            monkeypatch.delenv(name)
        ours = {**environment, "SCRIPTED_BASE_URL": f"http://{HERE}:{provider}/v1", **changed}
        for name, value in ours.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = cli.main(["doctor", "--json", "--ports", *arguments])
        said = capsys.readouterr().out
        assert not [secret for secret in secrets if secret in said]
        report = json.loads(said)
        return code, {finding["name"]: finding for finding in report["checks"]}

    return run


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_service_that_has_all_it_needs_is_fine(doctor, as_owner):
    as_owner(WORKER, silent=0)
    code, found = doctor()
    assert {name: each for name, each in found.items() if each["level"] != "ok"} == {}
    assert code == 0
    assert {
        "settings",
        "postgres",
        "postgres.role",
        "postgres.schema",
        "workers",
        "redis",
        "provider",
    } <= set(found)
    assert {"postgres.connections", "postgres.clock", "redis.eviction", "prices", "page"} <= set(found)


def test_a_person_reads_a_line_for_each_and_the_remedy_below_it(doctor, capsys):
    doctor()
    assert cli.main(["doctor", "--ports"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if " workers " in line]
    assert lines[at].startswith("warning")
    assert lines[at + 1].strip() == "→ start one: `turnkeeper worker`"
    assert lines[-1].endswith(" ok, 1 warning, 0 wrong")


# --- settings and prices -------------------------------------------------------------------------------


def test_settings_that_are_refused_stop_no_other_check(doctor):
    code, found = doctor(LEASE_SECONDS="1")
    assert code == 1
    assert "LEASE_SECONDS" in found["settings"]["says"]
    assert {found[name]["level"] for name in ("postgres", "redis", "provider", "page")} == {"ok"}


def test_the_owners_login_beside_the_processes_is_warned_of_in_production(doctor, owner_url):
    _, found = doctor(
        ENVIRONMENT="production",
        ALLOWED_ORIGINS="https://chat.example.com",
        MCP_LLM_PROVIDER="anthropic",
        ANTHROPIC_API_KEY="k",
        ANTHROPIC_BASE_URL=f"http://{HERE}:9",
        MCP_LLM_ALLOWED_HOSTS=HERE,
        DATABASE_OWNER_URL=owner_url,
    )
    assert found["settings"]["level"] == "warning"
    assert "DATABASE_OWNER_URL" in found["settings"]["says"]


def test_a_model_without_a_price_and_a_file_that_is_wrong_are_named(doctor, tmp_path):
    _, found = doctor(MCP_LLM_PROVIDER="anthropic", ANTHROPIC_API_KEY="k", ANTHROPIC_MODEL="claude-next")
    assert (found["prices"]["level"], "claude-next" in found["prices"]["says"]) == ("warning", True)
    (tmp_path / "prices.toml").write_text("prices = 1")
    code, found = doctor(PRICES_FILE=str(tmp_path / "prices.toml"))
    assert (code, found["prices"]["level"]) == (1, "wrong")


def test_prices_that_nobody_looked_at_for_half_a_year_are_warned_of():
    as_of = datetime.combine(tomllib.loads(PRICES.read_text())["as_of"], time(12), UTC)
    for days, level in ((1, Level.OK), (365, Level.WARNING)):
        assert by_name(check_prices({}, lambda days=days: as_of + timedelta(days)))["prices"].level is level


# --- PostgreSQL ----------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_stops_no_other_check(doctor):
    code, found = doctor(DATABASE_URL=f"postgresql://app:hush-hush@{HERE}:9/turnkeeper")
    assert code == 1
    assert found["postgres"]["says"].startswith("cannot be reached")
    assert "hush-hush" not in json.dumps(found)
    assert found["redis.eviction"]["level"] == "ok"


def test_a_wrong_password_is_said_in_the_servers_words(doctor, environment):
    secret = urlsplit(environment["DATABASE_URL"]).password
    _, found = doctor(DATABASE_URL=environment["DATABASE_URL"].replace(secret, "wrong-word"))
    assert "password authentication failed" in found["postgres"]["says"]
    assert "wrong-word" not in json.dumps(found)


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_an_address_that_cannot_be_read_is_a_finding(doctor, name: str):
    scheme = {"DATABASE_URL": "postgresql", "REDIS_URL": "redis"}[name]
    _, found = doctor(**{name: f"{scheme}://{HERE}:port/0"})
    assert f"{name} cannot be read" in found[{"DATABASE_URL": "postgres", "REDIS_URL": "redis"}[name]]["says"]


@contextlib.contextmanager
def role(owner_url: str, options: str, member_of: str) -> Iterator[str]:
    """A separate login; yields its URL."""
    with psycopg.connect(owner_url, autocommit=True) as db:
        db.execute(f"create role doctored login password 'word' {options}")
        db.execute(f"grant {member_of} to doctored")
        parts = urlsplit(owner_url)
        try:
            yield parts._replace(netloc=f"doctored:word@{parts.hostname}:{parts.port}").geturl()
        finally:
            db.execute("drop role doctored")


@pytest.mark.parametrize(
    ("options", "member_of", "says"),
    [
        ("superuser", "turnkeeper_app", "is a superuser"),
        ("bypassrls", "turnkeeper_app", "bypasses row-level security"),
        ("", "postgres", "owns the tables"),
    ],
)
def test_a_role_that_no_policy_binds_is_wrong(doctor, owner_url, options: str, member_of: str, says: str):
    with role(owner_url, options, member_of) as url:
        code, found = doctor(DATABASE_URL=url)
    assert (code, found["postgres.role"]["level"]) == (1, "wrong")
    assert says in found["postgres.role"]["says"]


def test_a_role_whose_transactions_are_read_only_is_wrong(doctor, owner_url):
    with role(owner_url, "", "turnkeeper_app") as url:
        with psycopg.connect(owner_url) as db:
            db.execute("alter role doctored set default_transaction_read_only = on")
        _, found = doctor(DATABASE_URL=url)
    assert found["postgres.writable"]["says"] == "it is read only"


@pytest.mark.parametrize(
    ("undone", "done", "says"),
    [
        ("disable row level security", "enable row level security", "messages (off)"),
        ("no force row level security", "force row level security", "messages (not forced)"),
    ],
)
def test_a_table_that_its_policies_do_not_bind_is_named(doctor, as_owner, undone, done, says):
    as_owner(f"alter table turnkeeper.messages {undone}")
    try:
        code, found = doctor()
    finally:
        as_owner(f"alter table turnkeeper.messages {done}")
    assert code == 1
    assert says in found["postgres.row_level_security"]["says"]


def test_an_old_schema_is_wrong(doctor, as_owner):
    ((newest,),) = as_owner("select version_num from public.schema_version")
    as_owner("update public.schema_version set version_num = '0000'")
    try:
        code, found = doctor()
    finally:
        as_owner("update public.schema_version set version_num = :newest", newest=newest)
    assert code == 1
    assert found["postgres.schema"]["says"] == f"at 0000, this release needs {newest}"
    assert "turnkeeper migrate" in found["postgres.schema"]["remedy"]


def test_a_database_without_a_schema_is_wrong(doctor, owner_url, postgres: EmbeddedPostgres):
    with psycopg.connect(owner_url, autocommit=True) as db:
        db.execute("create database bare")
        try:
            code, found = doctor(DATABASE_URL=f"{postgres.app_url.rpartition('/')[0]}/bare")
        finally:
            db.execute("drop database bare with (force)")
    assert code == 1
    assert found["postgres.schema"]["says"] == "there is none yet"
    assert found["postgres.row_level_security"]["says"] == "there are no tables"
    assert found["workers"]["level"] == "wrong"


def test_statements_without_a_limit_are_warned_of(doctor, environment):
    url = f"{environment['DATABASE_URL']}?options=-c%20statement_timeout%3D0"
    code, found = doctor(DATABASE_URL=url)
    assert code == 0
    assert found["postgres.timeouts"]["level"] == "warning"
    assert "statement_timeout" in found["postgres.timeouts"]["says"]


def test_more_connections_than_the_server_has_are_wrong(doctor):
    code, found = doctor(DATABASE_POOL_SIZE="64")
    assert (code, found["postgres.connections"]["level"]) == (1, "wrong")
    assert "up to 262" in found["postgres.connections"]["says"]
    code, found = doctor("--web", "1", "--relay", "1", DATABASE_POOL_SIZE="64")
    assert (code, found["postgres.connections"]["level"]) == (0, "ok")


def test_the_connections_of_others_are_counted(doctor, owner_url):
    with contextlib.ExitStack() as stack:
        db = stack.enter_context(psycopg.connect(owner_url, autocommit=True))
        until(
            lambda: db.execute(OTHERS).fetchone() == (0,)
        )  # those of fixtures end when the server comes to it
        _, found = doctor(DATABASE_POOL_SIZE="47")
        says = found["postgres.connections"]["says"]
        assert says.startswith("the processes open up to 194, others have 1, "), says
        for _ in range(5):
            stack.enter_context(psycopg.connect(owner_url))
        _, found = doctor(DATABASE_POOL_SIZE="47")
        assert found["postgres.connections"]["level"] == "warning"


def test_a_worker_has_as_many_connections_as_are_counted(settings):
    worker = Worker(settings)
    databases = (worker._database, worker._lease_database, worker._sweep_database)
    assert sum(each._engine.pool.size() for each in databases) == connections.WORKER_CONNECTIONS
    for each in databases:
        each.dispose()


def test_workers_that_are_deaf_are_wrong_and_some_of_them_a_warning(doctor, as_owner):
    as_owner(WORKER, silent=100)
    code, found = doctor()
    assert (code, found["workers"]["level"]) == (1, "wrong")
    as_owner(WORKER, silent=0)
    code, found = doctor()
    assert (code, found["workers"]["level"]) == (0, "warning")
    assert found["workers"]["says"].startswith("1 of 2")


@pytest.mark.parametrize(
    # As far apart as no pause amid the question can hide.
    ("ahead", "level"),
    [(0, Level.OK), (20, Level.WARNING), (-20, Level.WARNING), (60, Level.WRONG)],
)
def test_clocks_that_are_apart_are_said(environment, ahead: int, level: Level):
    def other() -> datetime:
        return now() + timedelta(seconds=ahead)

    assert by_name(check_postgres(environment["DATABASE_URL"], other))["postgres.clock"].level is level
    assert by_name(check_redis(environment["REDIS_URL"], other))["redis.clock"].level is level


# --- Redis ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def configured(redis_url: str, name: str, value: str) -> Iterator[None]:
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        before = redis.config_get(name)[name]
        redis.config_set(name, value)
        try:
            yield
        finally:
            redis.config_set(name, before)


@pytest.mark.parametrize(
    ("setting", "value", "name", "level", "says"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis.eviction", "wrong", "allkeys-lru"),
        ("maxmemory", "1000", "redis.memory", "wrong", "of 0 MiB"),
        ("save", "60 1", "redis.persistence", "ok", "on, though"),
        ("client-output-buffer-limit", "pubsub 0 0 0", "redis.output_buffer", "warning", "no limit"),
        ("client-output-buffer-limit", "pubsub 65536 0 0", "redis.output_buffer", "warning", "cut off"),
    ],
)
def test_a_setting_of_redis_is_seen(doctor, redis_url, setting, value, name, level, says):
    with configured(redis_url, setting, value):
        code, found = doctor()
    assert found[name]["level"] == level, found[name]
    assert says in found[name]["says"]
    assert code == (level == "wrong")


@pytest.mark.parametrize(
    ("seconds", "level"), [(0.004, Level.OK), (0.02, Level.WARNING), (0.06, Level.WRONG)]
)
def test_a_redis_that_is_far_away_is_seen(redis_url, monkeypatch, seconds: float, level: Level):
    monkeypatch.undo()  # the limits as they are
    clock = itertools.count(step=seconds)
    monkeypatch.setattr("turnkeeper.doctor.redis.perf_counter", lambda: next(clock))
    assert by_name(check_redis(redis_url, now))["redis.latency"].level is level


def test_a_replica_is_wrong(doctor, redis_url):
    with Redis.from_url(redis_url) as redis:
        redis.replicaof(HERE, 9)
        try:
            code, found = doctor()
        finally:
            redis.replicaof("NO", "ONE")
    assert (code, found["redis.writable"]["says"]) == (1, "it is a slave")


def test_a_server_that_keeps_its_settings_to_itself_is_a_warning(doctor, redis_url):
    with Redis.from_url(redis_url) as redis:
        redis.acl_setuser(
            "doctored",
            enabled=True,
            passwords=["+word"],
            keys="*",
            channels="*",
            commands=["+@all", "-config"],
        )
        parts = urlsplit(redis_url)
        try:
            code, found = doctor(REDIS_URL=f"redis://doctored:word@{parts.hostname}:{parts.port}/0")
        finally:
            redis.acl_deluser("doctored")
    assert (code, found["redis.output_buffer"]["level"]) == (0, "warning")
    assert found["redis.eviction"]["level"] == "ok"


def test_servers_that_hang_take_their_time_and_no_longer(
    doctor, postgres: EmbeddedPostgres, redis_server: EmbeddedRedis
):
    for server, name in ((postgres, "postgres"), (redis_server, "redis")):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            code, found = doctor()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert (code, found[name]["level"]) == (1, "wrong")
        assert found["page"]["level"] == "ok"


# Time stands still while the checks before the provider's run, and then it is over.
TOO_LATE = """
import sys
from itertools import count
from threading import enumerate as threads
from turnkeeper import cli
from turnkeeper.doctor import findings

BEFORE = {"settings", "postgres", "postgres.connections", "redis"}
looks = count()

def clock():
    return 0.0 if next(looks) == 0 or BEFORE & {thread.name for thread in threads()} else 1e6

findings.monotonic = clock
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_check_that_takes_too_long_does_not_keep_the_command(
    environment: dict[str, str], provider: int, tmp_path: Path
):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    slow = compatible(f"https://{HERE}:{provider}/v1", PROVIDER_CONNECT_TIMEOUT_SECONDS="600")
    ended = subprocess.run(
        [sys.executable, "-c", TOO_LATE, "doctor", "--json", "--limit", "60", "--ports"],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(ROOT), **environment, **slow},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = {each["name"]: each for each in json.loads(ended.stdout)["checks"]}
    assert (ended.returncode, found["provider"]["says"]) == (1, "no answer within 60 s")
    assert found["postgres.schema"]["level"] == found["redis.eviction"]["level"] == "ok"


# --- the provider --------------------------------------------------------------------------------------


def test_a_provider_that_does_not_listen_is_wrong(doctor):
    with closed_port() as port:
        code, found = doctor(SCRIPTED_BASE_URL=f"http://{HERE}:{port}/v1")
    assert (code, found["provider"]["level"]) == (1, "wrong")
    assert "Connect call failed" in found["provider"]["says"]


class Answers:
    """A resolver with the test's answers."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        return self.addresses


def compatible(url: str, **more: str) -> dict[str, str]:
    return {
        "MCP_LLM_PROVIDER": "openai-compatible",
        "MCP_LLM_BASE_URL": url,
        "MCP_LLM_MODEL": "m",
        "MCP_LLM_API_KEY": "k",
        **more,
    }


def test_a_name_that_leads_inside_is_wrong_in_production_unless_it_is_listed(provider: int):
    environ = compatible(f"https://models.example:{provider}/v1", ENVIRONMENT="production")
    found = by_name(check_provider(environ, Answers(HERE)))["provider"]
    assert (found.level, "internal address" in found.says) == (Level.WRONG, True)
    assert f"models.example:{provider}" in found.remedy
    listed = compatible(
        f"http://models.example:{provider}/v1",
        ENVIRONMENT="production",
        MCP_LLM_ALLOWED_HOSTS=f"models.example:{provider}",
    )
    assert by_name(check_provider(listed, Answers(HERE)))["provider"].level is Level.OK


def test_a_provider_that_says_nothing_is_given_up(provider: int):
    environ = compatible(f"https://localhost:{provider}/v1", PROVIDER_CONNECT_TIMEOUT_SECONDS="0.3")
    found = by_name(check_provider(environ, Answers(HERE)))["provider"]
    assert (found.level, "did not answer within 0.3 s" in found.says) == (Level.WRONG, True)


@pytest.mark.parametrize(
    ("certificate", "level"), [("good", Level.OK), ("expired", Level.WRONG), ("other", Level.WRONG)]
)
def test_a_certificate_is_checked_as_a_worker_checks_it(
    tmp_path, monkeypatch, certificate: str, level: Level
):
    folder = make_certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{certificate}.pem", folder / "leaf.key")
    with socket.create_server((HERE, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with (
                connection,
                contextlib.suppress(OSError),
                context.wrap_socket(connection, server_side=True) as tls,
            ):
                tls.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}/v1"
        environ = compatible(url, PROVIDER_CONNECT_TIMEOUT_SECONDS="60")
        found = by_name(check_provider(environ, Answers(HERE)))["provider"]
        thread.join(60)
    assert found.level is level, found
    assert ("certificate" in found.says) == (level is Level.WRONG)


@contextlib.contextmanager
def telling(pages: dict[str, object]) -> Iterator[str]:
    """A model server that has nothing but these pages."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(pages.get(self.path)).encode()
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((HERE, 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{HERE}:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join(LIMIT_SECONDS)


def test_a_context_that_is_not_known_is_a_warning_unless_it_is_set_or_told():
    pages: dict[str, object] = {}

    def found(**more: str) -> Finding:
        return by_name(check_provider(compatible(url, **more)))["provider.context"]

    with telling(pages) as url:
        assert (found().level, "does not tell the context of 'm'" in found().says) == (Level.WARNING, True)
        assert found().remedy == "set CONTEXT_TOKENS to the length of the model's context"
        assert (found(CONTEXT_TOKENS="6000").level, found(CONTEXT_TOKENS="6000").says) == (
            Level.OK,
            "CONTEXT_TOKENS is 6,000",
        )
        pages["/v1/models"] = {"data": [{"id": "m", "max_model_len": 4096}]}
        assert (found().level, found().says) == (Level.OK, "the server tells 4,096 tokens, which are used")
        assert found(MCP_LLM_API_KEY="only-the-worker-has-it").level is Level.WARNING  # which is sent nowhere
        pages.clear()
        pages["/props"] = {"default_generation_settings": {"n_ctx": 500_000}}
        assert (found().level, "500,000" in found().says, "180,000" in found().says) == (Level.OK, True, True)
    assert found().level is Level.WARNING  # it has ended
    anthropic = {"MCP_LLM_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": url}
    assert by_name(check_provider(anthropic))["provider.context"].level is Level.OK


def test_the_placeholder_of_a_key_is_told_from_a_key(provider: int):
    environ = compatible(f"http://{HERE}:{provider}/v1", MCP_LLM_API_KEY="only-the-worker-has-it")
    found = by_name(check_provider(environ))
    assert (found["provider.key"].level, found["provider"].level) == (Level.WARNING, Level.OK)


# --- ports and the page --------------------------------------------------------------------------------


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status":"ok"}'
        self.send_response(200)
        if self.server.is_ours:
            self.send_header("X-Request-Id", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("is_ours", "level"), [(True, Level.OK), (False, Level.WRONG)])
def test_a_port_is_free_ours_or_somebody_elses(is_ours: bool, level: Level):
    port = free_port()
    (free,) = check_ports([port])
    assert (free.level, free.says) == (Level.OK, "free")
    with HTTPServer((HERE, port), Health) as server:
        server.is_ours = is_ours
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            (taken,) = check_ports([port])
        finally:
            server.shutdown()
            thread.join()
    assert (taken.level, taken.says != "free") == (level, True)


def test_a_file_of_the_page_that_is_missing_is_named(tmp_path: Path):
    folder = tmp_path / "page"
    shutil.copytree(PAGE, folder)
    (whole,) = check_page(folder)
    assert whole.level is Level.OK
    # All but the languages that code is highlighted in, which are loaded by their names.
    kinds = {".html", ".js", ".css", ".svg"}
    files = [path for path in folder.rglob("*") if path.suffix in kinds and not path.name.endswith(".d.ts")]
    languages = [path for path in files if path.parent.name == "highlight" and path.name != "core.js"]
    assert whole.says == f"all of its {len(files) - len(languages)} files are there"
    # Loaded by a file that is loaded by the first.
    (folder / "markdown.js").unlink()
    (broken,) = check_page(folder)
    assert (broken.level, broken.says) == (Level.WRONG, "missing: markdown.js")
