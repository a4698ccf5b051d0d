"""A process's own figures, as plain numbers in one piece of memory.

Counting is an addition: no lock where one thread counts, no library call, no file write. If metrics are on, the memory
is a page (`shared.metrics.pages`): any process of the service can read it for a scrape, and it outlives a process that
is killed. If they are off, the memory is private and costs the same.
"""

import logging
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from shared.metrics.table import METRICS, Kind, Metric

_log = logging.getLogger("turnkeeper.metrics")

Series: TypeAlias = tuple[Metric, tuple[str, ...]]
Figures: TypeAlias = "memoryview[float]"


def _places() -> tuple[dict[Series, int], int]:
    places: dict[Series, int] = {}
    size = 0
    for metric in METRICS:
        if not metric.is_of_servers:
            for labels in metric.series:
                places[metric, labels] = size
                size += metric.width
    return places, size


_found = _places()
PLACES: Final = _found[0]
"""Where the figures of a series begin."""
SIZE: Final = _found[1]
"""How many figures a process keeps."""


class Registry:
    """A process's figures, all zero at first."""

    def __init__(self) -> None:
        self.values: Figures = memoryview(bytearray(8 * SIZE)).cast("d")
        self.lock = threading.Lock()
        self._samplers: list[Callable[[], None]] = []

    def move(self, values: Figures) -> None:
        """Count in `values` from now on. Call it before another thread counts."""
        values[:] = self.values
        self.values = values

    def counter(self, metric: Metric, *labels: str) -> "Counter":
        """Return the handle of one series."""
        return Counter(self, _place(metric, Kind.COUNTER, labels))

    def gauge(self, metric: Metric, *labels: str) -> "Gauge":
        """Return the handle of one series."""
        return Gauge(self, _place(metric, Kind.GAUGE, labels))

    def histogram(self, metric: Metric) -> "Histogram":
        """Return the handle of a histogram."""
        return Histogram(self, _place(metric, Kind.HISTOGRAM, ()), metric.buckets)

    def on_sample(self, sampler: Callable[[], None]) -> None:
        """Call `sampler` once a second and before figures are read, in a thread of its own."""
        self._samplers.append(sampler)

    def sample(self) -> None:
        """Call all samplers; one that fails does not stop the others."""
        for sampler in self._samplers:
            try:
                sampler()
            except Exception:  # noqa: BLE001 -- a figure is not worth a process
                _log.exception("a figure could not be taken")


def _place(metric: Metric, kind: Kind, labels: tuple[str, ...]) -> int:
    assert metric.kind is kind, metric.name
    return PLACES[metric, labels]


class Counter:
    """A number that only rises."""

    __slots__ = ("_place", "_registry")

    def __init__(self, registry: Registry, place: int) -> None:
        self._registry = registry
        self._place = place

    def add(self, amount: float = 1.0) -> None:
        """Add to the counter, from any thread."""
        with self._registry.lock:
            self._registry.values[self._place] += amount

    def set(self, total: float) -> None:
        """Set the total that one thread counts by itself, in a plain number."""
        self._registry.values[self._place] = total


class Gauge:
    """A number that rises and falls."""

    __slots__ = ("_place", "_registry")

    def __init__(self, registry: Registry, place: int) -> None:
        self._registry = registry
        self._place = place

    def set(self, value: float) -> None:
        """Set the current value."""
        self._registry.values[self._place] = value


class Histogram:
    """A distribution: how many values fell into each bucket."""

    __slots__ = ("_bounds", "_place", "_registry", "_sum")

    def __init__(self, registry: Registry, place: int, bounds: tuple[float, ...]) -> None:
        """Count from `place` on: the buckets, the one without a bound, the sum."""
        self._registry = registry
        self._place = place
        self._bounds = bounds
        self._sum = place + len(bounds) + 1

    def observe(self, value: float) -> None:
        """Count a value, from any thread."""
        values = self._registry.values
        with self._registry.lock:
            values[self._place + bisect_left(self._bounds, value)] += 1.0
            values[self._sum] += value

    def observe_all(self, rising: Sequence[float]) -> None:
        """Count many values at once, from any thread.

        Args:
            rising: The values, sorted.
        """
        values, below = self._registry.values, 0
        with self._registry.lock:
            for number, bound in enumerate(self._bounds):
                through = bisect_right(rising, bound)
                values[self._place + number] += through - below
                below = through
            values[self._sum - 1] += len(rising) - below
            values[self._sum] += sum(rising)
