"""A table that breaks off on its way is an error for its client, and no shorter table (C12 of the fault matrix)."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from turnkeeper_client import Client, ConnectionFailedError

from tests.e2e.conftest import Service, running_service, temporary_folder
from tests.e2e.protocol_client import LIMIT_SECONDS
from turnkeeper.up.embedded import temporary_postgres, temporary_redis

ROWS = 20_000
"""Of two kilobytes each: far more than the system holds for a client that does not read."""
FILL = """
insert into turnkeeper.ledger (organization_id, id, turn_id, session_id, user_name, attempt, provider, model,
  input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage_source, price, cost_usd)
select id, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'alice', 1, 'p', 'm', 1, 0, 0, 1, 0, 'provider',
  jsonb_build_object('note', repeat('x', 2000)), 0
from turnkeeper.organizations, generate_series(1, %s)
"""


@pytest.fixture(scope="module")
def world(openai_compatible: dict[str, str]) -> Iterator[tuple[Service, str]]:
    with ExitStack() as stack:
        postgres = stack.enter_context(temporary_postgres())
        redis = stack.enter_context(temporary_redis())
        folder = stack.enter_context(temporary_folder())
        servers = {
            "DATABASE_URL": postgres.app_url,
            "DATABASE_OWNER_URL": postgres.owner_url,
            "REDIS_URL": redis.url,
        }
        service = stack.enter_context(running_service(folder, **openai_compatible, **servers))
        with psycopg.connect(postgres.owner_url) as db:
            db.execute(FILL, (ROWS,))
        yield service, postgres.owner_url


@pytest.fixture
def web_is_killed(world) -> Iterator[Callable[[], None]]:
    service, _ = world
    pids = service.pids("web")

    def kill() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    yield kill
    service.await_pids("web", gone=pids)


@pytest.fixture
def postgres_refuses(world) -> Iterator[Callable[[], None]]:
    _, owner_url = world

    def execute(statement: str) -> None:
        with psycopg.connect(owner_url, autocommit=True) as db:
            db.execute(statement)

    yield lambda: execute("revoke select on turnkeeper.ledger from turnkeeper_app")
    execute("grant select on turnkeeper.ledger to turnkeeper_app")


@pytest.fixture(params=["web_is_killed", "postgres_refuses"])
def cut(request) -> Callable[[], None]:
    """Break off whatever web is sending."""
    return request.getfixturevalue(request.param)


def headers_of(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.key('admin')}", "Accept": "text/csv"}


def test_httpx_sees_a_cut_table_as_an_error(world, cut):
    service, _ = world
    url = f"{service.url}/v1/ledger"
    with (
        httpx.Client(timeout=LIMIT_SECONDS, trust_env=False) as client,
        client.stream("GET", url, headers=headers_of(service)) as answer,
    ):
        assert answer.headers["transfer-encoding"] == "chunked"
        parts = answer.iter_bytes()
        assert next(parts).startswith(b"id,")
        cut()
        with pytest.raises(httpx.TransportError):
            list(parts)


def test_the_python_client_sees_a_cut_table_as_an_error(world, cut):
    service, _ = world
    with Client(service.url, service.key("admin")) as client, client.download_ledger() as table:
        parts = iter(table)
        assert next(parts).startswith(b"id,")
        cut()
        with pytest.raises(ConnectionFailedError):
            list(parts)


def test_an_http_1_0_client_sees_a_cut_table_as_a_reset(world, postgres_refuses):
    service, _ = world
    address = urlsplit(service.url)
    lines = [f"{name}: {value}" for name, value in headers_of(service).items()]
    with socket.create_connection((address.hostname, address.port), timeout=LIMIT_SECONDS) as client:
        client.sendall("\r\n".join(["GET /v1/ledger HTTP/1.0", *lines, "", ""]).encode())
        assert client.recv(1024).startswith(b"HTTP/1.0 200")
        postgres_refuses()
        with pytest.raises(ConnectionResetError):
            read_to_end(client)


def read_to_end(client: socket.socket) -> None:
    while client.recv(1 << 20):
        pass


def test_curl_sees_a_cut_table_as_an_error(world, cut):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    service, _ = world
    lines = [word for each in headers_of(service).items() for word in ("-H", ": ".join(each))]
    with subprocess.Popen(
        ["curl", "--silent", "--no-buffer", *lines, f"{service.url}/v1/ledger"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.read(3) == b"id,"
        cut()
        while process.stdout.read(1 << 20):
            pass
        assert process.wait(LIMIT_SECONDS) in {18, 56}


def test_a_whole_table_has_all_rows(world):
    service, _ = world
    answer = httpx.get(
        f"{service.url}/v1/ledger", headers=headers_of(service), timeout=LIMIT_SECONDS, trust_env=False
    )
    assert answer.text.count("\r\n") == ROWS + 1
