"""Whether a call that failed before any text is tried again, and after how long.

One layer retries: this one. It keeps to the provider's own word where it gives one, spreads the rest
by full jitter (AWS Architecture Blog, "Exponential Backoff and Jitter"), and never outlives the turn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from shared.errors import Fault

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
"""How often each fault is tried again; any other says that the same request would fail the same way."""


@dataclass(frozen=True, slots=True)
class Retries:
    """The rule of one attempt.

    Args:
        random: Gives numbers from 0 to 1.
    """

    random: Callable[[], float]

    def wait_before(
        self, fault: Fault, *, tries: int, retry_after_ms: int | None, seconds_left: float
    ) -> float | None:
        """Return the seconds to wait before the next call, or None to end with the fault.

        Args:
            fault: Why the call failed.
            tries: Calls made so far, at least 1.
            retry_after_ms: What the provider asked for.
            seconds_left: Until the turn's deadline.
        """
        if tries > _RETRIES.get(fault, 0):
            return None
        if retry_after_ms is not None:
            wait = retry_after_ms / 1000
        elif fault is Fault.PROVIDER_RATE_LIMITED:
            return None  # a limit that does not say when it ends is a spending limit, not a rate
        else:
            ceiling = min(_MOST_SECONDS, _LEAST_SECONDS * 4.0**tries)
            wait = _LEAST_SECONDS + self.random() * (ceiling - _LEAST_SECONDS)
        return wait if wait < seconds_left else None
