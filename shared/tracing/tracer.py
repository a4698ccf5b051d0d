"""Sends spans to an OpenTelemetry collector over HTTP, from a thread of its own.

At the end of a process the SDK's batch processor waits half a minute for a collector that hangs, and it logs each
failed batch with the collector's own words; so the queue and the thread are ours. Encoding, sampling and sending are
the SDK's.
"""

import atexit
import logging
import os
import threading
from collections import deque
from time import monotonic
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared.tracing.context import TraceContext
from shared.tracing.span import Kind, Span

_log = logging.getLogger("turnkeeper.traces")

MOST_WAITING: Final = 4096
"""About 4 MB; the oldest is dropped first."""
MOST_AT_ONCE: Final = 512
EVERY_SECONDS: Final = 1.0
LAST_SECONDS: Final = 2.0
"""How long the process waits for the last spans when it ends."""
_TOLD_SECONDS: Final = 60.0
_SCOPE: Final = InstrumentationScope("turnkeeper")
_KINDS: Final = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}


class Tracer:
    """A `Recorder` whose thread starts with the first span.

    The SDK's own variables apply: OTEL_EXPORTER_OTLP_HEADERS, _TIMEOUT and _CERTIFICATE, OTEL_SERVICE_NAME,
    OTEL_RESOURCE_ATTRIBUTES and OTEL_TRACES_SAMPLER.

    Args:
        endpoint: The collector's base URL.
        process: `web`, `relay` or `worker`.
    """

    def __init__(self, endpoint: str, process: str) -> None:
        # The SDK would log the collector's answers, which are not ours to repeat (I10); `_tell` logs what was lost.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"turnkeeper-{process}"}
        self._resource = Resource.create({"service.namespace": "turnkeeper", **named})
        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        self._sampler, self._ids = provider.sampler, provider.id_generator
        self._url = f"{endpoint}/v1/traces"
        self._waiting: deque[Span] = deque(maxlen=MOST_WAITING)
        self._changed = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._exporter: OTLPSpanExporter | None = None
        self._pid = 0
        self._is_closed = False
        self._lost = 0
        self._told_at = monotonic() - _TOLD_SECONDS

    def begin(self, parent: TraceContext | None) -> TraceContext:
        """Return the context of a new span."""
        span_id = self._ids.generate_span_id()
        if parent is None:
            trace_id = self._ids.generate_trace_id()
            return TraceContext(trace_id, span_id, self.samples(trace_id))
        return TraceContext(parent.trace_id, span_id, parent.is_sampled)

    def samples(self, trace_id: int) -> bool:
        """Ask OTEL_TRACES_SAMPLER."""
        decision = self._sampler.should_sample(None, trace_id, "").decision
        return bool(decision.is_sampled())  # type: ignore[no-untyped-call]

    def record(self, span: Span) -> None:
        """Queue a span."""
        if not span.context.is_sampled or self._is_closed:
            return
        if self._pid != os.getpid():
            self._start()
        if len(self._waiting) == MOST_WAITING:
            self._lost += 1
        self._waiting.append(span)
        if len(self._waiting) >= MOST_AT_ONCE:
            self._changed.set()

    def stop(self) -> None:
        """Send what is queued, for at most two seconds."""
        self._is_closed = True
        thread, exporter = self._thread, self._exporter
        if thread is None or exporter is None or self._pid != os.getpid():
            return
        self._changed.set()
        thread.join(LAST_SECONDS)
        exporter.shutdown()  # type: ignore[no-untyped-call]
        atexit.unregister(self.stop)

    def _start(self) -> None:
        """Start the thread, once per process: a fork copies the object but not its thread."""
        with self._starting:
            if self._pid == os.getpid():
                return
            self._waiting.clear()
            self._exporter = OTLPSpanExporter(endpoint=self._url)
            self._thread = threading.Thread(
                target=self._run, args=(self._exporter,), name="traces", daemon=True
            )
            self._thread.start()
            atexit.register(self.stop)
            self._pid = os.getpid()

    def _run(self, exporter: OTLPSpanExporter) -> None:
        while not self._is_closed:
            self._changed.wait(EVERY_SECONDS)
            self._changed.clear()
            self._send(exporter)
        self._send(exporter)

    def _send(self, exporter: OTLPSpanExporter) -> None:
        while self._waiting:
            spans = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
            try:
                result = exporter.export([self._readable(span) for span in spans])
            except Exception as error:  # noqa: BLE001 -- whatever it was: these spans are lost, the next may not be
                _log.debug("spans could not be sent: %s", type(error).__name__)
                result = SpanExportResult.FAILURE
            if result is not SpanExportResult.SUCCESS:
                self._lost += len(spans)
            self._tell()

    def _tell(self) -> None:
        """Log how many spans were lost, at most once a minute."""
        if self._lost and monotonic() - self._told_at >= _TOLD_SECONDS:
            _log.warning("the trace collector did not take all spans", extra={"lost": self._lost})
            self._lost, self._told_at = 0, monotonic()

    def _readable(self, span: Span) -> ReadableSpan:
        error = {"error.type": span.error} if span.error else {}
        return ReadableSpan(
            span.name,
            context=_sdk_context(span.context, is_remote=False),
            parent=None if span.parent is None else _sdk_context(span.parent, is_remote=True),
            resource=self._resource,
            attributes={**span.attributes, **error},
            events=[Event(name, timestamp=moment) for name, moment in span.events],
            kind=_KINDS[span.kind],
            instrumentation_scope=_SCOPE,
            status=Status(StatusCode.ERROR if span.error else StatusCode.UNSET),
            start_time=span.began_ns,
            end_time=span.ended_ns,
        )


def _sdk_context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    flags = TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT
    return SpanContext(context.trace_id, context.span_id, is_remote, TraceFlags(flags))
