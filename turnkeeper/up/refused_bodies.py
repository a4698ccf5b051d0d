"""Tells a client that is refused before its body was read that the connection closes, and reads the rest.

A socket that is closed with unread bytes is reset, and the reset overtakes the response: the client sees a broken pipe
instead of the 413. So after the response and the end of our side have been sent, the rest is read for a while.
"""

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wsgi import ClosingIterator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

SMALL_BYTES: Final = 64 * 1024
"""gunicorn itself skips this much and keeps the connection; with more left it closes, and should say so."""
HEARD_BYTES: Final = 16 * 1024 * 1024
"""A client that looks at the response has stopped sending by then."""
HEARD_SECONDS: Final = 2.0
"""Meanwhile it holds a thread, as any slow request does."""
_PART_BYTES: Final = 64 * 1024


def closing_unread(application: "WSGIApplication") -> "WSGIApplication":
    """Return `application`, for gunicorn, so that a body it leaves unread does not cost the client the response."""

    def serve(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        body = environ["wsgi.input"] = Body(environ)
        is_unread = False

        def started(status: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal is_unread
            if body.unread_bytes > SMALL_BYTES:
                is_unread = True
                # A header would not do: gunicorn alone may set headers about the connection.
                start_response.__self__.force_close()  # type: ignore[attr-defined]
            return start_response(status, headers, exc_info)

        answer = application(environ, started)
        if not is_unread:
            return answer
        return ClosingIterator(answer, lambda: hear_out(environ["gunicorn.socket"]))

    return serve


class Body:
    """A request's body that knows how much of it has not been read."""

    def __init__(self, environ: "WSGIEnvironment") -> None:
        self._stream: InputStream = environ["wsgi.input"]
        is_endless = "HTTP_TRANSFER_ENCODING" in environ
        self.unread_bytes: float = float("inf") if is_endless else int(environ.get("CONTENT_LENGTH") or 0)
        """Infinite until the end of a body of unknown length has been seen."""

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes."""
        return self._read(self._stream.read(size), is_whole=size < 0, is_asked=size != 0)

    def readline(self, size: int = -1, /) -> bytes:
        """Read a line."""
        return self._read(self._stream.readline(size), is_whole=False, is_asked=size != 0)

    def is_alone(self) -> bool:
        """Return whether the request was read to its end, and nothing of what the client sends after it."""
        buffered: bytes = self._stream.reader.unreader.buf.getvalue()  # type: ignore[attr-defined]
        return not self.unread_bytes and not buffered

    def _read(self, read: bytes, *, is_whole: bool, is_asked: bool) -> bytes:
        is_over = is_whole or (is_asked and not read)
        self.unread_bytes = 0 if is_over else self.unread_bytes - len(read)
        return read


def hear_out(connection: socket.socket) -> None:
    """End our side of a connection and read the rest, within limits; afterwards nothing is read or written."""
    give_up_at = time.monotonic() + HEARD_SECONDS
    heard = 0
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while heard < HEARD_BYTES and (left := give_up_at - time.monotonic()) > 0:
            connection.settimeout(left)
            part = connection.recv(_PART_BYTES)
            if not part:
                return
            heard += len(part)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # gunicorn would continue to read, in the thread that accepts
