"""A turn's events as `text/event-stream`, carried by the hub and not by the thread of the request.

Under gunicorn the connection itself goes to the hub. Elsewhere the hub writes into one end of a socket pair
and the response reads the other, so both ways share all of the delivery.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Response, request

from api.caller import Caller
from api.relay import handover
from api.relay.hub import Hub
from api.relay.places import Reader, address_of
from api.relay.store import TurnState
from shared.errors import ProblemCode, RefusedError

HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_LONGEST_CURSOR: Final = 15
"""Digits; more is no number of ours."""
_SILENCE_SECONDS: Final = 60.0
"""Several heartbeats without a byte mean that the hub is gone."""
_PIECE_BYTES: Final = 1 << 16


class _Taken(Response):
    """The answer to a request whose connection is gone; gunicorn then forgets the connection."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer nothing, as flask-sock does."""
        del environ, start_response
        raise StopIteration


def stream_events(
    hub: Hub,
    caller: Caller,
    turn: TurnState,
    *,
    after: int = 0,
    request_id: str = "",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Answer the current request with the turn's events behind `after`, until `done`.

    Args:
        hub: Carries the stream.
        caller: Who reads; the turn is theirs.
        turn: The turn as the row tells it.
        after: The cursor; 0 begins with the first event.
        request_id: For the `X-Request-Id` header.
        headers: More headers of the answer.

    Returns:
        What the view returns; headers that are set on it afterwards may not arrive.

    Raises:
        RefusedError: Too many streams are open.
    """
    all_headers = HEADERS | ({"X-Request-Id": request_id} if request_id else {}) | dict(headers)
    if request.method == "HEAD":
        return Response(headers=all_headers)
    reader = Reader(caller, address_of(request.remote_addr))
    if not hub.has_room(reader):
        raise RefusedError(
            ProblemCode.RATE_LIMITED, "too many streams are open; close some", members={"scope": "streams"}
        )
    hub.start()
    if "gunicorn.socket" in request.environ and handover.can_take(request.environ):
        head = _head(all_headers)
        hub.carry_event_stream(handover.take(request.environ), reader, turn, after=after, head=head)
        return _Taken()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    try:
        hub.carry_event_stream(theirs, reader, turn, after=after)
    except BaseException:
        ours.close()
        raise
    response = Response(_pieces(ours), headers=all_headers)
    response.call_on_close(ours.close)
    return response


def parse_cursor(text: str | None) -> int:
    """Read a `Last-Event-ID`; what no stream of ours has sent means the beginning."""
    is_number = text is not None and text.isascii() and text.isdigit() and len(text) <= _LONGEST_CURSOR
    return int(text) if text is not None and is_number else 0


def _head(headers: dict[str, Any]) -> bytes:
    """Write the status line and the headers; the body ends with the connection (RFC 9112 section 6.3)."""
    status = HTTPStatus.OK
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def _pieces(sock: socket.socket) -> Iterator[bytes]:
    """Yield what the hub writes; closing the response closes the stream."""
    sock.settimeout(_SILENCE_SECONDS)
    try:
        while piece := sock.recv(_PIECE_BYTES):
            yield piece
    except TimeoutError:
        return
