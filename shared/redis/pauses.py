"""Pauses between attempts to reach Redis: each longer than the last, up to a bound, and spread by chance.

A server that refuses lets us connect at once. So not a connection ends a row of pauses, but one that lasted.
"""

import random
from collections.abc import Callable
from time import monotonic
from typing import Final

FIRST_SECONDS: Final = 0.05
LONGEST_SECONDS: Final = 2.0
"""The longest pause, and so the longest wait of anybody once Redis serves again."""
_LASTING_SECONDS: Final = 5.0
"""A connection that lasted this long served."""


class Pauses:
    """The pauses of one connection's owner.

    Args:
        now: A monotonic clock, in seconds.
        share: Returns what share of a pause is taken, from 0.5 to 1, so that many do not come back at once.
    """

    def __init__(
        self,
        now: Callable[[], float] = monotonic,
        share: Callable[[], float] = lambda: random.uniform(0.5, 1.0),  # noqa: S311 -- protects nothing
    ) -> None:
        self._now = now
        self._share = share
        self._next = FIRST_SECONDS
        self._connected_at: float | None = None

    def connected(self) -> None:
        """Note that there is a connection."""
        self._connected_at = self._now()

    def after_loss(self) -> float:
        """Return the seconds to wait now that a connection was lost, or could not be made."""
        connected_at, self._connected_at = self._connected_at, None
        if connected_at is not None and self._now() - connected_at >= _LASTING_SECONDS:
            self._next = FIRST_SECONDS
        pause, self._next = self._next, min(self._next * 2, LONGEST_SECONDS)
        return pause * self._share()
