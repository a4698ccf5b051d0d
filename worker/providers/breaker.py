"""Stops calling a provider that keeps failing, so that turns fail at once and at no cost.

Each provider of a process has its own breaker, since one provider's failures say nothing about another. Breakers share
nothing, so they need no server. A fault of the request itself does not count as a failure, and one that a prompt can
cause (an answer that is too slow, a 500, a broken stream) counts for the organization that sent the prompt: it opens
the breaker for that organization alone, unless others see the same. One organization's prompts must not stop another's
turns. What no prompt can cause, as a refused connection or key, counts for all at once.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, Protocol
from uuid import UUID

from shared.errors import Fault, ProviderError
from worker.providers.circuit import Circuit, State

MOST_ORGANIZATIONS: Final = 1000
"""Organizations whose failures are told apart; the one that called least recently is forgotten first."""
_LEAST_OF_OTHERS: Final = 3
"""Failures that organizations other than the one with the most must have seen."""
_GLOBAL: Final = frozenset({Fault.PROVIDER_UNREACHABLE, Fault.PROVIDER_AUTH})
"""Failures that say something about the provider, whoever asked."""
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


class Permit:
    """Permission for one call. One of `succeed`, `fail` and `let_go` must follow, however the call went."""

    __slots__ = ("_breaker", "_is_over", "is_probe", "organization")

    def __init__(self, breaker: "Breaker", organization: UUID | None, *, is_probe: bool) -> None:
        self._breaker = breaker
        self._is_over = False
        self.organization = organization
        self.is_probe = is_probe

    def answer(self) -> None:
        """Note that the provider has begun to answer: that is enough for a probe, long before the answer's end."""
        if self.is_probe and not self._is_over:
            self.is_probe = False
            self._breaker.answered(self.organization)

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
                self._breaker.probe_again(self.organization)

    def _end(self, failure: Fault | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._breaker.learn(self.organization, failure, is_probe=self.is_probe)


class Gate(Protocol):
    """A breaker as one turn sees it."""

    def call(self) -> Permit | ProviderError:
        """Admit a call, or return an error with the fault that opened the breaker and when to call again."""

    def is_closed(self) -> bool:
        """Return whether calls are admitted freely."""


class _OfOne:
    """The breaker as one organization's turns see it."""

    __slots__ = ("_breaker", "_organization")

    def __init__(self, breaker: "Breaker", organization: UUID) -> None:
        self._breaker = breaker
        self._organization = organization

    def call(self) -> Permit | ProviderError:
        return self._breaker.call(self._organization)

    def is_closed(self) -> bool:
        return self._breaker.is_closed(self._organization)


class Breaker:
    """Admits calls or refuses them. Belongs to one thread; metrics read its counts and its state from another.

    Args:
        clock: Monotonic seconds.
        open_seconds: How long it refuses calls before it admits a probe; 0 to refuse nothing.
    """

    def __init__(self, clock: Callable[[], float], open_seconds: float) -> None:
        self._clock = clock
        self._open_seconds = open_seconds
        self._all = Circuit(clock, open_seconds)
        self._each: OrderedDict[UUID, Circuit] = OrderedDict()
        self._failed_probes: dict[UUID, float] = {}
        self.calls = 0
        self.refused = 0
        self.faults: Counter[Fault] = Counter()

    @property
    def state(self) -> str:
        """`closed`, `open` or `probing`, for all organizations together."""
        return self._all.state.name.lower()

    def of(self, organization: UUID) -> Gate:
        """Return the breaker as the turns of an organization see it."""
        return _OfOne(self, organization)

    def open_for(self) -> int:
        """Return for how many organizations alone it is not closed; for any thread."""
        return sum(circuit.state is not State.CLOSED for circuit in list(self._each.values()))

    def call(self, organization: UUID | None = None) -> Permit | ProviderError:
        """Admit a call, or return an error with the fault that opened the breaker and when to call again.

        Args:
            organization: Whose prompt is sent; None counts every failure for all.
        """
        self.calls += 1
        circuits = self._circuits(organization)
        self._all.holds_back = organization is not None and self._has_just_failed(organization)
        refusal = next((circuit.refusal() for circuit in circuits if not circuit.admits()), None)
        if refusal is not None:
            self.calls -= 1
            self.refused += 1
            return refusal
        # Each of them, not the first that is a probe: both may be waiting for one.
        probes = [circuit.begin() for circuit in circuits]
        return Permit(self, organization, is_probe=any(probes))

    def is_closed(self, organization: UUID | None = None) -> bool:
        """Return whether calls are admitted freely."""
        own = None if organization is None else self._each.get(organization)
        return self._all.state is State.CLOSED and (own is None or own.state is State.CLOSED)

    def answered(self, organization: UUID | None) -> None:
        """Admit calls again and forget the failures: the provider answered the probe."""
        for circuit in self._circuits(organization):
            if circuit.state is State.PROBING:
                circuit.close()
        self._failed_probes.clear()

    def probe_again(self, organization: UUID | None) -> None:
        """Make the next call the probe: the last one had no verdict."""
        for circuit in self._circuits(organization):
            circuit.probe_again()

    def learn(self, organization: UUID | None, failure: Fault | None, *, is_probe: bool) -> None:
        """Count the verdict of a call: None if the provider served it."""
        if organization is None or failure in _GLOBAL:
            self._all.learn(failure, is_probe=is_probe)
            if organization is not None:
                self._circuit(organization).probe_again()
            return
        own = self._circuit(organization)
        own.learn(failure, is_probe=is_probe)
        if failure is not None and is_probe and self._all.state is State.PROBING:
            self._probe_failed(organization, failure)
            return
        if failure is None:
            self._failed_probes.clear()
        if failure is None and is_probe and self._all.state is State.PROBING:
            self._all.close()
        else:
            self._all.count(failure, self._is_seen_by_most)

    def _probe_failed(self, organization: UUID, failure: Fault) -> None:
        """Believe a failed probe if two organizations saw one fail; until then let another probe."""
        now = self._clock()
        fresh = {each: at for each, at in self._failed_probes.items() if at > now - self._open_seconds}
        self._failed_probes = {**fresh, organization: now}
        if len(self._failed_probes) > 1 or len(self._each) == 1:
            self._failed_probes.clear()
            self._all.open(failure)
        else:
            self._all.probe_again()

    def _has_just_failed(self, organization: UUID) -> bool:
        at = self._failed_probes.get(organization)
        return at is not None and self._clock() - at < self._open_seconds

    def _is_seen_by_most(self) -> bool:
        """Return whether most organizations that called lately see it fail, and not one of them alone."""
        lately = [circuit for circuit in self._each.values() if circuit.has_called()]
        failing = [circuit for circuit in lately if circuit.is_failing()]
        failures = sorted(circuit.failures() for circuit in failing)
        return len(failing) * 2 > len(lately) and sum(failures[:-1]) >= _LEAST_OF_OTHERS

    def _circuit(self, organization: UUID) -> Circuit:
        circuit = self._each.get(organization)
        if circuit is None:
            circuit = self._each[organization] = Circuit(self._clock, self._open_seconds)
            if len(self._each) > MOST_ORGANIZATIONS:
                self._each.popitem(last=False)
        self._each.move_to_end(organization)
        return circuit

    def _circuits(self, organization: UUID | None) -> list[Circuit]:
        return [self._all] if organization is None else [self._all, self._circuit(organization)]
