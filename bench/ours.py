"""Our cluster under load: what callers come to, and what they cost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import callers, loading
from bench.loading import Loaded
from bench.resources import Meter, Used, pid
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

WARM_S = 1.0
AT_ONCE = 64


class Cost(NamedTuple):
    loaded: Loaded
    used: Used  # by the members


class Side:
    """A running cluster, whose pointers are read back after every run."""

    def __init__(self, cluster: LocalCluster, client: Client, generator: Path | None) -> None:
        self.cluster, self.client = cluster, client
        self._generator = generator

    async def prepare(self, callers_count: int) -> None:
        """A workflow with two versions for each caller, switched once."""
        for first in range(0, callers_count, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, callers_count))
            await asyncio.gather(*(self._workflow(callers.workflow(number)) for number in numbers))

    async def _workflow(self, name: str) -> None:
        for version in range(2):
            await self.client.publish(name, b'{"value": %d}' % version)
        await self.client.switch(name, 1, reason="first")

    async def coalesced(self, mode: str, count: int, seconds: float, **order: object) -> Cost:
        """`count` callers of one SDK client."""
        made = msgspec.convert(
            {"endpoints": self.cluster.endpoints, "mode": mode, "callers": count, "seconds": seconds, **order},
            callers.Order,
        )
        command = (sys.executable, "-m", "bench.callers", msgspec.json.encode(made).decode())
        meter = self._meter()
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        cost = Cost(msgspec.json.decode(said.splitlines()[-1], type=Loaded), meter.used())
        await self._check(cost.loaded)
        return cost

    async def independent(self, mode: str, count: int, seconds: float, size_bytes: int = 0) -> Cost:
        """`count` clients, each with a connection of its own to the leader and one call at a time."""
        assert self._generator is not None
        leader = (await self.client.status()).leader
        meter = self._meter()
        loaded = await loading.run(
            self._generator,
            mode=mode,
            addresses=[self.cluster[leader].address],
            callers=count,
            connections=count,
            seconds=seconds,
            warm_s=WARM_S,
            size_bytes=size_bytes,
        )
        await self._check(loaded)
        return Cost(loaded, meter.used())

    async def term(self) -> int:
        return (await self.client.status()).term

    def _meter(self) -> Meter:
        return Meter([pid(member) for member in self.cluster.members.values()])

    async def _check(self, loaded: Loaded) -> None:
        """Raises AssertionError where a pointer is not where its caller has left it."""
        if loaded.mode != "switch":
            return
        names = [callers.workflow(number) for number in range(loaded.callers)]
        found = await asyncio.gather(*(self.client.pointer(name) for name in names))
        wrong = [
            f"{name}: {each.generation}, {left} by its caller"
            for name, each, left in zip(names, found, loaded.generations, strict=True)
            if each.generation != left
        ]
        assert not wrong, wrong


def said(costs: Iterable[Cost]) -> tuple[str, ...]:
    """The dearest run's cost, in words."""
    worst = max(costs, key=lambda cost: cost.used.cpu_s / max(cost.loaded.done, 1))
    loaded = worst.loaded
    return (
        worst.used.said(loaded.done + loaded.warmed, "a call"),
        f"p50 {loaded.p50_ms:.2f}, p99 {loaded.p99_ms:.1f} ms; load generator "
        f"{loaded.cpu_s / loaded.seconds:.2f} cores; {loaded.failures} failures {loaded.codes or ''}".rstrip(),
    )
