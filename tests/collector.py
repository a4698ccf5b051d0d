"""A trace collector for tests, over OTLP/HTTP: it keeps what it receives, and every body is searched (I10)."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.marks import leaks

LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Seen:
    """A span as received."""

    name: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    kind: int
    attributes: dict[str, Any]
    events: list[str]
    is_error: bool
    resource: dict[str, Any]


@dataclass
class Collector:
    """Everything that has arrived."""

    url: str
    spans: list[Seen] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def named(self, name: str, **attributes: Any) -> list[Seen]:
        """Return the spans with a name whose attributes, with dots for underscores, have these values."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return [
            span
            for span in list(self.spans)
            if span.name == name and wanted.items() <= span.attributes.items()
        ]

    def await_spans(self, condition: Callable[[], object], what: str) -> Any:
        """Wait for a condition on what has arrived."""
        give_up_at = time.monotonic() + LIMIT_SECONDS
        while not (found := condition()):
            assert time.monotonic() < give_up_at, f"{what}: there are {[span.name for span in self.spans]}"
            threading.Event().wait(0.02)
        return found

    def take(self, body: bytes) -> None:
        """Keep the contents of a request."""
        self.told += leaks(body.decode(errors="replace"))
        sent = ExportTraceServiceRequest.FromString(body)
        for of_resource in sent.resource_spans:
            resource = _values(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [_seen(span, resource) for span in scope.spans]


@contextmanager
def playing() -> Iterator[Collector]:
    """Run a collector that accepts everything; nothing that it receives may contain a secret or content."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
    assert not collector.told, collector.told


def _seen(span: Any, resource: dict[str, Any]) -> Seen:
    return Seen(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.kind,
        _values(span.attributes),
        [event.name for event in span.events],
        span.status.code == span.status.STATUS_CODE_ERROR,
        resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: _value(item.value) for item in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
