"""What /metrics says. One private registry per member, so that tests can run several in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = prometheus.CONTENT_TYPE_PLAIN_0_0_4
_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
Gauges = dict[str, tuple[str, float | Mapping[str, float]]]


class Metrics:
    """Counters of this process, and gauges read when somebody looks."""

    def __init__(self) -> None:
        self._registry = prometheus.CollectorRegistry()
        self._latency = prometheus.Histogram(
            "registry_call_seconds",
            "Calls answered, by method and gRPC code",
            ("method", "code"),
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._proposals = prometheus.Counter(
            "registry_proposals", "Commands proposed, by kind and result", ("kind", "result"), registry=self._registry
        )
        self._removals = prometheus.Counter(
            "registry_contents_removed",
            "Versions whose content was removed, by cause",
            ("cause",),
            registry=self._registry,
        )
        self._upkeep = prometheus.Counter(
            "registry_upkeep_seconds", "Time the leader spent on upkeep, by step", ("step",), registry=self._registry
        )
        self._observers: dict[tuple[str, str], Callable[[float], None]] = {}
        self._counters: dict[tuple[str, str], Callable[[], None]] = {}

    def call(self, method: str, code: str, seconds: float) -> None:
        """One answered call."""
        observe = self._observers.get((method, code))
        if observe is None:
            observe = self._observers[method, code] = self._latency.labels(method, code).observe
        observe(seconds)

    def proposal(self, kind: str, result: str) -> None:
        """One proposed command: done, rejected, unavailable, ambiguous."""
        count = self._counters.get((kind, result))
        if count is None:
            count = self._counters[kind, result] = self._proposals.labels(kind, result).inc
        count()

    def removed(self, cause: str, versions: int) -> None:
        """So many versions lost their content: to retention, or a purge."""
        self._removals.labels(cause).inc(versions)

    def upkeep(self, step: str, seconds: float) -> None:
        """One step of upkeep: index, collect, retention, recompression; compaction on every member."""
        self._upkeep.labels(step).inc(seconds)

    def gauges(self, read: Callable[[], Gauges]) -> None:
        """Gauges by name: (help, value), read at every scrape; a mapping is a counter by reason."""
        self._registry.register(_Gauges(read))

    def text(self) -> bytes:
        """The exposition, in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)


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
