"""One circuit of a breaker: closed, open or probing, by the share of its calls that failed lately."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from shared.errors import Fault, ProviderError

_WINDOW_SECONDS: Final = 30
_LEAST_CALLS: Final = 20
"""With fewer calls than this in the window, nothing is concluded about the provider."""
_FAILING_SHARE: Final = 0.5
_REFUSALS_IN_A_ROW: Final = 3
"""A revoked key fails every call. A single refusal may come from a filter that one prompt set off."""


class State(Enum):
    """Whether calls are admitted."""

    CLOSED = auto()
    OPEN = auto()
    PROBING = auto()


@dataclass(slots=True)
class _Second:
    """The calls that ended within one second."""

    number: int
    calls: int = 0
    failures: int = 0


class Circuit:
    """Counts calls and their failures, and opens when too many fail.

    Args:
        clock: Monotonic seconds.
        open_seconds: How long it refuses calls before it admits a probe; 0 to refuse nothing.
    """

    __slots__ = (
        "_clock",
        "_fault",
        "_open_seconds",
        "_opened_at",
        "_refused_in_a_row",
        "_seconds",
        "holds_back",
        "state",
    )

    def __init__(self, clock: Callable[[], float], open_seconds: float) -> None:
        self._clock = clock
        self._open_seconds = open_seconds
        self._opened_at = 0.0
        self._seconds: deque[_Second] = deque()
        self._refused_in_a_row = 0
        self._fault = Fault.PROVIDER_OVERLOADED
        self.state = State.CLOSED
        self.holds_back = False
        """Whether the caller that asks now may not probe."""

    def admits(self) -> bool:
        """Return whether a call may begin, be it as a probe."""
        is_due = self._clock() - self._opened_at >= self._open_seconds
        return self.state is State.CLOSED or (self.state is State.OPEN and is_due and not self.holds_back)

    def begin(self) -> bool:
        """Begin a call that is admitted; return whether it is a probe."""
        if self.state is State.CLOSED:
            return False
        self.state = State.PROBING
        return True

    def close(self) -> None:
        """Admit calls again and forget the failures."""
        self.state = State.CLOSED
        self._seconds.clear()
        self._refused_in_a_row = 0

    def probe_again(self) -> None:
        """Make the next call the probe, if this one was: it had no verdict."""
        if self.state is State.PROBING:
            self.state = State.OPEN

    def learn(self, failure: Fault | None, *, is_probe: bool) -> None:
        """Count the verdict of a call: None if the provider served it."""
        if is_probe and self.state is State.PROBING:
            if failure is None:
                self.close()
            else:
                self.open(failure)
        else:
            self.count(failure)

    def count(self, failure: Fault | None, may_open: Callable[[], bool] = lambda: True) -> None:
        """Count a verdict; open if too many calls fail and `may_open`."""
        if self.state is not State.CLOSED:
            return
        now = self._forget_old()
        if not self._seconds or self._seconds[-1].number != now:
            self._seconds.append(_Second(now))
        self._seconds[-1].calls += 1
        self._seconds[-1].failures += failure is not None
        if failure is Fault.PROVIDER_AUTH:
            self._refused_in_a_row += 1
        elif failure is None:
            self._refused_in_a_row = 0
        if failure is not None and self._is_too_much() and may_open():
            self.open(failure)

    def has_called(self) -> bool:
        """Return whether a call ended lately, or the circuit is not closed."""
        self._forget_old()
        return bool(self._seconds) or self.state is not State.CLOSED

    def failures(self) -> int:
        """Return how many calls failed lately; of a circuit that is not closed, as many as opened it at least."""
        return max(self._sums()[1], 0 if self.state is State.CLOSED else _REFUSALS_IN_A_ROW)

    def is_failing(self) -> bool:
        """Return whether at least half of the calls that ended lately failed."""
        calls, failures = self._sums()
        return self.state is not State.CLOSED or (calls > 0 and failures >= calls * _FAILING_SHARE)

    def open(self, failure: Fault) -> None:
        """Refuse calls from now on."""
        self.state = State.OPEN
        self._opened_at = self._clock()
        shown_as_itself = {Fault.PROVIDER_AUTH, Fault.PROVIDER_UNREACHABLE}
        self._fault = failure if failure in shown_as_itself else Fault.PROVIDER_OVERLOADED

    def refusal(self) -> ProviderError:
        """Return the error for a call that is not admitted."""
        left = max(0.0, self._opened_at + self._open_seconds - self._clock())
        if self.state is State.PROBING or self.holds_back:
            left = self._open_seconds  # the probe's result is not known yet
        detail = "the model provider failed again and again, so it is not called for a moment"
        return ProviderError(self._fault, detail, retry_after_ms=round(left * 1000), sent=False)

    def _is_too_much(self) -> bool:
        if self._open_seconds <= 0:
            return False
        if self._refused_in_a_row >= _REFUSALS_IN_A_ROW:
            return True
        calls, failures = self._sums()
        return calls >= _LEAST_CALLS and failures >= calls * _FAILING_SHARE

    def _forget_old(self) -> int:
        now = int(self._clock())
        while self._seconds and self._seconds[0].number <= now - _WINDOW_SECONDS:
            self._seconds.popleft()
        return now

    def _sums(self) -> tuple[int, int]:
        return sum(each.calls for each in self._seconds), sum(each.failures for each in self._seconds)
