"""The metrics of a worker process: what it counts, and what is read once a second."""

from collections.abc import Sequence
from time import monotonic
from typing import Final, Protocol, assert_never

from shared.errors import Fault
from shared.metrics import table
from shared.metrics.registry import Registry
from shared.money.usage import SHOWN_COLUMNS, UsageSource
from shared.oddities import Oddity
from shared.turn.turns import TurnStatus
from worker.providers.breaker import Breaker
from worker.providers.context import ContextMemory
from worker.providers.oddities import Oddities
from worker.publishing.publisher import Publisher
from worker.turn.claim import ClaimedTurn
from worker.turn.moved import SettledTurn
from worker.turn.outcome import Completed, Failed, Fenced, Outcome, Requeued, Stopped
from worker.turn.settle import Ending

_CLASSES: Final = {name: name.removesuffix("_tokens") for name in SHOWN_COLUMNS}


class Running(Protocol):
    """Counts the turns that run here."""

    def running(self) -> int:
        """Return how many turns run here."""


class WorkerMetrics:
    """The handles of a worker process; every method may be called from any thread.

    Args:
        registry: Receives the counts.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._attempts = {
            outcome: registry.counter(table.ATTEMPTS, outcome) for (outcome,) in table.ATTEMPTS.series
        }
        self._turns = {series: registry.counter(table.TURNS, *series) for series in table.TURNS.series}
        self._claim_wait = registry.histogram(table.CLAIM_WAIT)
        self._first_token = registry.histogram(table.FIRST_TOKEN)
        self._turn_seconds = registry.histogram(table.TURN_SECONDS)
        self._stop_seconds = registry.histogram(table.STOP_SECONDS)
        self._tokens = {name: registry.counter(table.TOKENS, label) for name, label in _CLASSES.items()}
        self._cost = registry.counter(table.COST)
        self._disputed = registry.counter(table.DISPUTED)
        self.leases_lost = registry.counter(table.LEASES_LOST)
        self.taken_up = registry.counter(table.TAKEN_UP)
        self.logs_dropped = registry.counter(table.LOGS_DROPPED)

    def claimed(self, turn: ClaimedTurn) -> None:
        """Count a claim, by how long the turn could have been claimed."""
        self._claim_wait.observe(max(0.0, turn.claimable_seconds))

    def showed_text(self, turn: ClaimedTurn, claimed_at: float) -> None:
        """Count a turn's first text; it was claimed at `claimed_at` by the monotonic clock."""
        if turn.first_token_at is None:
            self._first_token.observe(turn.queued_seconds + monotonic() - claimed_at)

    def attempt_ended(self, outcome: Outcome) -> None:
        """Count an attempt that is over."""
        match outcome:
            case Completed():
                name = "completed"
            case Stopped():
                name = "stopped"
            case Failed():
                name = "failed"
            case Requeued():
                name = "handed_back" if outcome.handed_back else "requeued"
            case Fenced():
                name = "fenced"
                self.leases_lost.add()
            case _:
                assert_never(outcome)
        self._attempts[name].add()

    def settled(self, turn: SettledTurn, ending: Ending) -> None:
        """Count what was settled: the turn, where it ended, and what the attempt cost."""
        if turn.finished_at is not None:
            self._ended(TurnStatus(turn.status), ending.fault if isinstance(ending, Failed) else None)
            self._turn_seconds.observe((turn.finished_at - turn.queued_at).total_seconds())
            if turn.stop_observed_at is not None and turn.stop_requested_at is not None:
                stopped_after = turn.stop_observed_at - turn.stop_requested_at
                self._stop_seconds.observe(max(0.0, stopped_after.total_seconds()))
        if ending.answer.called:
            for name, counter in self._tokens.items():
                counter.add(getattr(ending.answer.usage, name))
            self._cost.add(float(turn.charged_usd or 0))
            if ending.answer.usage_source is UsageSource.DISPUTED:
                self._disputed.add()

    def expired(self) -> None:
        """Count a turn that no worker took."""
        self._ended(TurnStatus.EXPIRED, None)

    def barred(self, status: TurnStatus) -> None:
        """Count a turn that ended because its organization is switched off or has nothing left to spend."""
        self._ended(status, Fault.AI_DISABLED if status is TurnStatus.FAILED else None)

    def look_at_oddities(self, providers: Sequence[Oddities]) -> None:
        """Have the oddities of these providers read once a second."""
        counters = {oddity: self.registry.counter(table.PROVIDER_ODDITIES, oddity.value) for oddity in Oddity}

        def look() -> None:
            for oddity, counter in counters.items():
                counter.set(sum(oddities.counts[oddity] for oddities in providers))

        self.registry.on_sample(look)

    def look_at_contexts(self, contexts: Sequence[ContextMemory]) -> None:
        """Have what was learned of these models' contexts read once a second."""
        shortened = self.registry.counter(table.PROMPTS_SHORTENED)
        self.registry.on_sample(lambda: shortened.set(sum(context.shortened for context in contexts)))

    def look_at(self, publisher: Publisher, breakers: Sequence[Breaker], leases: Running, slots: int) -> None:
        """Have these parts read once a second."""
        registry = self.registry
        running, of_slots = registry.gauge(table.RUNNING), registry.gauge(table.SLOTS)
        states = {state: registry.gauge(table.BREAKERS, state) for (state,) in table.BREAKERS.series}
        apart = registry.gauge(table.BREAKERS_OF_ONE)
        calls, refused = registry.counter(table.CALLS), registry.counter(table.CALLS_REFUSED)
        faults = {fault: registry.counter(table.PROVIDER_ERRORS, fault) for fault in Fault}
        backlog, overflows = registry.gauge(table.BACKLOG_BYTES), registry.counter(table.BACKLOG_OVERFLOWS)
        log_bytes, log_budget = registry.gauge(table.LOG_BYTES), registry.gauge(table.LOG_BUDGET)
        cut_short = registry.counter(table.LOGS_CUT_SHORT)
        used, limit = registry.gauge(table.REDIS_MEMORY, "used"), registry.gauge(table.REDIS_MEMORY, "limit")
        connected, away = registry.gauge(table.PUBLISHERS, "yes"), registry.gauge(table.PUBLISHERS, "no")

        def look() -> None:
            running.set(leases.running())
            of_slots.set(slots)
            for state, gauge in states.items():
                gauge.set(sum(breaker.state == state for breaker in breakers))
            apart.set(sum(breaker.open_for() for breaker in breakers))
            calls.set(sum(breaker.calls for breaker in breakers))
            refused.set(sum(breaker.refused for breaker in breakers))
            for fault, counter in faults.items():
                counter.set(sum(breaker.faults[fault] for breaker in breakers))
            backlog.set(publisher.backlog_bytes)
            overflows.set(publisher.overflows)
            log_bytes.set(publisher.memory.bytes_in_all)
            log_budget.set(publisher.memory.budget.in_all)
            cut_short.set(publisher.memory.cut_short)
            used.set(publisher.memory.memory.used)
            limit.set(publisher.memory.memory.limit)
            connected.set(publisher.is_connected())
            away.set(not publisher.is_connected())

        registry.on_sample(look)

    def _ended(self, status: TurnStatus, fault: Fault | None) -> None:
        self._turns[status.value, "" if fault is None else fault.value].add()
