"""What three members cost while nobody calls them: CPU, and bytes written to the disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.report import Row
from bench.resources import cpu_s, written_bytes
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

SETTLE_S, MEASURE_S = 5.0, 30.0
BAR_PERCENT = 2.0


async def idle(directory: Path, turns: int) -> list[Row]:
    percent: list[dict[str, float]] = []  # by member, one each turn
    written: list[dict[str, int]] = []
    async with LocalCluster(directory / "idle", 3) as cluster:
        async with Client(cluster.endpoints) as client:
            leader = (await client.status()).leader
        await asyncio.sleep(SETTLE_S)
        for _ in range(turns):
            before, began_s = _now(cluster), time.monotonic()
            await asyncio.sleep(MEASURE_S)
            after, took_s = _now(cluster), time.monotonic() - began_s
            percent.append({name: 100 * (after[name][0] - before[name][0]) / took_s for name in after})
            written.append({name: after[name][1] - before[name][1] for name in after})
    followers = [name for name in cluster.members if name != leader]
    return [
        _row("the leader", [each[leader] for each in percent]),
        _row("the busier follower", [max(each[name] for name in followers) for each in percent]),
        Row(
            question="idle",
            shape=f"the member that writes most, in {MEASURE_S:.0f} s",
            unit="bytes",
            ours=tuple(max(each.values()) for each in written),
        ),
    ]


def _now(cluster: LocalCluster) -> dict[str, tuple[float, int]]:
    """CPU seconds and written bytes of each member."""
    return {name: (cpu_s(member), written_bytes(member)) for name, member in cluster.members.items()}


def _row(who: str, percent: list[float]) -> Row:
    shape = f"{who}, {MEASURE_S:.0f} s without a call"
    return Row(question="idle", shape=shape, unit="% of a core", ours=tuple(percent), bar=BAR_PERCENT)
