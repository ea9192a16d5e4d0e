"""What /metrics says. One private registry per member, so that tests can run several in one process."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping

import prometheus_client as prometheus
from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = prometheus.CONTENT_TYPE_PLAIN_0_0_4
_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Gauges = dict[str, tuple[str, float | Mapping[str, float]]]


class Tally(Struct, array_like=True):
    """Calls of one method that ended with one code: how many took up to each bucket's bound and how many longer, and
    the seconds of all of them."""

    counts: list[int]
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_LATENCY_BUCKETS_S, seconds)] += 1
        self.seconds += seconds

    def grow(self, other: Tally) -> None:
        self.counts = [count + more for count, more in zip(self.counts, other.counts, strict=True)]
        self.seconds += other.seconds


class Growth(Struct, array_like=True):
    """What was counted since the last time, to be added up elsewhere."""

    calls: list[tuple[str, str, Tally]]  # method, code
    proposals: list[tuple[str, str, int]]  # kind, result


class Metrics:
    """Counters of this process, and gauges read when somebody looks."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._calls: dict[tuple[str, str], Tally] = {}
        self._proposals: dict[tuple[str, str], int] = {}
        self._registry.register(_Counted(self._calls, self._proposals))
        self._removals = prometheus.Counter(
            "registry_contents_removed",
            "Versions whose content was removed, by cause",
            ("cause",),
            registry=self._registry,
        )
        self._upkeep = prometheus.Counter(
            "registry_upkeep_seconds", "Time the leader spent on upkeep, by step", ("step",), registry=self._registry
        )

    def call(self, method: str, code: str, seconds: float) -> None:
        """One answered call."""
        tally = self._calls.get((method, code))
        if tally is None:
            tally = self._calls[method, code] = _tally()
        tally.add(seconds)

    def proposal(self, kind: str, result: str) -> None:
        """One proposed command: done, rejected, unavailable, ambiguous."""
        self._proposals[kind, result] = self._proposals.get((kind, result), 0) + 1

    def take(self) -> Growth:
        """Calls and proposals counted here, which begin at none again."""
        growth = Growth(
            [(*key, tally) for key, tally in self._calls.items()], [(*key, n) for key, n in self._proposals.items()]
        )
        self._calls.clear()
        self._proposals.clear()
        return growth

    def grow(self, growth: Growth) -> None:
        """What another process counted. Raises ValueError where it counts otherwise."""
        for method, code, more in growth.calls:
            self._calls.setdefault((method, code), _tally()).grow(more)
        for kind, result, number in growth.proposals:
            self._proposals[kind, result] = self._proposals.get((kind, result), 0) + number

    def removed(self, cause: str, versions: int) -> None:
        """So many versions lost their content: to retention, or a purge."""
        self._removals.labels(cause).inc(versions)

    def upkeep(self, step: str, seconds: float) -> None:
        """One step of upkeep: index, collect, expiry, retention, recompression; compaction on every member."""
        self._upkeep.labels(step).inc(seconds)

    def gauges(self, read: Callable[[], Gauges]) -> None:
        """Gauges by name: (help, value), read at every scrape; a mapping is a counter by reason."""
        self._registry.register(_Gauges(read))

    def collect(self, collector: Collector) -> None:
        """Gauges with labels of their own, asked at every scrape."""
        self._registry.register(collector)

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)


def _tally() -> Tally:
    return Tally([0] * (len(_LATENCY_BUCKETS_S) + 1))


class _Counted(Collector):
    def __init__(self, calls: Mapping[tuple[str, str], Tally], proposals: Mapping[tuple[str, str], int]) -> None:
        self._calls, self._proposals = calls, proposals

    def collect(self) -> list[HistogramMetricFamily | CounterMetricFamily]:
        calls = HistogramMetricFamily(
            "registry_call_seconds", "Calls answered, by method and gRPC code", labels=["method", "code"]
        )
        for labels, tally in self._calls.items():
            calls.add_metric(labels, _cumulated(tally.counts), tally.seconds)
        proposals = CounterMetricFamily(
            "registry_proposals", "Commands proposed, by kind and result", labels=["kind", "result"]
        )
        for labels, number in self._proposals.items():
            proposals.add_metric(labels, number)
        return [calls, proposals]

    def describe(self) -> list[HistogramMetricFamily | CounterMetricFamily]:
        return []


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, _LATENCY_BUCKETS_S), "+Inf"]
    return [(bound, sum(counts[: place + 1])) for place, bound in enumerate(bounds)]


class _Gauges(Collector):
    def __init__(self, read: Callable[[], Gauges]) -> None:
        self._read = read

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        return [_family(name, text, value) for name, (text, value) in self._read().items()]

    def describe(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        return []


def _family(name: str, text: str, value: float | Mapping[str, float]) -> GaugeMetricFamily | CounterMetricFamily:
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(name, text, value)
    made = CounterMetricFamily(name, text, labels=["reason"])
    for reason, count in sorted(value.items()):
        made.add_metric([reason], count)
    return made
