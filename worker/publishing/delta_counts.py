"""Counts what a publisher sends, on the delta path: additions to plain numbers, and samples kept for later."""

from collections import deque
from typing import Final

from shared.metrics import table
from shared.metrics.registry import Registry

_MOST_SAMPLES: Final = 1 << 16
"""More than Redis takes in the quarter second between two hand-overs; beyond it the oldest samples are dropped."""


class DeltaCounts:
    """Counts of one publisher. Belongs to the loop's thread.

    Args:
        registry: Receives the counts.
    """

    __slots__ = ("_counters", "_histograms", "delays", "delta_events", "deltas", "writes")

    def __init__(self, registry: Registry) -> None:
        self._counters = registry.counter(table.DELTAS), registry.counter(table.DELTA_EVENTS)
        self._histograms = registry.histogram(table.DELTA_DELAY), registry.histogram(table.FLUSH_BYTES)
        self.deltas = 0
        self.delta_events = 0
        self.delays: deque[float] = deque(maxlen=_MOST_SAMPLES)
        """Seconds from reading an append's oldest delta to Redis' acknowledgement."""
        self.writes: deque[float] = deque(maxlen=_MOST_SAMPLES)
        """Bytes of each flush."""

    def hand_over(self) -> None:
        """Hand over what was counted since the last time."""
        for counter, total in zip(self._counters, (self.deltas, self.delta_events), strict=True):
            counter.set(total)
        for histogram, samples in zip(self._histograms, (self.delays, self.writes), strict=True):
            if samples:
                histogram.observe_all(sorted(samples))
                samples.clear()
