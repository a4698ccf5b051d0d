"""Whether and when something is tried again.

A refusal that is certain to have changed nothing is tried again for every call. What may have been done is tried
again only where doing it twice is the same as doing it once.
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
    {"rate_limited", "too_many_turns", "queue_full", "idempotency_in_progress"}
)
"""Codes that say that nothing was done and that waiting helps."""
MAYBE_DONE: Final = frozenset({"unavailable", "internal"})
"""Codes after which the request may have been carried out."""
PASSING_STATUSES: Final = frozenset({408, 500, 502, 503, 504})
"""Of something between client and service, which has no `code`."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How hard the client tries.

    Attributes:
        tries: Of one call, the first included.
        limit_seconds: For all tries of one call and the pauses between them.
        answer_seconds: For one try.
        first_pause_seconds: The pause is drawn from 0 to this, then to twice this, and so on (full jitter).
        longest_pause_seconds: Where that doubling ends.
        reconnect_seconds: How long a stream may be without progress while its connection fails.
        crowded_pause_seconds: Before a stream is opened again that was closed since there are too many.
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
        """Return the pause after so many failures in a row; never shorter than the service asked for."""
        ceiling = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(failures - 1, 32))
        return at_least + dice.uniform(0, self.first_pause_seconds if at_least else ceiling)


@dataclass(slots=True)
class Tries:
    """The tries of one call: counts them and says how long to wait for the next."""

    policy: RetryPolicy
    clock: Clock
    dice: random.Random
    limit_seconds: float | None = None
    failures: int = 0
    _ends_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._ends_at = self.clock() + (self.limit_seconds or self.policy.limit_seconds)

    def remaining_seconds(self) -> float:
        """Return what is left for the whole call."""
        return max(0.0, self._ends_at - self.clock())

    def next_pause(self, retry_after: float | None) -> float | None:
        """Count a failure; return the seconds to wait before the next try, None when it was the last."""
        self.failures += 1
        wait = self.policy.pause_seconds(self.failures, self.dice, retry_after or 0.0)
        # A try that could only begin at the very end is none.
        return wait if self.failures < self.policy.tries and wait < self.remaining_seconds() else None


@dataclass(slots=True)
class Reconnects:
    """The connections of one stream: any progress begins the count anew."""

    policy: RetryPolicy
    clock: Clock
    dice: random.Random
    failures: int = 0
    _lost_at: float | None = None

    def progress(self) -> None:
        """Note that the stream brought something."""
        self.failures, self._lost_at = 0, None

    def next_pause(self, retry_after: float | None = None) -> float | None:
        """Count a lost connection; return the seconds to wait before the next, None to give up."""
        now = self.clock()
        self._lost_at = now if self._lost_at is None else self._lost_at
        self.failures += 1
        wait = self.policy.pause_seconds(self.failures, self.dice, retry_after or 0.0)
        return wait if now + wait - self._lost_at <= self.policy.reconnect_seconds else None


def may_retry(error: ApiError, *, is_repeatable: bool) -> bool:
    """Say whether a refused request may be sent again.

    Args:
        error: The refusal; one without a `code` comes from something in between.
        is_repeatable: Whether sending it twice is the same as sending it once.
    """
    if error.code in REFUSED_FOR_NOW or (not error.code and error.status == 429):
        return True
    is_passing = error.code in MAYBE_DONE if error.code else error.status in PASSING_STATUSES
    return is_repeatable and is_passing


def retry_after_of(headers: Mapping[str, str], problem: Mapping[str, object], now: datetime) -> float | None:
    """Return the seconds that the service asks to wait, the more exact figure first; None where it says none.

    Args:
        headers: With names in lower case; `retry-after` is seconds or a date (RFC 9110 section 10.2.3).
        problem: The body, which may have `retry_after_ms`.
        now: The present time, for a date.
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
