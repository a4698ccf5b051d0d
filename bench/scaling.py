"""A test of the capacity formula: costs measured with one worker and one relay, and what two of each really use.

CPU seconds = what the processes use at rest + turns * cost of a turn + deltas * cost of a delta, for each kind of
process separately. The cost of a delta comes from turns that only stream, that of a turn from turns with a single
delta, each without the use at rest. Both are then applied to a load of neither kind.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

from bench import short, steady, turns
from bench.meter import used
from bench.stack import Stack

GROUPS: Final = ("web", "relay", "worker", "redis", "postgres")
"""What a deployment pays for; the provider and the load generator are not in the formula."""
SHORT_AT_ONCE: Final = 16


async def costs(
    stack: Stack, streaming: int, rate: float, seconds: float, short_turns: int
) -> dict[str, Any]:
    """Return what idling, a delta and a turn cost each kind of process."""
    at_rest = await _at_rest(stack, seconds)
    streamed = await steady.measure(stack, streaming, rate, seconds)
    brief = await short.measure(stack, short_turns, 1, min(SHORT_AT_ONCE, short_turns))
    turn_seconds = 1 / brief["turns_per_second"]
    return {
        "cores_at_rest": {group: round(at_rest[group], 4) for group in GROUPS},
        "us_per_delta": {
            group: round(1e6 * (streamed["cores"][group] - at_rest[group]) / streamed["deltas_per_second"], 1)
            for group in GROUPS
        },
        "ms_per_turn": {
            group: round(brief["cpu_ms_per_turn"][group] - 1e3 * at_rest[group] * turn_seconds, 2)
            for group in GROUPS
        },
        "deltas_per_second": streamed["deltas_per_second"],
        "turns_per_second": brief["turns_per_second"],
        "failures": streamed["failures"] + brief["failures"],
    }


async def trial(stack: Stack, load: turns.Load, cost: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Run the load and return predicted and measured CPU seconds, and how far off the prediction was.

    Args:
        stack: The service, with `times` as many workers and relays as when the costs were measured.
        load: The load.
        cost: The result of `costs`.
        times: How often the cost of idling counts.
    """
    run = await turns.measure(stack, load)
    predicted = {
        group: times * run["seconds"] * cost["cores_at_rest"][group]
        + load.turns * cost["ms_per_turn"][group] / 1e3
        + load.turns * load.tokens * cost["us_per_delta"][group] / 1e6
        for group in GROUPS
    }
    measured = {group: run["cpu_seconds"][group] for group in GROUPS}
    predicted["all"], measured["all"] = sum(predicted.values()), sum(measured.values())
    return {
        "predicted_cpu_seconds": {group: round(value, 3) for group, value in predicted.items()},
        "measured_cpu_seconds": {group: round(value, 3) for group, value in measured.items()},
        "measured_above_predicted_percent": {
            group: round(100 * (measured[group] / value - 1), 1) if value else None
            for group, value in predicted.items()
        },
        "seconds": run["seconds"],
        "deltas_per_second": run["tokens_per_second"],
        "added_delay_ms": run["added_delay_ms"],
        "failures": run["failures"],
    }


async def _at_rest(stack: Stack, seconds: float) -> dict[str, float]:
    """Return the cores that each kind of process uses while idle."""
    meter = stack.meter()
    before, began = meter.cpu_seconds(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return {group: value / took for group, value in used(before, meter.cpu_seconds()).items()}
