"""What a loop does that PostgreSQL refuses: it goes on, counts each round, and logs few of them.

Whatever a statement answers is an outage for such a loop. Others depend on it, and the next round may succeed.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Final

from shared.errors import UnavailableError
from shared.metrics.registry import Counter

LOG_SECONDS: Final = 30.0
"""Between two log lines of an outage that lasts: rounds are seconds apart."""


class Outages:
    """The failed rounds of one loop; belongs to its thread.

    Args:
        log: Receives a line for few of an outage's rounds (the first, the second, the fourth and so on, and one each
            half minute), and one when it is over.
        what: What did not happen, for the log.
        counter: Counts the rounds that failed.
        now: The monotonic clock.
    """

    def __init__(
        self, log: logging.Logger, what: str, counter: Counter, now: Callable[[], float] = monotonic
    ) -> None:
        self._log = log
        self._what = what
        self._counter = counter
        self._now = now
        self._failed = 0
        self._logged_at = 0.0

    def failed(self, error: BaseException) -> None:
        """Note that a round failed; an error that is no known outage is logged with its traceback."""
        self._failed += 1
        self._counter.add()
        is_early = self._failed & (self._failed - 1) == 0  # 1, 2, 4, 8 and so on
        if not is_early and self._now() - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = self._now()
        known = isinstance(error, UnavailableError)
        self._log.warning(
            "%s: %s",
            self._what,
            error if known else type(error).__name__,
            exc_info=None if known else error,
            extra={"rounds": self._failed},
        )

    def passed(self) -> None:
        """Note that a round succeeded."""
        if self._failed:
            self._log.info("the database serves again", extra={"rounds": self._failed})
            self._failed = 0
