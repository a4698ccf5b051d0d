"""A turn as one trace: web, worker and provider are real, the collector is played over HTTP."""

import socket
import threading
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest

from api.app import create_app
from shared.configuration.settings import load_settings
from shared.tracing.begin import begin_tracing
from shared.tracing.context import parse_traceparent
from tests.collector import LIMIT_SECONDS, playing
from tests.integration.conftest import LONG_LEASES, Api, be_patient
from tests.integration.test_worker import patient_worker, provider

__all__ = ["provider"]

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SERVER, CLIENT = 2, 3


@pytest.fixture
def collector():
    with playing() as collector:
        yield collector


class Stack:
    """The application and a worker without Celery; tests ring its doorbells."""

    def __init__(self, environment, keys, provider):
        settings = load_settings(environment)
        self.provider = provider
        self.key = keys.service
        self.api = Api(create_app("web", settings))
        be_patient(self.api.services.database)
        self.worker = patient_worker(settings)
        self.worker.start()

    def post(self, content, **options):
        session = self.api.session(self.key, user="alice")
        return UUID(self.api.turn(self.key, session, content, **options))

    def run(self, content, **options):
        """Post a turn and run it to its end."""
        turn = self.post(content, **options)
        thread = threading.Thread(target=self.worker.runner.run, args=(turn, ""))
        thread.start()
        thread.join(LIMIT_SECONDS)
        assert not thread.is_alive()
        return turn

    def status(self, turn):
        return self.api.get(f"/v1/turns/{turn}", self.key).json["status"]

    def asked(self, contains):
        """Return what the provider was asked."""
        found = httpx.get(f"{self.provider}/_log", params={"contains": contains}).json()["data"]
        assert len(found) == 1
        return found[0]

    def close(self):
        self.worker.stop()
        self.api.services.close()


@pytest.fixture
def recorders(collector, monkeypatch):
    """What a test's application and worker record with. In a process it ends with that: here, with the test.

    With its collector gone it would try again for a minute, in a thread that draws random numbers beside later tests.
    """
    begun = []

    def begin(settings, process):
        begun.append(begin_tracing(settings, process))
        return begun[-1]

    for module in ("api.app", "worker.main"):
        monkeypatch.setattr(f"{module}.begin_tracing", begin)
    yield begun
    for recorder in filter(None, begun):
        recorder.stop()
    for recorder in filter(None, begun):
        if recorder._thread is not None:
            recorder._thread.join(LIMIT_SECONDS)
            assert not recorder._thread.is_alive()


@pytest.fixture
def start(environment, keys, provider, recorders):
    stacks = []

    def start(**variables):
        stacks.append(
            Stack(
                {**environment, **LONG_LEASES, "SCRIPTED_BASE_URL": f"{provider}/v1", **variables},
                keys,
                provider,
            )
        )
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.close()


@pytest.fixture
def traced(start, collector):
    return start(OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/")


def the_only(collector, name, **attributes):
    """Return the span of a name, as soon as it has arrived."""
    (span,) = collector.await_spans(lambda: collector.named(name, **attributes), name)
    return span


def traceparent(sampled="01"):
    return {"headers": {"traceparent": f"00-{TRACE}-{CALLER}-{sampled}"}}


def test_a_turn_is_one_trace_from_the_clients_request_to_the_provider(traced, collector):
    turn = traced.run("[[text=first]] traced", **traceparent())
    # Web and worker send their own, each when it comes to it.
    request, whole, attempt, claim, call, settle = (
        the_only(collector, name)
        for name in (
            "POST /v1/sessions/<session_id>/turns",
            "turn",
            "attempt",
            "claim",
            "chat scripted",
            "settle",
        )
    )

    assert {span.trace for span in (request, whole, attempt, claim, call, settle)} == {TRACE}
    assert (request.parent, whole.parent, attempt.parent) == (CALLER, request.id, whole.id)
    assert {claim.parent, call.parent, settle.parent} == {attempt.id}
    assert (request.kind, call.kind) == (SERVER, CLIENT)
    assert (
        attempt.began == claim.began <= claim.ended <= call.began < call.ended <= settle.began < attempt.ended
    )
    assert whole.began < attempt.ended
    assert attempt.events == call.events == ["first_token"]
    sent = traced.asked("]] traced")
    assert sent["headers"]["traceparent"] == f"00-{TRACE}-{call.id}-01"

    assert request.attributes["http.response.status_code"] == 202
    assert request.resource["service.name"] == "turnkeeper-web"
    assert call.resource["service.name"] == "turnkeeper-worker"
    assert whole.attributes["turnkeeper.turn.id"] == str(turn)
    assert (whole.attributes["turnkeeper.turn.status"], whole.attributes["turnkeeper.turn.attempts"]) == (
        "completed",
        1,
    )
    assert attempt.attributes["turnkeeper.attempt.outcome"] == "completed"
    port = int(traced.provider.rpartition(":")[2])
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.max_tokens": 4096,
        "gen_ai.response.finish_reasons": ["stop"],
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert expected.items() <= call.attributes.items()
    assert call.attributes["gen_ai.usage.input_tokens"] > 0
    assert call.attributes["gen_ai.usage.output_tokens"] > 0
    assert not any(span.is_error for span in collector.spans)


def test_a_failed_call_is_an_error_with_its_fault(traced, collector):
    traced.run("[[status=401]]")
    whole, attempt, call = (the_only(collector, name) for name in ("turn", "attempt", "chat scripted"))
    for span in (whole, attempt, call):
        assert (span.is_error, span.attributes["error.type"]) == (True, "provider_auth"), span.name
    assert "gen_ai.response.finish_reasons" not in call.attributes
    # Its request came without a trace, so it began one.
    request = the_only(collector, "POST /v1/sessions/<session_id>/turns")
    assert (request.parent, whole.parent) == ("", request.id)


def test_a_turn_that_is_stopped_in_the_queue_and_one_that_nobody_took_are_traces_too(
    traced, collector, as_owner
):
    stopped, overdue = traced.post("[[text=a]]"), traced.post("[[text=b]]")
    traced.api.post(f"/v1/turns/{stopped}/stop", traced.key)
    as_owner("update turnkeeper.turns set claimable_at = now() - interval '1 day' where id = :id", id=overdue)
    for turn, status in ((stopped, "stopped"), (overdue, "expired")):
        wanted = {"turnkeeper__turn__id": str(turn)}
        whole = the_only(collector, "turn", **wanted)
        assert whole.attributes["turnkeeper.turn.status"] == status
        assert whole.attributes["turnkeeper.turn.attempts"] == 0
        assert whole.began < whole.ended <= datetime.now(UTC).timestamp() * 1e9


def test_what_the_client_does_not_record_is_not_recorded_and_still_goes_to_the_provider(traced, collector):
    traced.run("[[text=second]] unsampled", **traceparent(sampled="00"))
    traced.run("[[text=third]] sampled", **traceparent())
    collector.await_spans(lambda: collector.named("turn"), "the turn")
    assert len(collector.named("turn")) == 1
    assert parse_traceparent(traced.asked("]] unsampled")["headers"]["traceparent"]).trace_id == int(
        TRACE, 16
    )
    assert not parse_traceparent(traced.asked("]] unsampled")["headers"]["traceparent"]).is_sampled


@pytest.mark.parametrize("answers", [True, False], ids=["it hangs", "it is away"])
def test_a_collector_that_does_not_answer_changes_nothing(start, answers):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as deaf:  # connects, and nobody ever reads
        port = deaf.getsockname()[1]
        if not answers:
            deaf.close()
        stack = start(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
        assert stack.status(stack.run("[[text=fourth]]")) == "completed"


def test_without_a_collector_the_clients_trace_goes_to_the_provider_as_it_came(start):
    stack = start()
    stack.run("[[text=fifth]] untraced", **traceparent())
    assert stack.asked("]] untraced")["headers"]["traceparent"] == f"00-{TRACE}-{CALLER}-01"
