"""Turns that all stream, observed for some seconds in the middle: what a delta costs, without starts and ends.

Each turn is posted with more tokens than it will send and stopped after the observation, so that none begins or ends
during it.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.figures import figures
from bench.meter import used
from bench.stack import Stack, make_sessions
from bench.turns import POSTERS, Load, Run, is_whole, judge, post_all, subscribe

MOST_TOKENS: Final = 4000
"""Of an answer, within what `MAX_OUTPUT_TOKENS` allows by default; at 50 a second it lasts 80 s."""
BEGIN_SECONDS: Final = 60.0
"""The time for the last turn to stream; after that, whatever does not stream has failed."""


@dataclass(slots=True)
class Watched(Run):
    """A run that knows which turns have begun to stream."""

    begun: set[str] = field(default_factory=set)
    all_begun: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self, message: Mapping[str, Any], received_ns: int) -> None:
        """Take a message other than text."""
        if message["type"] == "message_start":
            self.begun.add(message["turn_id"])
            if len(self.begun) >= self.wanted:
                self.all_begun.set()
        Run.told(self, message, received_ns)


async def measure(stack: Stack, turns: int, rate: float, seconds: float) -> dict[str, Any]:
    """Stream `turns` turns at `rate` tokens a second, each on its own websocket, and observe for `seconds`.

    Raises:
        TimeoutError: They did not all begin to stream, or did not all end.
    """
    sessions = await make_sessions(stack, turns)
    run = Watched(wanted=turns)
    streams = await subscribe(stack, sessions, turns, run)
    await post_all(stack, sessions, Load(turns=turns, tokens=MOST_TOKENS, rate=rate), run)
    async with asyncio.timeout(BEGIN_SECONDS):
        await run.all_begun.wait()
    meter = stack.meter()
    before, began_ns = meter.cpu_seconds(), time.monotonic_ns()
    await asyncio.sleep(seconds)
    after, ended_ns = meter.cpu_seconds(), time.monotonic_ns()
    await _stop(stack, list(run.turn_of_session.values()))
    async with asyncio.timeout(BEGIN_SECONDS):
        await run.all_done.wait()
    for stream in streams:
        stream.close()
    judged, tokens = judge(streams)
    seen = [token for token in tokens if began_ns <= token.received_ns < ended_ns]
    took = (ended_ns - began_ns) / 1e9
    spent = used(before, after)
    return {
        "turns": turns,
        "seconds": round(took, 3),
        "offered_per_second": turns * rate,
        "deltas_per_second": round(len(seen) / took, 1),
        "added_delay_ms": figures([token.delay_ms for token in seen]),
        "cpu_us_per_delta": {
            group: round(1e6 * value / max(1, len(seen)), 1) for group, value in spent.items()
        },
        "cores": {group: round(value / took, 3) for group, value in spent.items()},
        "failures": turns - sum(is_whole(turn, run.done.get(name)) for name, turn in judged.items()),
    }


async def _stop(stack: Stack, turns: Sequence[str]) -> None:
    """Stop the turns, a few requests at a time."""
    waiting = iter(turns)

    async def stop() -> None:
        connection = stack.connection()
        for turn in waiting:
            await connection.call("POST", f"/v1/turns/{turn}/stop", {})
        connection.close()

    await asyncio.gather(*(stop() for _ in range(POSTERS)))
