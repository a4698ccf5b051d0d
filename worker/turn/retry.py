"""Whether a call that failed is made again, and after how long.

Before any text that is in the same attempt, after it as another one. One layer retries: this one. It keeps
to the provider's own word where it gives one, spreads the rest by full jitter (AWS Architecture Blog,
"Exponential Backoff and Jitter"), never outlives the turn, and is bounded for all turns together, so that
retries cannot drown a provider that is going under.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from shared.errors import Fault

MOST_ATTEMPTS: Final = 3
"""How often a turn is tried, attempts that were handed back not counted."""

_LEAST_SECONDS: Final = 0.2
_MOST_SECONDS: Final = 4.0

_RETRIES: Final[Mapping[Fault, int]] = MappingProxyType(
    {
        Fault.PROVIDER_UNREACHABLE: 2,
        Fault.PROVIDER_OVERLOADED: 2,
        Fault.PROVIDER_RATE_LIMITED: 2,
        # A stream that ended before it began, or said nothing in time, may have cost its input.
        Fault.PROVIDER_PROTOCOL: 1,
        Fault.PROVIDER_TIMEOUT: 1,
    }
)
"""How often each fault is tried again before any text; any other says that the same request would fail the same way."""

# Finagle's defaults for a retry budget: a fifth of the calls, and ten a second for those who call little.
_SHARE: Final = 0.2
_FREE_PER_SECOND: Final = 10.0
_MOST_SAVED: Final = 100.0


class RetryBudget:
    """How many retries all turns of a process may still make. Belongs to one thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with all that can be saved up."""
        self._clock = clock
        self._saved = _MOST_SAVED
        self._at = clock()

    def note_call(self) -> None:
        """Count a call, of which some may be repeated."""
        self._earn(_SHARE)

    def take(self) -> bool:
        """Take one retry; False when there is none left."""
        self._earn(0.0)
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def _earn(self, amount: float) -> None:
        now = self._clock()
        self._saved = min(_MOST_SAVED, self._saved + amount + (now - self._at) * _FREE_PER_SECOND)
        self._at = now


@dataclass(frozen=True, slots=True)
class Retries:
    """The rule of one process.

    Args:
        random: Gives numbers from 0 to 1.
        budget: What all turns may spend.
    """

    random: Callable[[], float]
    budget: RetryBudget

    def wait_before(
        self, fault: Fault, *, tries: int, retry_after_ms: int | None, seconds_left: float
    ) -> float | None:
        """Return the seconds to wait before the next call of an attempt, or None to end with the fault.

        Args:
            fault: Why the call failed.
            tries: Calls made so far, at least 1.
            retry_after_ms: What the provider asked for.
            seconds_left: Until the turn's deadline.
        """
        if tries > _RETRIES.get(fault, 0):
            return None
        return self._wait(fault, tries, retry_after_ms, seconds_left)

    def wait_before_attempt(
        self, fault: Fault, *, attempts: int, retry_after_ms: int | None, seconds_left: float
    ) -> float | None:
        """Return the seconds to wait before the next attempt at a turn whose text broke off, or None.

        Args:
            fault: Why it did; the caller knows that it is passing.
            attempts: Attempts made so far, at least 1.
            retry_after_ms: What the provider asked for.
            seconds_left: Until the turn's deadline.
        """
        if attempts >= MOST_ATTEMPTS:
            return None
        return self._wait(fault, attempts, retry_after_ms, seconds_left)

    def _wait(
        self, fault: Fault, tries: int, retry_after_ms: int | None, seconds_left: float
    ) -> float | None:
        if retry_after_ms is not None:
            wait = retry_after_ms / 1000
        elif fault is Fault.PROVIDER_RATE_LIMITED:
            return None  # a limit that does not say when it ends is a spending limit, not a rate
        else:
            ceiling = min(_MOST_SECONDS, _LEAST_SECONDS * 4.0**tries)
            wait = _LEAST_SECONDS + self.random() * (ceiling - _LEAST_SECONDS)
        return wait if wait < seconds_left and self.budget.take() else None
