"""How many agents are on target, behind, silent: for /metrics, counted beside the loop while somebody looks.

Only the leader shows them: the sum over all members is that of the fleet. What is shown is a few seconds old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cluster.api import Cluster
from cluster.kv.api import Damaged, Environment
from registry.core.census import Site, SiteKey
from registry.core.fleet import STANDINGS
from registry.server.limits import (
    AGENT_GAUGES_AGAIN_S,
    AGENT_GAUGES_IDLE_S,
    AGENT_GAUGES_REST,
    AGENT_GAUGES_SITES,
    READINESS_INTERVAL_S,
)
from registry.server.reading import beside
from registry.server.repair import Repairs
from registry.store import census


class AgentGauges(Collector):
    """`clock_ms`: wall clock."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        environment: Environment,
        repairs: Repairs,
        clock_ms: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
        sites: int = AGENT_GAUGES_SITES,
    ) -> None:
        self._cluster = cluster
        self._environment = environment
        self._repairs = repairs
        self._clock_ms = clock_ms
        self._monotonic_s = monotonic_s
        self._limit = sites
        self._looked_s = -AGENT_GAUGES_IDLE_S
        self._due_s = 0.0
        self._found: dict[SiteKey, Site] = {}

    def collect(self) -> list[GaugeMetricFamily]:
        """Runs on the loop, at every scrape."""
        if self._is_idle():
            self._found = {}
        self._looked_s = self._monotonic_s()
        agents = GaugeMetricFamily(
            "registry_agents",
            "Agents by what they run, on the leader; each is counted once, and twins once more",
            labels=["workflow", "pointer", "site", "state"],
        )
        left_out = GaugeMetricFamily(
            "registry_agents_sites_left_out", "Sites of pointers that registry_agents has no room for"
        )
        if not self._leads():
            return [agents, left_out]
        shown = sorted(self._found.items(), key=lambda each: -each[1].agents)[: self._limit]
        for key, site in shown:
            for state in STANDINGS:
                agents.add_metric([*key, state], site.standings[state])
            agents.add_metric([*key, "twins"], site.twins)
        left_out.add_metric([], len(self._found) - len(shown))
        return [agents, left_out]

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    async def run(self) -> NoReturn:
        while True:
            await asyncio.sleep(READINESS_INTERVAL_S)
            await self.round()

    async def round(self) -> None:
        """Counts, if it is time to."""
        now_s = self._monotonic_s()
        if not self._leads():
            self._found = {}
            return
        if now_s < self._due_s or self._is_idle():
            return
        try:
            found = await beside(self._environment, partial(census.census, workflow="", now_ms=self._clock_ms()))
        except Damaged as error:
            self._repairs.note(str(error))
            return
        self._found = found.sites
        took_s = self._monotonic_s() - now_s
        self._due_s = now_s + max(AGENT_GAUGES_AGAIN_S, took_s * AGENT_GAUGES_REST)

    def _is_idle(self) -> bool:
        return self._monotonic_s() - self._looked_s >= AGENT_GAUGES_IDLE_S

    def _leads(self) -> bool:
        status = self._cluster.status()
        return status.leader == status.id
