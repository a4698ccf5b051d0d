"""Sends responses that are too long for memory: part by part, with a bounded number of threads.

Between two parts only the thread is held: no transaction waits for a client that reads slowly.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from flask import Response, request

from api.relay import handover
from shared.errors import ProblemCode, RefusedError, UnavailableError

PART_SECONDS: Final = 30.0
"""How long a client may take to read a part of some hundred kilobytes."""
WHOLE_SECONDS: Final = 600.0
_TRY_AGAIN_MS: Final = 5_000


class Downloads:
    """Sends a bounded number of downloads at once.

    Args:
        most: How many.
        clock: Monotonic seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = threading.BoundedSemaphore(max(1, most))
        self._clock = clock

    def send(self, parts: Iterator[str], headers: Mapping[str, str]) -> Response:
        """Answer the current request with `parts`, one after another.

        The first part is made before the response begins, so that an error can still be sent as a problem. After
        that, an error breaks the connection off, which a client cannot take for the end.

        Raises:
            RefusedError: The maximum number of downloads is under way.
            UnavailableError: PostgreSQL cannot be reached.
        """
        if not self._places.acquire(blocking=False):
            raise RefusedError(
                ProblemCode.RATE_LIMITED,
                "other downloads are under way: wait and try again",
                retry_after_ms=_TRY_AGAIN_MS,
                members={"scope": "downloads"},
            )
        try:
            first = next(parts, "")
        except BaseException:
            self._places.release()
            raise
        # Without chunks only a reset is not taken for the end: HTTP/1.0 has no other framing here.
        environ = dict(request.environ)
        breaks = not handover.takes_chunks(environ) and handover.can_take(environ)
        sent = _resetting(environ, self._timed(first, parts)) if breaks else self._timed(first, parts)
        answer = Response(sent, headers=dict(headers))
        answer.call_on_close(self._places.release)
        _limit_sending()
        return answer

    def _timed(self, first: str, parts: Iterator[str]) -> Iterator[str]:
        give_up_at = self._clock() + WHOLE_SECONDS
        yield first
        for part in parts:
            if self._clock() > give_up_at:
                raise UnavailableError("a download took too long and was broken off")
            yield part


def _resetting(environ: Mapping[str, Any], parts: Iterator[str]) -> Iterator[str]:
    """Yield `parts`; if they end with an error, reset the connection."""
    is_whole = False
    try:
        yield from parts
        is_whole = True
    finally:
        if not is_whole:
            handover.reset(environ)


def _limit_sending() -> None:
    """Bound how long gunicorn waits for the client; it resets the bound before the next request."""
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        connection.settimeout(PART_SECONDS)
