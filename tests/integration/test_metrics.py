"""A scrape, over a real socket and real servers."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from shared.configuration.settings import Settings, load_settings
from shared.errors import ProblemCode, UnavailableError
from shared.metrics import listener, table
from shared.metrics.exposition import Exposition
from shared.metrics.listener import MetricsListener, begin
from shared.metrics.looking import looking_at_pool
from shared.metrics.pages import Pages, folder_of
from shared.metrics.registry import PLACES, Registry
from shared.metrics.servers import WAIT_SECONDS, Servers
from shared.metrics.table import Service
from shared.postgres.database import Database
from tests.conftest import Keys
from tests.integration.conftest import Api, until
from tests.ports import free_port


class Listening:
    """A process's part in a service's metrics."""

    def __init__(self, folder: Path, port: int, known: Callable[[], Any]) -> None:
        pages = Pages(folder / "worker")
        self.registry = Registry()
        self.registry.move(pages.open())
        exposition = Exposition(Service.WORKER, pages.total, known)
        self.listener = MetricsListener("127.0.0.1", port, self.registry, exposition.answer)
        self.listener.start()


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Listening]]:
    started = []

    def start(port: int, known: Callable[[], Any] = dict) -> Listening:
        started.append(Listening(tmp_path / "figures", port, known))
        return started[-1]

    yield start
    for each in started:
        each.listener.stop()


def get(port: int, path: str = "/metrics", **headers: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60, trust_env=False)


def plain(answer: httpx.Response) -> dict[str, float]:
    families = plain_text(answer.text)
    return {
        sample.name: sample.value for family in families for sample in family.samples if not sample.labels
    }


def test_a_scrape_has_the_figures_of_all_processes_whichever_answers(listen):
    port = free_port()
    first, second = listen(port), listen(port)
    first.registry.counter(table.LEASES_LOST).add(2)
    second.registry.counter(table.LEASES_LOST).add(3)
    for _ in range(10):
        answer = get(port)
        assert answer.headers["content-type"].startswith("text/plain")
        assert plain(answer)["turnkeeper_leases_lost_total"] == 5
    first.listener.stop()
    for _ in range(5):
        assert plain(get(port))["turnkeeper_processes"] == 2  # it listens no more, and still counts


def test_a_scrape_may_be_had_as_open_metrics(listen):
    port = free_port()
    listen(port)
    answer = get(port, accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "turnkeeper_leases_lost" in {family.name for family in open_metrics(answer.text)}


def test_nothing_else_is_served_there(listen):
    port = free_port()
    listen(port)
    assert get(port, "/").status_code == 404
    posted = httpx.post(f"http://127.0.0.1:{port}/metrics", timeout=60, trust_env=False)
    assert (posted.status_code, posted.headers["allow"]) == (405, "GET")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"what is this\r\n\r\n")
        assert client.recv(100) == b""


def test_a_client_that_says_nothing_holds_up_a_scrape_for_two_seconds_at_most(listen):
    port = free_port()
    listen(port)
    assert listener._REQUEST_SECONDS <= 2
    with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(port).status_code == 200  # although the other one goes on waiting
        assert silent.recv(100) == b""


def test_what_is_looked_at_is_looked_at_before_each_answer(listen):
    port = free_port()
    listening = listen(port)
    looked: list[int] = []
    listening.registry.on_sample(lambda: looked.append(1))
    get(port)
    assert looked


def known_when(settings: Settings, *, postgres: int, redis: int) -> Any:
    """Return the servers' figures once a scrape has them: one waits a second for them, the next has later ones."""
    servers, wanted = Servers(settings), {table.POSTGRES_UP: {(): postgres}, table.REDIS_UP: {(): redis}}
    return until(lambda: known if wanted.items() <= (known := servers.known()).items() else None)


def test_the_database_tells_what_waits_and_what_is_held(
    api: Api, keys: Keys, settings: Settings, as_owner: Callable[..., list[Any]], organization: UUID
):
    session = api.session(keys.service, user="alice")
    first = api.turn(keys.service, session)
    behind = {"content": "and", "multitask_strategy": "enqueue"}
    assert api.post(f"/v1/sessions/{session}/turns", keys.service, json=behind).status_code == 202
    api.turn(keys.service, api.session(keys.service, user="alice"))
    as_owner(
        "update turnkeeper.turns set claimable_at = now() - interval '90 seconds' where id = :id", id=first
    )
    as_owner(
        "insert into turnkeeper.holds (organization_id, turn_id, attempt, day, month, amount_usd)"
        " values (:organization, :id, 1, '2026-11-22', '2026-11-01', 0.25)",
        organization=organization,
        id=first,
    )
    as_owner("insert into turnkeeper.workers (id, heard_at) values (gen_random_uuid(), now())")
    as_owner(
        "insert into turnkeeper.workers (id, heard_at) values (gen_random_uuid(), now() - interval '61 seconds')"
    )
    known = known_when(settings, postgres=1, redis=1)
    assert known[table.TURNS_ACTIVE] == {("queued",): 3, ("running",): 0, ("stopping",): 0}
    assert known[table.QUEUE_TURNS] == {(): 2}
    assert 90 <= known[table.QUEUE_OLDEST][()] < 150
    assert known[table.HOLDS] == {(): 1}
    assert known[table.HELD] == {(): 0.25}
    assert known[table.WORKERS] == {(): 2}
    assert known[table.WORKERS_HEARING] == {(): 1}
    api.services.notices.drain(60)
    assert known_when(settings, postgres=1, redis=1)[table.DOORBELLS] == {(): 3}


def test_servers_that_are_away_or_hang_are_said_to_be_and_the_rest_is_answered(settings: Settings, listen):
    with closing(socket.create_server(("127.0.0.1", 0))) as hanging:  # takes connections and says nothing
        where = f"127.0.0.1:{hanging.getsockname()[1]}"
        away = replace(
            settings, database_url=f"postgresql://u:secret@{where}/d", redis_url=f"redis://{where}"
        )
        port = free_port()
        listen(port, Servers(away).known).registry.counter(table.TAKEN_UP).add()
        assert WAIT_SECONDS <= 1
        figures = plain(get(port))  # while the servers go on saying nothing
        assert figures["turnkeeper_turns_taken_up_total"] == 1
        assert figures["turnkeeper_postgres_up"] == figures["turnkeeper_redis_up"] == 0
        assert "turnkeeper_queue_turns" not in figures
    refused = replace(settings, redis_url="redis://127.0.0.1:1")
    known = known_when(refused, postgres=1, redis=0)
    assert table.DOORBELLS not in known


def test_refusals_and_hit_limits_are_counted(keys: Keys, environment: dict[str, str]):
    from api.app import create_app

    app = create_app("web", load_settings({**environment, "TURNS_PER_HOUR": "1"}))
    api = Api(app)
    try:
        session = api.session(keys.service, user="alice")
        api.turn(keys.service, session)
        assert (
            api.post(f"/v1/sessions/{session}/turns", keys.service, json={"content": "x"}).status_code == 429
        )
        assert api.get("/v1/sessions").status_code == 401
        figures = api.services.metrics.registry.values
        assert figures[PLACES[table.PROBLEMS, ("rate_limited",)]] == 1
        assert figures[PLACES[table.PROBLEMS, ("unauthorized",)]] == 1
        assert figures[PLACES[table.RATE_LIMITS_HIT, ("organization",)]] == 1
        assert figures[PLACES[table.REQUESTS, ("4xx",)]] == 2
        assert figures[PLACES[table.REQUESTS, ("2xx",)]] == 2
        assert figures[PLACES[table.ACCEPTED, ()]] == 1
    finally:
        api.services.close()


def test_what_the_server_refuses_by_itself_is_counted_like_any_refusal(settings: Settings):
    from api.app import create_app

    app = create_app("web", settings)
    services = app.extensions["turnkeeper"]
    figures = services.metrics.registry.values
    for code in (ProblemCode.RATE_LIMITED, ProblemCode.REQUEST_TIMEOUT, ProblemCode.UNAVAILABLE):
        app.extensions["turnkeeper_unserved"](code)
        assert figures[PLACES[table.PROBLEMS, (code,)]] == 1
    assert figures[PLACES[table.RATE_LIMITS_HIT, ("requests",)]] == 1
    assert (figures[PLACES[table.REQUESTS, ("4xx",)]], figures[PLACES[table.REQUESTS, ("5xx",)]]) == (2, 1)
    services.close()


def test_a_pool_shows_what_is_taken_and_who_waited_in_vain(database_url: str):
    database = Database(database_url, pool_size=1, pool_wait_seconds=0.05)
    registry = Registry()
    look = looking_at_pool(registry, database, "requests")
    done = threading.Event()
    with database.across() as db:
        db.exec_driver_sql("select 1")
        with pytest.raises(UnavailableError), database.across():
            done.set()
        look()
    assert not done.is_set()
    shown = [
        registry.values[PLACES[metric, ("requests",)]]
        for metric in (table.POOL_SIZE, table.POOL_OPEN, table.POOL_IN_USE, table.POOL_TIMEOUTS)
    ]
    look()
    assert shown == [1, 1, 1, 1]
    assert registry.values[PLACES[table.POOL_IN_USE, ("requests",)]] == 0
    database.dispose()


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_service(
    settings: Settings, caplog: pytest.LogCaptureFixture
):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        wanted = replace(settings, metrics_port=port)
        try:
            assert begin(wanted, Service.WEB, Registry()) is None
        finally:
            shutil.rmtree(folder_of(port, Service.WEB).parent, ignore_errors=True)
    assert "there are no metrics" in caplog.text


def test_children_of_one_gunicorn_are_one_service_and_one_that_is_killed_leaves_its_counts(
    environment: dict[str, str],
):
    port, metrics_port = free_port(), free_port()
    environ = {**os.environ, **environment, "METRICS_PORT": str(metrics_port)}
    command = [sys.executable, "-m", "turnkeeper", "web", "--bind", f"127.0.0.1:{port}", "--processes", "2"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as web:
        try:
            until(lambda: scraped(metrics_port).get("turnkeeper_processes") == 2)
            for _ in range(6):
                assert get(port, "/v1/sessions").status_code == 401
            until(lambda: scraped(metrics_port, "turnkeeper_problems_total", "unauthorized") == 6)
            children = psutil.Process(web.pid).children()
            children[0].kill()
            until(lambda: not children[0].is_running() or children[0].status() == psutil.STATUS_ZOMBIE)
            until(lambda: scraped(metrics_port).get("turnkeeper_processes") == 2)
            assert scraped(metrics_port, "turnkeeper_problems_total", "unauthorized") == 6
            assert get(port, "/metrics").status_code == 404
        finally:
            web.terminate()
            web.wait(60)
            shutil.rmtree(folder_of(metrics_port, Service.WEB).parent, ignore_errors=True)


def scraped(port: int, name: str = "", label: str = "") -> Any:
    """Return all figures without labels, or one with a label; none while nobody listens."""
    try:
        answer = get(port)
    except httpx.TransportError:
        return {}
    if not name:
        return plain(answer)
    samples = (sample for family in plain_text(answer.text) for sample in family.samples)
    return next(each.value for each in samples if each.name == name and label in each.labels.values())
