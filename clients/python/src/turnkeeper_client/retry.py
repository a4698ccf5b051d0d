"""Whether and when something is tried again.

A refusal that certainly changed nothing is tried again for every call. What may have been done is tried again only if
doing it twice has the same effect as doing it once.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from turnkeeper_client.errors import ApiError

Clock = Callable[[], float]
"""Seconds that only grow, such as `time.monotonic`."""

REFUSED_FOR_NOW: Final = frozenset(
    {"rate_limited", "too_many_turns", "queue_full", "idempotency_in_progress", "request_timeout"}
)
"""Codes that mean that nothing was done and that waiting helps."""
MAYBE_DONE: Final = frozenset({"unavailable", "internal"})
"""Codes after which the request may have been carried out."""
PASSING_STATUSES: Final = frozenset({408, 500, 502, 503, 504})
"""Statuses from something between client and service, whose responses have no `code`."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard the client tries.

    Attributes:
        tries: How often one call is sent at most.
        limit_seconds: The limit for all tries of one call and the pauses between them.
        answer_seconds: The limit for one try.
        first_pause_seconds: The pause is drawn from 0 to this, then to twice this, and so on (full jitter).
        longest_pause_seconds: The end of that doubling.
        reconnect_seconds: How long a stream may go without progress while its connection fails.
        crowded_pause_seconds: The pause before reopening a stream that was closed because there were too many.
    """

    tries: int = 6
    limit_seconds: float = 60.0
    answer_seconds: float = 20.0
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 8.0
    reconnect_seconds: float = 60.0
    crowded_pause_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be at least 1, not {self.tries}")
        for name in ("limit_seconds", "answer_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")

    def pause_seconds(self, failures: int, dice: random.Random, at_least: float = 0.0) -> float:
        """Return the pause after this many consecutive failures; never shorter than the service asked for."""
        ceiling = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(failures - 1, 32))
        return at_least + dice.uniform(0, self.first_pause_seconds if at_least else ceiling)


@dataclass(slots=True)
class Tries:
    """The tries of one call: counts them and computes the pause before the next."""

    policy: RetryPolicy
    clock: Clock
    dice: random.Random
    limit_seconds: float | None = None
    failures: int = 0
    _ends_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._ends_at = self.clock() + (self.limit_seconds or self.policy.limit_seconds)

    def remaining_seconds(self) -> float:
        """Return the time that is left for the whole call."""
        return max(0.0, self._ends_at - self.clock())

    def next_pause(self, retry_after: float | None) -> float | None:
        """Count a failure; return the seconds to wait before the next try, None if it was the last."""
        self.failures += 1
        wait = self.policy.pause_seconds(self.failures, self.dice, retry_after or 0.0)
        # A try that could only begin at the very end does not count.
        return wait if self.failures < self.policy.tries and wait < self.remaining_seconds() else None


@dataclass(slots=True)
class Reconnects:
    """The connections of one stream: any progress starts the count again."""

    policy: RetryPolicy
    clock: Clock
    dice: random.Random
    failures: int = 0
    _lost_at: float | None = None

    def progress(self) -> None:
        """Note that the stream made progress."""
        self.failures, self._lost_at = 0, None

    def next_pause(self, retry_after: float | None = None) -> float | None:
        """Count a lost connection; return the seconds to wait before the next, None to give up."""
        now = self.clock()
        self._lost_at = now if self._lost_at is None else self._lost_at
        self.failures += 1
        wait = self.policy.pause_seconds(self.failures, self.dice, retry_after or 0.0)
        return wait if now + wait - self._lost_at <= self.policy.reconnect_seconds else None


def may_retry(error: ApiError, *, is_repeatable: bool) -> bool:
    """Return whether a refused request may be sent again.

    Args:
        error: The refusal; one without a `code` comes from something between client and service.
        is_repeatable: Whether sending it twice has the same effect as sending it once.
    """
    if error.code in REFUSED_FOR_NOW or (not error.code and error.status == 429):
        return True
    is_passing = error.code in MAYBE_DONE if error.code else error.status in PASSING_STATUSES
    return is_repeatable and is_passing


def retry_after_of(headers: Mapping[str, str], problem: Mapping[str, object], now: datetime) -> float | None:
    """Return the seconds that the service asks to wait, from the more exact figure; None if it does not ask.

    Args:
        headers: With names in lower case; `retry-after` is seconds or a date (RFC 9110 section 10.2.3).
        problem: The body, which may have `retry_after_ms`.
        now: The current time, for a date.
    """
    exact = problem.get("retry_after_ms")
    if type(exact) is int and exact >= 0:
        return exact / 1000
    said = headers.get("retry-after", "").strip()
    if said.isascii() and said.isdigit() and len(said) <= 9:
        return float(said)
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())
