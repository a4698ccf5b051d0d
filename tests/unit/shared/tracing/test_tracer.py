"""What sends spans: bounded, and no wait for anybody. The one socket here is a collector that hangs."""

import socket
import subprocess
import sys

import pytest

from shared.configuration.settings import load_settings
from shared.errors import SettingsError
from shared.tracing import tracer
from shared.tracing.context import TraceContext
from shared.tracing.span import Span
from tests.collector import playing

SERVERS = {
    "DATABASE_URL": "postgresql://app@127.0.0.1/tk",
    "REDIS_URL": "redis://127.0.0.1",
    "ANTHROPIC_API_KEY": "sk-ant-test",
}
OFF = """
import sys
import api.app, worker.main, turnkeeper.cli
from shared.configuration.settings import load_settings
from shared.tracing.begin import begin_tracing
settings = load_settings({"DATABASE_URL": "postgresql://a@h/d", "REDIS_URL": "redis://h", "ANTHROPIC_API_KEY": "k"})
assert begin_tracing(settings, "worker") is None
# redis-py itself looks whether OpenTelemetry's metrics are installed.
ours = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "sentry_sdk", "requests", "shared.tracing.tracer")
print(sorted(name for name in sys.modules if name.startswith(ours)))
"""


def span(number=1):
    return Span("a span", TraceContext(7, number, True), None, 1, 2, attributes={"number": number})


def test_without_a_collector_nothing_that_sends_is_imported():
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_collector_that_hangs_holds_up_neither_a_turn_nor_the_end_of_the_process(monkeypatch):
    monkeypatch.setattr(tracer, "LAST_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as deaf:
        recorder = tracer.Tracer(f"http://127.0.0.1:{deaf.getsockname()[1]}", "worker")
        for number in range(1, 3 * tracer.MOST_WAITING):
            recorder.record(span(number))
        assert len(recorder._waiting) <= tracer.MOST_WAITING
        recorder.stop()
        assert recorder._thread.is_alive()  # the first request still has most of its minute
    recorder._thread.join(60)
    assert not recorder._thread.is_alive()


def test_the_last_spans_are_sent_at_the_end_and_later_ones_are_not_kept():
    with playing() as collector:
        recorder = tracer.Tracer(collector.url, "worker")
        recorder.record(span())
        recorder.stop()
        recorder.record(span(2))
        assert [seen.attributes["number"] for seen in collector.spans] == [1]
        assert not recorder._waiting


def test_who_samples_is_named_by_the_standard_variable(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    recorder = tracer.Tracer("http://127.0.0.1:9", "web")
    assert not recorder.begin(None).is_sampled
    assert recorder.begin(TraceContext(7, 1, True)).is_sampled


def test_a_collector_needs_the_package_and_a_base_url(monkeypatch):
    with pytest.raises(SettingsError, match="base URL of a collector"):
        load_settings({**SERVERS, "OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318"})
    monkeypatch.setattr("shared.configuration.environment.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"pip install 'turnkeeper\[otel\]'"):
        load_settings({**SERVERS, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
