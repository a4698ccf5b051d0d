"""Answers too long for memory: made and sent part by part, by a bounded number of threads.

Between two parts nothing is held but the thread: no transaction waits for a client that reads slowly.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from flask import Response, request

from shared.errors import ProblemCode, RefusedError, UnavailableError

PART_SECONDS: Final = 30.0
"""How long a client may take over a part; a part has some hundred kilobytes."""
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

        The first part is made before the answer begins, so what can be refused still is. Later the
        connection is broken off, which a client cannot take for the end.

        Raises:
            RefusedError: As many downloads are under way as may be.
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
        answer = Response(self._timed(first, parts), headers=dict(headers))
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


def _limit_sending() -> None:
    """Let gunicorn wait for the client for so long only; before the next request it resets that."""
    connection = request.environ.get("gunicorn.socket")
    if isinstance(connection, socket.socket):
        connection.settimeout(PART_SECONDS)
