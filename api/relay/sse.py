"""Answers a request with a turn's events as `text/event-stream`, sent by the hub instead of the request's thread.

Under gunicorn the connection itself is handed to the hub. Elsewhere the hub writes into one end of a socket pair
and the response reads the other, so that both ways share the whole delivery.
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
"""Digits of a cursor; none of our numbers has more."""
_SILENCE_SECONDS: Final = 60.0
"""If no byte arrives for several heartbeats, the hub is gone."""
_PIECE_BYTES: Final = 1 << 16


class _Taken(Response):
    """The response to a request whose connection was taken; gunicorn then forgets the connection."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Return no body, as flask-sock does."""
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
    """Answer the current request with the turn's events after the cursor `after`, until `done`.

    Args:
        hub: Carries the stream.
        caller: Who reads; the turn must be the caller's.
        turn: The turn as its row shows it.
        after: The cursor; 0 begins with the first event.
        request_id: For the `X-Request-Id` header.
        headers: More headers of the response.

    Returns:
        The response for the view to return; headers set on it afterwards may not arrive.

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
    """Parse a `Last-Event-ID`; a value that none of our streams can have sent means the beginning."""
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
