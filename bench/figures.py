"""Percentiles of measurements, rounded to their precision."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """How a quantity is distributed, in the unit that its name says."""

    count: int
    least: float
    p50: float
    p90: float
    p99: float
    p999: float
    most: float
    mean: float

    def as_dict(self) -> dict[str, Any]:
        """Return it in the form in which it is stored."""
        return asdict(self)


def figures(values: Sequence[float]) -> dict[str, Any] | None:
    """Return how values are distributed, in the form in which it is stored."""
    found = spread(values)
    return None if found is None else found.as_dict()


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of the ordered values do not exceed (nearest rank)."""
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def spread(values: Sequence[float]) -> Spread | None:
    """Return how values are distributed; None if there are none."""
    if not values:
        return None
    ordered = sorted(values)
    p50, p90, p99, p999 = (round(percentile(ordered, share), 3) for share in (0.5, 0.9, 0.99, 0.999))
    return Spread(
        count=len(ordered),
        least=round(ordered[0], 3),
        p50=p50,
        p90=p90,
        p99=p99,
        p999=p999,
        most=round(ordered[-1], 3),
        mean=round(sum(ordered) / len(ordered), 3),
    )
