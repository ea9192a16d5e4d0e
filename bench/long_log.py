"""A log of a million entries beside a short one, in two clusters that run at the same time.

The log is loaded in bulk. A start is from exec to /readyz. One caller then switches in turns on both clusters, while
the members of the long one trim it to what they keep.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from bench.bulk import append_entries, load_founders
from bench.report import Row, spread
from bench.resources import MIB, anonymous_bytes
from bench.summary import percentile_ms
from cluster.limits import FLOW
from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.client import Client

ENTRIES = 1_000_000
WORKFLOW = "bench/target"
TURN = 100  # switches on one cluster before the other one's turn
TURNS_MAX = 400


class Measured:
    """One cluster and what was measured on it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.cluster = LocalCluster(directory / name, 3)
        self.client = Client(self.cluster.endpoints)
        self.start_s: list[float] = []
        self.anonymous_bytes = 0
        self.took_ms: list[float] = []
        self.gaps_ms: list[float] = []
        self._generation = 0

    async def found(self) -> None:
        await self.cluster.start()
        for number in range(2):
            await self.client.publish(WORKFLOW, b'{"value": %d}' % number)
        await self.client.switch(WORKFLOW, 1, reason="first")

    async def start(self) -> None:
        """All together, then each alone while the others run."""
        self.start_s = list(await asyncio.gather(*map(self._start, self.cluster.members.values())))
        for member in self.cluster.members.values():
            member.kill()
            self.start_s.append(await self._start(member))
        self.sample()

    async def _start(self, member: LocalMember) -> float:
        member.start()
        began = time.perf_counter()
        await self.cluster.wait_ready([member.name])
        return time.perf_counter() - began

    async def turn(self) -> None:
        done_at = time.perf_counter()
        for _ in range(TURN):
            began = time.perf_counter()
            await self.client.switch(WORKFLOW, 1 + self._generation % 2, reason="bench")
            self._generation += 1
            previous, done_at = done_at, time.perf_counter()
            self.took_ms.append((done_at - began) * 1000)
            self.gaps_ms.append((done_at - previous) * 1000)
        self.sample()

    def sample(self) -> None:
        self.anonymous_bytes = max(self.anonymous_bytes, *map(anonymous_bytes, self.cluster.members.values()))

    async def log_entries(self) -> int:
        """Of the member that keeps most."""
        kept = []
        for address in self.cluster.endpoints:
            async with Client(address) as client:
                status = await client.status()
            kept.append(status.last_index - status.first_index + 1)
        return max(kept)

    async def stop(self) -> None:
        await self.client.close()
        await self.cluster.stop()


async def long_log(directory: Path, _rounds: int) -> list[Row]:
    """One run: what is trimmed cannot be trimmed again."""
    short, long = Measured(directory, "short"), Measured(directory, "long")
    try:
        for measured in (short, long):
            await measured.found()
            await measured.cluster.stop()
        load_founders(long.cluster, lambda environment: append_entries(environment, ENTRIES))
        for measured in (short, long):
            await measured.start()
        kept = {measured.name: [await measured.log_entries()] for measured in (short, long)}
        turns = 0
        while turns < TURNS_MAX and (turns < 2 or await long.log_entries() > FLOW.log_entries + 2 * FLOW.trim_entries):
            for measured in (short, long):
                await measured.turn()
            turns += 1
        for measured in (short, long):
            kept[measured.name].append(await measured.log_entries())
    finally:
        for measured in (short, long):
            await measured.stop()
    went = "; ".join(f"{name}: {before:,} -> {after:,}" for name, (before, after) in kept.items())
    return _rows(short, long, f"entries in the log, {turns * TURN} switches on each cluster in turns: {went}")


def _rows(short: Measured, long: Measured, went: str) -> list[Row]:
    """What has a bar of its own has it without a peer; the short log's figure is told."""

    def beside(shape: str, unit: str, figure: Callable[[Measured], float]) -> Row:
        return Row(
            question="long_log",
            shape=shape,
            unit=unit,
            ours=(figure(long),),
            peer=(figure(short),),
            peer_name="ours with a short log",
        )

    started = Row(
        question="long_log",
        shape=f"start of a member with {ENTRIES:,} entries",
        unit="s",
        ours=tuple(long.start_s),
        bar=5.0,
        notes=(f"with a short log {spread(short.start_s)} s", went),
    )
    longest = Row(
        question="long_log",
        shape="longest time between two switches of one caller, while it trims",
        unit="ms",
        ours=(max(long.gaps_ms),),
        bar=50.0,
        notes=(f"with a short log {max(short.gaps_ms):.1f} ms",),
    )
    return [
        started,
        longest,
        beside("switch by one caller, p50", "ms", lambda each: percentile_ms(each.took_ms, 50)),
        beside("switch by one caller, p99", "ms", lambda each: percentile_ms(each.took_ms, 99)),
        beside("RssAnon at most", "MiB", lambda each: each.anonymous_bytes / MIB),
    ]
