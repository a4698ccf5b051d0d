"""Bounds the tickets that a process makes in a minute: for a user, and for an organization.

A ticket lies in Redis until it is used or expires, a minute at most, so without a bound one caller could fill Redis
with them. Each process counts alone, in memory.
"""

import math
import time
from collections.abc import Callable
from typing import Final

from api.caller import Caller
from api.windows import LocalWindows, Window
from shared.errors import ProblemCode, RefusedError

TICKETS_OF_ONE_USER: Final = 300
"""In a minute: a page takes one for each connection, and at most one a second while it cannot connect."""
_MINUTE: Final = 60.0


class TicketLimits:
    """Counts tickets by user and organization.

    Args:
        most_of_organization: In a minute; as many as a relay has streams, all of which may have to reconnect at once.
        clock: Monotonic seconds.
    """

    def __init__(self, most_of_organization: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most_of_organization
        self._windows = LocalWindows(clock)

    def take(self, caller: Caller) -> None:
        """Count a ticket.

        Raises:
            RefusedError: The user or the organization has had its tickets of this minute.
        """
        windows = [("organization", Window(str(caller.organization_id), self._most, _MINUTE))]
        if caller.role == "user":
            name = f"{caller.organization_id}/{caller.user}"
            windows.insert(0, ("user", Window(name, min(TICKETS_OF_ONE_USER, self._most), _MINUTE)))
        counts = self._windows.take([window for _, window in windows])
        for (scope, window), count in zip(windows, counts, strict=True):
            if count.refuses:
                raise RefusedError(
                    ProblemCode.RATE_LIMITED,
                    f"{window.limit} tickets were asked for within a minute: wait and try again",
                    retry_after_ms=math.ceil(count.resets_seconds * 1000),
                    members={"scope": scope, "limit": window.limit, "window_seconds": int(_MINUTE)},
                )
