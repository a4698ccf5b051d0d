"""Lets running streams go first when turns begin and end.

Claiming and settling a turn takes milliseconds of the interpreter, a delta takes microseconds. When hundreds of turns
begin at once, every delta would wait behind them and all streams would stutter. So only a few threads take such a step
at a time, and each first checks how fast the loop answers and waits a little while it is slow: turns begin slightly
later and stream evenly.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Lock
from time import monotonic, sleep
from typing import Final

CALM_SECONDS: Final = 0.003
"""The loop answers within this time if its streams leave it room."""
MOST_SECONDS: Final = 0.05
"""Longest wait for a calm moment: a loop that is always busy must not keep turns from beginning or ending. With two
steps at a time, forty turns a second begin or end, however busy it is.
"""
_PAUSE_SECONDS: Final = 0.002


class Admission:
    """Spaces out the steps of turns that would hold up streams.

    Args:
        loop: Runs the streams, in another thread.
        steps_at_once: How many threads take a step at the same time.
        patience_seconds: Longest wait for a place; after that the step is taken anyway.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, steps_at_once: int, patience_seconds: float
    ) -> None:
        self._loop = loop
        # A queue and locks in C: threading's semaphores and events cost more than some steps.
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(steps_at_once):
            self._places.put(None)
        self._patience_seconds = patience_seconds

    @contextmanager
    def step(self, running: int) -> Iterator[None]:
        """Hold a place for one step, which starts at a calm moment.

        Args:
            running: Streams that could be held up; if there are none, nothing waits.
        """
        has_place = self._take_place()
        try:
            if running:
                self._wait()
            yield
        finally:
            if has_place:
                self._places.put(None)

    def _take_place(self) -> bool:
        try:
            self._places.get(timeout=self._patience_seconds)
        except Empty:
            return False
        return True

    def _wait(self) -> None:
        until = monotonic() + MOST_SECONDS
        while True:
            asked_at = monotonic()
            answered = Lock()
            answered.acquire()
            self._loop.call_soon_threadsafe(answered.release)
            answered.acquire(timeout=max(0.0, until - asked_at))
            now = monotonic()
            if now - asked_at < CALM_SECONDS or now >= until:
                return
            sleep(_PAUSE_SECONDS)
