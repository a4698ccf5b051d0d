"""Answers a request with a turn's events as `text/event-stream`, sent by the hub instead of the request's thread.

Under gunicorn the connection itself is handed to the hub. Elsewhere the hub writes into one end of a socket pair
and the response reads the other, so that both ways share the whole delivery.

The body is chunked, and only a stream that ended with `done` has a last chunk. There is no `Connection: close` either:
with it some clients, Node's among them, take any end for the proper one.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

from flask import Response, request

from api.caller import Caller
from api.relay import handover
from api.relay.event_stream import EventStream
from api.relay.hub import Hub
from api.relay.places import Reader, address_of
from api.relay.store import TurnState
from shared.errors import ProblemCode, RefusedError, UnavailableError

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
TRY_AGAIN_MS: Final = 5_000
"""After a refusal for want of a place: some stream or wait ends in that time."""


class Taken(Response):
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
    hub.start()
    if not hub.take_stream_place(reader):
        raise no_room()
    environ = request.environ
    if "gunicorn.socket" not in environ or not handover.can_take(environ):
        return _through_response(hub, reader, turn, after, all_headers)
    is_chunked = handover.takes_chunks(environ)
    may_continue = is_chunked and hub.gives_back() and handover.may_continue(environ)
    try:
        head = _head(all_headers, is_chunked=is_chunked)
        taken = handover.take(environ)
    except BaseException:
        hub.give_stream_place_back(reader)
        raise
    hub.carry_event_stream(
        taken, reader, turn, after=after, head=head, is_chunked=is_chunked, may_continue=may_continue
    )
    return Taken()


def no_room() -> RefusedError:
    """Return the refusal of a stream for which there is no place."""
    return RefusedError(
        ProblemCode.RATE_LIMITED,
        "too many streams are open: close some",
        retry_after_ms=TRY_AGAIN_MS,
        members={"scope": "streams"},
    )


def parse_cursor(text: str | None) -> int:
    """Parse a `Last-Event-ID`; a value that none of our streams can have sent means the beginning."""
    is_number = text is not None and text.isascii() and text.isdigit() and len(text) <= _LONGEST_CURSOR
    return int(text) if text is not None and is_number else 0


def _head(headers: dict[str, Any], *, is_chunked: bool) -> bytes:
    """Write the head; without chunks the body ends with the connection (RFC 9112 section 6.3)."""
    framing = "Transfer-Encoding: chunked" if is_chunked else "Connection: close"
    status = HTTPStatus.OK
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Date: {formatdate(usegmt=True)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return "\r\n".join([*lines, framing, "", ""]).encode("latin-1")


def _through_response(
    hub: Hub, reader: Reader, turn: TurnState, after: int, headers: dict[str, str]
) -> Response:
    """Stream by the server's own response, which frames it."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    opened: list[EventStream] = []
    try:
        hub.carry_event_stream(theirs, reader, turn, after=after, opened=opened.append)
    except BaseException:
        ours.close()
        raise
    response = Response(_pieces(ours, opened), headers=headers)
    response.call_on_close(ours.close)
    return response


def _pieces(sock: socket.socket, opened: list[EventStream]) -> Iterator[bytes]:
    """Yield what the hub writes; closing the response closes the stream.

    Raises:
        UnavailableError: The stream was broken off. The server then breaks the response off as well.
    """
    sock.settimeout(_SILENCE_SECONDS)
    try:
        while piece := sock.recv(_PIECE_BYTES):
            yield piece
    except (TimeoutError, ConnectionError) as error:
        raise UnavailableError("the relay is gone") from error
    if not any(stream.is_whole for stream in opened):
        raise UnavailableError("the relay broke a stream off")
