"""What a worker counts of its providers."""

from types import SimpleNamespace
from uuid import UUID

from shared.errors import Fault
from shared.metrics import table
from shared.metrics.registry import PLACES, Registry
from worker.metrics import WorkerMetrics
from worker.providers.breaker import Breaker
from worker.providers.context import ContextMemory

MEMORY = SimpleNamespace(
    bytes_in_all=7, cut_short=2, budget=SimpleNamespace(in_all=60), memory=SimpleNamespace(used=9, limit=100)
)
PUBLISHER = SimpleNamespace(backlog_bytes=0, overflows=0, is_connected=lambda: True, memory=MEMORY)
LEASES = SimpleNamespace(running=lambda: 3)


def figures(*breakers):
    registry = Registry()
    WorkerMetrics(registry).look_at(PUBLISHER, breakers, LEASES, 8)
    registry.sample()

    def value(metric, *labels):
        return registry.values[PLACES[metric, labels]]

    return value


def failed(calls):
    breaker = Breaker(lambda: 0.0, 10.0)
    for _ in range(calls):
        breaker.call().fail(Fault.PROVIDER_AUTH, is_passing=False)
    return breaker


def states(value):
    return [value(table.BREAKERS, state) for state in ("closed", "open", "probing")]


def test_with_one_provider_the_state_of_its_breaker_is_one_and_the_others_are_none():
    value = figures(failed(3))
    assert states(value) == [0, 1, 0]
    assert value(table.CALLS) == 3


def test_with_several_providers_their_calls_add_up_and_their_breakers_are_counted_by_state():
    open_breaker = failed(3)
    open_breaker.call()
    value = figures(failed(1), open_breaker)
    assert states(value) == [1, 1, 0]
    assert (value(table.CALLS), value(table.CALLS_REFUSED)) == (4, 1)
    assert value(table.PROVIDER_ERRORS, Fault.PROVIDER_AUTH) == 4


def test_prompts_that_were_made_shorter_are_counted_over_all_providers():
    registry, contexts = Registry(), [ContextMemory(), ContextMemory()]
    WorkerMetrics(registry).look_at_contexts(contexts)
    for context in contexts:
        context.shortened = 2
    registry.sample()
    assert registry.values[PLACES[table.PROMPTS_SHORTENED, ()]] == 4


def test_the_memory_that_logs_take_is_shown_beside_what_they_may_take():
    value = figures()
    assert (value(table.LOG_BYTES), value(table.LOG_BUDGET), value(table.LOGS_CUT_SHORT)) == (7, 60, 2)
    assert [value(table.REDIS_MEMORY, what) for what in ("used", "limit")] == [9, 100]


def test_organizations_that_are_held_back_alone_are_counted():
    breaker = Breaker(lambda: 0.0, 10.0)
    for _ in range(20):
        breaker.call(UUID(int=1)).fail(Fault.PROVIDER_TIMEOUT, is_passing=True)
    value = figures(breaker)
    assert (value(table.BREAKERS_OF_ONE), states(value)) == (1, [1, 0, 0])
