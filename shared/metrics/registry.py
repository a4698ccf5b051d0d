"""A process's own figures, as plain numbers in one piece of memory.

Counting is an addition: no lock where one thread counts, no call of a library, no write of a file. Where metrics are
on, the memory is a page (`shared.metrics.pages`), which whoever is scraped reads and which outlives a process that
is killed. Where they are off, it is the process's own, and costs the same.
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
        """Count in memory of its own."""
        self.values: Figures = memoryview(bytearray(8 * SIZE)).cast("d")
        self.lock = threading.Lock()
        self._samplers: list[Callable[[], None]] = []

    def move(self, values: Figures) -> None:
        """Count in `values` from now on; before anything counts in another thread."""
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
        """Call `sampler` before figures are read and once a second, in a thread of its own: for what is looked at."""
        self._samplers.append(sampler)

    def sample(self) -> None:
        """Call all samplers; one that fails keeps none of the others."""
        for sampler in self._samplers:
            try:
                sampler()
            except Exception:  # noqa: BLE001 -- a figure is worth no process
                _log.exception("a figure could not be taken")


def _place(metric: Metric, kind: Kind, labels: tuple[str, ...]) -> int:
    assert metric.kind is kind, metric.name
    return PLACES[metric, labels]


class Counter:
    """What only rises."""

    __slots__ = ("_place", "_registry")

    def __init__(self, registry: Registry, place: int) -> None:
        """Count at `place`."""
        self._registry = registry
        self._place = place

    def add(self, amount: float = 1.0) -> None:
        """Count, from any thread."""
        with self._registry.lock:
            self._registry.values[self._place] += amount

    def set(self, total: float) -> None:
        """Hand over what one thread counts by itself, in a plain number."""
        self._registry.values[self._place] = total


class Gauge:
    """What rises and falls."""

    __slots__ = ("_place", "_registry")

    def __init__(self, registry: Registry, place: int) -> None:
        """Show at `place`."""
        self._registry = registry
        self._place = place

    def set(self, value: float) -> None:
        """Say what it is now."""
        self._registry.values[self._place] = value


class Histogram:
    """How often values were how large."""

    __slots__ = ("_bounds", "_place", "_registry", "_sum")

    def __init__(self, registry: Registry, place: int, bounds: tuple[float, ...]) -> None:
        """Count from `place` on: the buckets, that without a bound, the sum."""
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
