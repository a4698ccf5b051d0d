"""What is sampled once a second in every kind of process: connection pools, and how soon the event loop answers."""

from collections.abc import Callable
from time import monotonic

from shared.metrics import table
from shared.metrics.registry import Registry
from shared.postgres.database import Database


def looking_at_pool(registry: Registry, database: Database, name: str) -> Callable[[], None]:
    """Return a sampler of a connection pool; `name` is its label."""
    size, opened, in_use = (
        registry.gauge(metric, name) for metric in (table.POOL_SIZE, table.POOL_OPEN, table.POOL_IN_USE)
    )
    timeouts = registry.counter(table.POOL_TIMEOUTS, name)

    def look() -> None:
        usage = database.usage()
        size.set(usage.size)
        opened.set(usage.opened)
        in_use.set(usage.in_use)
        timeouts.set(usage.timeouts)

    return look


def looking_at_loop(
    registry: Registry, call_soon: Callable[[Callable[[], None]], bool]
) -> Callable[[], None]:
    """Return a sampler that asks an event loop to answer, unless its last answer is still due.

    Args:
        registry: Where the lag is counted.
        call_soon: Schedules a call in the loop; returns False if there is no loop.
    """
    lag = registry.histogram(table.LOOP_LAG)
    is_asked = False

    def look() -> None:
        nonlocal is_asked
        asked_at = monotonic()

        def answer() -> None:
            nonlocal is_asked
            is_asked = False
            lag.observe(monotonic() - asked_at)

        if not is_asked:
            is_asked = call_soon(answer)

    return look
