"""The answer to a scrape, in the format that Prometheus reads."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from shared.metrics.pages import Sum
from shared.metrics.registry import PLACES
from shared.metrics.servers import Known
from shared.metrics.table import METRICS, PROCESSES, Kind, Metric, Service

_TOTAL: Final = "_total"


@dataclass(frozen=True, slots=True)
class Exposition(Collector):
    """Answers the scrapes of one service.

    Args:
        service: The service.
        total: Adds up what its processes counted.
        known: Returns what PostgreSQL and Redis know; a figure that neither knows is left out.
    """

    service: Service
    total: Callable[[], Sum]
    known: Callable[[], Known]

    def answer(self, accept: str) -> tuple[bytes, str]:
        """Return the figures and their content type, in a format that `accept` names."""
        encode, content_type = choose_encoder(accept)
        registry = CollectorRegistry()
        registry.register(self)
        return encode(registry), content_type

    def collect(self) -> Iterator[Family]:
        """Yield every metric of the service."""
        known, counted = self.known(), self.total()
        for metric in METRICS:
            if self.service not in metric.services:
                continue
            if metric is PROCESSES:
                yield _plain(metric, {(): float(counted.processes)})
            elif metric.is_of_servers:
                yield _plain(metric, known.get(metric, {}))
            elif metric.kind is Kind.HISTOGRAM:
                yield _histogram(metric, counted.values)
            else:
                series = {labels: counted.values[PLACES[metric, labels]] for labels in metric.series}
                yield _plain(metric, series)

    def describe(self) -> Iterable[Family]:
        """Yield nothing: a registry would read all figures to learn the names, which are in the table."""
        return ()


def _plain(metric: Metric, series: Mapping[tuple[str, ...], float]) -> Family:
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        family = CounterMetricFamily(metric.name.removesuffix(_TOTAL), metric.help, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in series.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, values: "array[float]") -> Family:
    place = PLACES[metric, ()]
    buckets: list[tuple[str, float]] = []
    count = 0.0
    for number, bound in enumerate((*map(str, metric.buckets), "+Inf")):
        count += values[place + number]
        buckets.append((bound, count))
    return HistogramMetricFamily(metric.name, metric.help, buckets, values[place + metric.width - 1])
