"""Records requests as spans, which continue the client's trace and are the parents of turns' spans."""

from time import time_ns
from typing import Final

from flask import Flask, Response, g, request

from api.notices import Ended, Notice
from shared.tracing.context import parse_traceparent
from shared.tracing.span import Kind, Recorder, Span, known
from shared.tracing.turns import record_turn

_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_FAILED: Final = 500


def trace_requests(app: Flask, recorder: Recorder) -> None:
    """Record every request to the API; its own trace context replaces the one that the client sent."""

    def begin() -> None:
        if not request.path.startswith("/v1"):
            return
        parent = parse_traceparent(request.headers.get("traceparent", ""))
        context = recorder.begin(parent)
        g.span = (context, parent, time_ns())
        g.traceparent = context.traceparent()

    def end(response: Response) -> Response:
        if "span" not in g:
            return response
        context, parent, began_ns = g.span
        # Text that a client can make up, such as a path or a method, is in no span.
        method = request.method if request.method in _METHODS else "_OTHER"
        route = request.url_rule.rule if request.url_rule else None
        is_failure = response.status_code >= _FAILED
        recorder.record(
            Span(
                f"{method} {route}" if route else method,
                context,
                parent,
                began_ns,
                time_ns(),
                Kind.SERVER,
                known(
                    {
                        "http.request.method": method,
                        "http.route": route,
                        "http.response.status_code": response.status_code,
                        "url.scheme": "https" if request.is_secure else "http",
                        "turnkeeper.request.id": g.get("request_id"),
                    }
                ),
                error=str(response.status_code) if is_failure else "",
            )
        )
        return response

    app.before_request(begin)
    app.after_request(end)


def trace_end(recorder: Recorder, notice: Notice) -> None:
    """Record a turn that ended while it was waiting."""
    if isinstance(notice, Ended) and notice.turn is not None:
        record_turn(recorder, notice.turn, notice.traceparent)
