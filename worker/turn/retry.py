"""Decides whether a failed call is repeated, and after how long.

Before any text the call is repeated in the same attempt, after that in another one. No other layer retries. A wait
is what the provider asks for, or else is spread by full jitter (AWS Architecture Blog, "Exponential Backoff and
Jitter"), and never outlives the turn. Retries are bounded for all turns together, so that they cannot drown a
provider that is already overloaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from shared.errors import Fault

MOST_ATTEMPTS: Final = 3
"""How often a turn is tried, not counting attempts that were handed back."""

_LEAST_SECONDS: Final = 0.2
_MOST_SECONDS: Final = 4.0

_RETRIES: Final[Mapping[Fault, int]] = MappingProxyType(
    {
        Fault.PROVIDER_UNREACHABLE: 2,
        Fault.PROVIDER_OVERLOADED: 2,
        Fault.PROVIDER_RATE_LIMITED: 2,
        # A stream that ended before it began, or stayed silent for too long, may have cost its input.
        Fault.PROVIDER_PROTOCOL: 1,
        Fault.PROVIDER_TIMEOUT: 1,
    }
)
"""How often each fault is retried before any text; with any other the same request would fail the same way."""

_MOST_RETRIES: Final = max(_RETRIES.values())

# Finagle's defaults for a retry budget: a fifth of the calls, and ten a second for callers with few calls.
_SHARE: Final = 0.2
_FREE_PER_SECOND: Final = 10.0
_MOST_SAVED: Final = 100.0


class RetryBudget:
    """How many retries all turns of a process may still make. Belongs to one thread.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._saved = _MOST_SAVED
        self._at = clock()

    def note_call(self) -> None:
        """Count a call: a share of all calls may be repeated."""
        self._earn(_SHARE)

    def take(self) -> bool:
        """Take one retry; False if none is left."""
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
        random: Returns numbers from 0 to 1.
        budget: How many retries all turns together may use.
    """

    random: Callable[[], float]
    budget: RetryBudget

    def wait_before(
        self,
        fault: Fault,
        *,
        tries: int,
        retry_after_ms: int | None,
        seconds_left: float,
        may_repeat: bool | None = None,
    ) -> float | None:
        """Return the seconds to wait before the next call of an attempt, or None to end with the fault.

        Args:
            fault: Why the call failed.
            tries: Calls made so far, at least 1.
            retry_after_ms: How long the provider asked us to wait.
            seconds_left: Until the turn's deadline.
            may_repeat: Whether the same request may succeed a moment later; None if the fault's kind says so.
        """
        retries = _RETRIES.get(fault, 0) if may_repeat is None else _MOST_RETRIES * may_repeat
        if tries > retries:
            return None
        return self._wait(fault, tries, retry_after_ms, seconds_left)

    def wait_before_attempt(
        self, fault: Fault, *, attempts: int, retry_after_ms: int | None, seconds_left: float
    ) -> float | None:
        """Return the seconds to wait before the next attempt at a turn whose text broke off, or None.

        Args:
            fault: Why it broke off; the caller knows that the fault is passing.
            attempts: Attempts made so far, at least 1.
            retry_after_ms: How long the provider asked us to wait.
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
