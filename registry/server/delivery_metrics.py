"""What /metrics says of delivery: polls that wait, wake-ups, replies built, and replies of the HTTP port."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from registry.server.delivery import Delivery
from registry.server.http import HttpServer
from registry.server.hub import Hub


class Delivered(Struct, array_like=True):
    woken: int = 0
    built: int = 0
    answered: list[tuple[str, int, int]] = []  # route, status, so many


class DeliveryMetrics(Collector):
    """Of this process, and of others that are added."""

    def __init__(self, hub: Hub, delivery: Delivery, http: HttpServer) -> None:
        self._hub, self._delivery, self._http = hub, delivery, http
        self._woken = self._built = 0  # elsewhere, or taken already
        self._answered: Counter[tuple[str, int]] = Counter()

    def take(self) -> Delivered:
        """What was counted since it was taken last."""
        taken = self._sum()
        self._count(taken, -1)
        return taken

    def grow(self, other: Delivered) -> None:
        """What another process counted."""
        self._count(other, 1)

    def _count(self, more: Delivered, sign: int) -> None:
        self._woken += sign * more.woken
        self._built += sign * more.built
        for route, status, count in more.answered:
            self._answered[route, status] += sign * count

    def _sum(self) -> Delivered:
        answered = {
            key: self._http.answered[key] + self._answered[key] for key in (*self._http.answered, *self._answered)
        }
        return Delivered(
            self._hub.woken + self._woken,
            self._delivery.built + self._built,
            [(*key, count) for key, count in sorted(answered.items()) if count],
        )

    def collect(self) -> list[CounterMetricFamily]:
        requests = CounterMetricFamily(
            "registry_http_requests", "Replies of the HTTP port, by route and status", labels=["route", "status"]
        )
        counted = self._sum()
        for route, status, count in counted.answered:
            requests.add_metric([route, str(status)], count)
        return [
            CounterMetricFamily("registry_poll_wake_ups", "Polls that were woken to look again", counted.woken),
            CounterMetricFamily("registry_poll_replies_built", "Answers to polls made anew", counted.built),
            requests,
        ]

    def describe(self) -> list[CounterMetricFamily]:
        return []
