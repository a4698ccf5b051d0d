"""Metrics show what the clients saw, over all processes, even if some of them are killed."""

import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics.pages import folder_of
from shared.metrics.table import METRICS, Kind, Service
from tests.e2e.conftest import Service as Running
from tests.e2e.conftest import StartService, temporary_folder
from tests.e2e.protocol_client import Api, wait_until, websocket
from tests.ports import free_ports
from tests.promtool import checked, required_promtool

Figures = dict[tuple[str, tuple[str, ...]], float]


@dataclass
class Watched:
    """A service with metrics on, which counts from where the test begins."""

    running: Running
    port: int
    before: dict[Service, Figures] = field(default_factory=dict)

    def begin(self) -> None:
        """Count what rises from here on."""
        self.before = {}
        self.before = {service: rising(self.scrape(service)) for service in Service}

    def text(self, service: Service) -> str:
        """Return what a service answers Prometheus."""
        port = self.port + list(Service).index(service)
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.text

    def scrape(self, service: Service) -> Figures:
        """Return a service's figures by name and values of labels, without what was counted before the test."""
        figures = {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(self.text(service))
            for sample in family.samples
        }
        before = self.before.get(service, {})
        return {key: value - before.get(key, 0) for key, value in figures.items()}

    def figures(self) -> Figures:
        """Return those of all services; what each counts by itself is added up."""
        total: Counter[tuple[str, tuple[str, ...]]] = Counter()
        for service in Service:
            total.update(self.scrape(service))
        return dict(total)

    def await_figures(self, **expected: float) -> Figures:
        """Wait until figures are what they should be; `name__label` names a series."""

        def seen() -> dict[str, float | None]:
            figures = self.figures()
            by_words = {
                "__".join((name.removeprefix("turnkeeper_"), *filter(None, labels))): value
                for (name, labels), value in figures.items()
            }
            return {name: by_words.get(name) for name in expected}

        def is_seen() -> bool:
            # Who answered at the port may be the one that was killed.
            with contextlib.suppress(httpx.TransportError):
                return seen() == expected
            return False

        with contextlib.suppress(AssertionError):
            wait_until(is_seen, "the figures")
        assert seen() == expected
        return self.figures()


@pytest.fixture(scope="module")
def service(start_service: StartService, openai_compatible: dict[str, str]) -> Iterator[Watched]:
    port = free_ports(len(Service))
    figures = folder_of(port, Service.WEB).parent
    shutil.rmtree(figures, ignore_errors=True)
    try:
        with (
            temporary_folder() as folder,
            start_service(folder, 2, METRICS_PORT=str(port), **openai_compatible) as running,
        ):
            yield Watched(running, port)
    finally:
        shutil.rmtree(figures, ignore_errors=True)


@pytest.fixture
def watched(service: Watched) -> Watched:
    service.begin()
    service.await_figures(processes=6, turns_running=0)
    return service


def delta_events(api: Api, turns: list[dict]) -> int:
    return sum(
        [event["type"] for event in api.page(turn["id"])["data"]].count("content_delta") for turn in turns
    )


def rising(figures: Figures) -> Figures:
    suffixes = tuple(
        f"{metric.name}{suffix}"
        for metric in METRICS
        if metric.kind is not Kind.GAUGE
        for suffix in ("", "_bucket", "_sum", "_count")
    )
    return {key: value for key, value in figures.items() if key[0] in suffixes}


def test_metrics_agree_with_what_clients_saw_and_nothing_goes_backwards(watched: Watched):
    api = watched.running.api()
    completed = [api.ask(f"[[tokens={tokens} rate=200]] count") for tokens in (3, 12, 20, 1, 7)]
    watched.await_figures(
        turns_accepted_total=5,
        turns_total__completed=5,
        attempts_total__completed=5,
        first_token_seconds_count=5,
        claim_wait_seconds_count=5,
        turn_seconds_count=5,
        deltas_total=43,
        delta_events_total=delta_events(api, completed),
        tokens_total__output=sum(turn["usage"]["output_tokens"] for turn in completed),
        provider_calls_total=5,
        processes=6,
    )

    failed = [api.ask("[[status=400]] fail") for _ in range(2)]
    assert {turn["error"]["code"] for turn in failed} == {"provider_rejected"}

    stopped = []
    for _ in range(3):
        turn = api.turn(api.session(user="alice"), "[[tokens=100000 rate=50]] stop me")
        api.await_text(turn)
        stopped.append(api.stopped(turn))

    session = api.session(user="alice")
    running = api.turn(session, "[[tokens=100000 rate=50]] run")
    waiting = api.turn(session, "[[tokens=1]] wait", multitask_strategy="enqueue")
    watched.await_figures(turns_running=1)
    assert api.stop(waiting).json()["status"] == "stopped"
    api.await_text(running)
    stopped.append(api.stopped(running))
    assert {turn["status"] for turn in stopped} == {"stopped"}

    assert api.call("GET", f"/v1/turns/{uuid4()}").status_code == 404
    figures = watched.await_figures(
        turns_accepted_total=12,
        turns_total__completed=5,
        turns_total__provider_rejected__failed=2,
        turns_total__stopped=5,
        attempts_total__stopped=4,
        attempts_total__failed=2,
        stop_seconds_count=4,
        first_token_seconds_count=9,
        delta_events_total=delta_events(api, completed + failed + stopped),
        tokens_total__output=sum(turn["usage"]["output_tokens"] for turn in completed + failed + stopped),
        provider_errors_total__provider_rejected=2,
        problems_total__not_found=1,
        turns_running=0,
        leases_lost_total=0,
        gaps_total=0,
    )
    cost = sum(float(turn["cost_usd"]) for turn in completed + failed + stopped)
    assert figures["turnkeeper_cost_usd_total", ()] == pytest.approx(cost)
    by_web = watched.scrape(Service.WEB)
    assert by_web["turnkeeper_turns_total", ("", "stopped")] == 1

    before = rising(watched.figures())
    (victim, *_) = watched.running.pids("web")
    pids = watched.running.pids("web")
    os.kill(victim, signal.SIGKILL)
    wait_until(
        lambda: victim not in watched.running.pids("web") and len(watched.running.pids("web")) == 2, "another"
    )
    assert pids != watched.running.pids("web")
    after = watched.await_figures(processes=6)
    assert {key: (value, after[key]) for key, value in before.items() if after[key] < value} == {}
    api = watched.running.api()
    wait_until(lambda: api.call("GET", "/readyz").status_code == 200, "the service to be ready")
    api.ask("[[tokens=2]] after the kill")
    watched.await_figures(
        turns_accepted_total=13,
        turns_total__completed=6,
        deltas_total=after["turnkeeper_deltas_total", ()] + 2,
    )


def test_open_streams_are_counted_and_go_back_to_zero(watched: Watched):
    api = watched.running.api()
    session = api.session(user="alice")
    turn = api.turn(session, "[[tokens=100000 rate=20]] read me")
    reader = watched.running.api()
    with (
        websocket(watched.running.url, watched.running.key()) as first,
        websocket(watched.running.url, watched.running.key()),
        reader.stream("GET", f"/v1/turns/{turn}/events") as events,
    ):
        first.subscribe(session)
        next(events)
        watched.await_figures(
            streams_open__websocket=2,
            streams_open__event_stream=1,
            streams_opened_total__websocket=2,
            streams_opened_total__event_stream=1,
            replays_total=2,
        )
    watched.await_figures(streams_open__websocket=0, streams_open__event_stream=0, mailbox_overflows_total=0)
    api.stopped(turn)


def test_a_killed_worker_takes_none_of_its_counts_along(watched: Watched):
    api = watched.running.api()
    api.ask("[[tokens=5]] first")
    turn = api.turn(api.session(user="alice"), "[[tokens=100000 rate=50]] lose me", recovery="fail")
    api.await_text(turn)
    before = rising(
        watched.await_figures(turns_running=1, turns_total__completed=1, claim_wait_seconds_count=2)
    )
    pids = watched.running.kill_workers(turn)
    assert api.final(turn)["error"]["code"] == "worker_lost"
    watched.running.await_pids("worker", pids)
    after = watched.await_figures(
        turns_total__completed=1,
        turns_total__worker_lost__failed=1,
        turns_taken_up_total=1,
        turns_running=0,
        processes=6,
    )
    assert {key: (value, after[key]) for key, value in before.items() if after[key] < value} == {}


def test_prometheus_takes_what_each_service_answers(watched: Watched):
    promtool = required_promtool()
    watched.running.api().ask("[[tokens=3]] one of each")
    for service in Service:
        assert checked(promtool, "check", "metrics", given=watched.text(service)) == ""


def test_the_ports_of_the_api_know_no_metrics(watched: Watched):
    api = watched.running.api()
    assert api.call("GET", "/metrics").status_code == 404
