"""Observations: a Prometheus histogram that takes many values at once.

That of prometheus_client takes one at a time, under two locks: for what is measured at each step of a model that is
half of what a step costs besides.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Observed:
    """The values with one set of labels. One thread adds to them; any may read.

    Args:
        bounds: of the buckets, ascending; a value is in the first one whose bound it does not exceed.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # of each bucket; the last one has no bound
        self.sum = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Some more."""
        for value in values:
            self.counts[bisect_left(self._bounds, value)] += 1
            self.sum += value


class Observations(Collector):
    """Args: as a Histogram of prometheus_client has them."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation, self._labelnames = name, documentation, labelnames
        self._bounds, self._observed = tuple(buckets), dict[tuple[str, ...], Observed]()
        self._names = [*map(floatToGoString, self._bounds), "+Inf"]
        registry.register(self)

    def labels(self, *values: str) -> Observed:
        """The values with these labels."""
        return self._observed.setdefault(values, Observed(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """For the registry: its name."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry: its values."""
        (family,) = self.describe()
        for values, observed in list(self._observed.items()):
            counted = list(zip(self._names, itertools.accumulate(observed.counts), strict=True))
            family.add_metric(values, counted, observed.sum)
        yield family
