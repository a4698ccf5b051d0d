"""One timer for all streams: due times are rounded up to a millisecond and called together.

A timer for each token would cost more than the token itself.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

TICKS_PER_SECOND: Final = 1000
"""The event loop's own timers are no finer."""


def tick_after(due: float) -> int:
    """Return the first tick after `due` seconds of the monotonic clock.

    Timers are set to whole ticks: uvloop rounds a delay to milliseconds, so one in between may fire half a millisecond
    early.
    """
    return int(due * TICKS_PER_SECOND) + 1


class Pacer:
    """Calls back at due times.

    Args:
        loop: Provides the clock and the timer.
    """

    __slots__ = ("_calls", "_loop", "_ticks", "_timer", "_timer_tick")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: dict[int, list[Callable[[], None]]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def at(self, due: float, call: Callable[[], None]) -> None:
        """Call `call` once the loop's clock has reached `due` seconds; this cannot be cancelled."""
        tick = tick_after(due)
        calls = self._calls.get(tick)
        if calls is not None:
            calls.append(call)
            return
        self._calls[tick] = [call]
        heapq.heappush(self._ticks, tick)
        if self._timer is None or tick < self._timer_tick:
            self._arm(tick)

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = self._loop.call_at(tick / TICKS_PER_SECOND, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time() * TICKS_PER_SECOND
        while self._ticks and self._ticks[0] <= now:
            for call in self._calls.pop(heapq.heappop(self._ticks)):
                call()
        # A call may have set the timer to a tick later than the next one.
        if self._ticks:
            self._arm(self._ticks[0])
