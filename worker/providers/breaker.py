"""Stops calling a provider that keeps failing, so that turns fail at once and at no cost.

Each provider of a process has its own breaker, since one provider's failures say nothing about another. Breakers share
nothing, so they need no server. A fault of the request itself does not count as a failure: one organization's bad
prompt must not stop another's turns.
"""

from collections import Counter, deque
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
_FAILURES: Final = frozenset(
    {
        Fault.PROVIDER_UNREACHABLE,
        Fault.PROVIDER_OVERLOADED,
        Fault.PROVIDER_TIMEOUT,
        Fault.PROVIDER_PROTOCOL,
    }
)
"""Passing faults that count. A rate limit does not: the provider says itself when to call again."""

_SERVED: Final = frozenset({Fault.PROVIDER_REJECTED, Fault.CONTEXT_TOO_LONG})
"""A provider that refuses a request is up."""


class _State(Enum):
    CLOSED = auto()
    OPEN = auto()
    PROBING = auto()


@dataclass(slots=True)
class _Second:
    """The calls that ended within one second."""

    number: int
    calls: int = 0
    failures: int = 0


class Permit:
    """Permission for one call. One of `succeed`, `fail` and `let_go` must follow, however the call went."""

    __slots__ = ("_breaker", "_is_over", "is_probe")

    def __init__(self, breaker: "Breaker", *, is_probe: bool) -> None:
        self._breaker = breaker
        self._is_over = False
        self.is_probe = is_probe

    def answer(self) -> None:
        """Note that the provider has begun to answer: that is enough for a probe, long before the answer's end."""
        if self.is_probe and not self._is_over:
            self.is_probe = False
            self._breaker.close()

    def succeed(self) -> None:
        """End the call as served by the provider."""
        self._end(None)

    def fail(self, fault: Fault, *, is_passing: bool) -> None:
        """End the call with a fault; one that is not `is_passing` is the fault of the request."""
        self._breaker.faults[fault] += 1
        if fault is Fault.PROVIDER_AUTH or (is_passing and fault in _FAILURES):
            self._end(fault)
        elif fault in _SERVED:
            self._end(None)
        else:
            self.let_go()

    def let_go(self) -> None:
        """End the call without a verdict: it was stopped, or shows nothing about the provider."""
        if not self._is_over:
            self._is_over = True
            if self.is_probe:
                self._breaker.probe_again()

    def _end(self, failure: Fault | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._breaker.learn(failure, is_probe=self.is_probe)


class Breaker:
    """Admits calls or refuses them. Belongs to one thread; metrics read its counts and its state from another.

    Args:
        clock: Monotonic seconds.
        open_seconds: How long it refuses calls before it admits a probe; 0 to refuse nothing.
    """

    def __init__(self, clock: Callable[[], float], open_seconds: float) -> None:
        self._clock = clock
        self._open_seconds = open_seconds
        self._state = _State.CLOSED
        self._opened_at = 0.0
        self._seconds: deque[_Second] = deque()
        self._refused_in_a_row = 0
        self._fault = Fault.PROVIDER_OVERLOADED
        self.calls = 0
        self.refused = 0
        self.faults: Counter[Fault] = Counter()

    @property
    def state(self) -> str:
        """`closed`, `open` or `probing`."""
        return self._state.name.lower()

    def call(self) -> Permit | ProviderError:
        """Admit a call, or return an error with the fault that opened the breaker and when to call again."""
        self.calls += 1
        match self._state:
            case _State.CLOSED:
                return Permit(self, is_probe=False)
            case _State.OPEN if self._clock() - self._opened_at >= self._open_seconds:
                self._state = _State.PROBING
                return Permit(self, is_probe=True)
            case _:
                self.calls -= 1
                self.refused += 1
                return self._refusal()

    def is_closed(self) -> bool:
        """Return whether calls are admitted freely."""
        return self._state is _State.CLOSED

    def close(self) -> None:
        """Admit calls again and forget the failures: the provider answered the probe."""
        self._state = _State.CLOSED
        self._seconds.clear()
        self._refused_in_a_row = 0

    def probe_again(self) -> None:
        """Make the next call the probe: the last one had no verdict."""
        self._state = _State.OPEN

    def learn(self, failure: Fault | None, *, is_probe: bool) -> None:
        """Count the verdict of a call: None if the provider served it."""
        if is_probe:
            self._learn_of_probe(failure)
        elif self._state is _State.CLOSED:
            self._count(failure)

    def _learn_of_probe(self, failure: Fault | None) -> None:
        if failure is None:
            self.close()
        else:
            self._open(failure)

    def _count(self, failure: Fault | None) -> None:
        now = int(self._clock())
        while self._seconds and self._seconds[0].number <= now - _WINDOW_SECONDS:
            self._seconds.popleft()
        if not self._seconds or self._seconds[-1].number != now:
            self._seconds.append(_Second(now))
        self._seconds[-1].calls += 1
        self._seconds[-1].failures += failure is not None
        if failure is Fault.PROVIDER_AUTH:
            self._refused_in_a_row += 1
        elif failure is None:
            self._refused_in_a_row = 0
        if failure is not None and self._is_too_much():
            self._open(failure)

    def _is_too_much(self) -> bool:
        if self._open_seconds <= 0:
            return False
        calls = sum(second.calls for second in self._seconds)
        failures = sum(second.failures for second in self._seconds)
        if self._refused_in_a_row >= _REFUSALS_IN_A_ROW:
            return True
        return calls >= _LEAST_CALLS and failures >= calls * _FAILING_SHARE

    def _open(self, failure: Fault) -> None:
        self._state = _State.OPEN
        self._opened_at = self._clock()
        shown_as_itself = {Fault.PROVIDER_AUTH, Fault.PROVIDER_UNREACHABLE}
        self._fault = failure if failure in shown_as_itself else Fault.PROVIDER_OVERLOADED

    def _refusal(self) -> ProviderError:
        left = max(0.0, self._opened_at + self._open_seconds - self._clock())
        if self._state is _State.PROBING:
            left = self._open_seconds  # the probe's result is not known yet
        detail = "the model provider failed again and again, so it is not called for a moment"
        return ProviderError(self._fault, detail, retry_after_ms=round(left * 1000), sent=False)
