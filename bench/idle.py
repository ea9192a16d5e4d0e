"""What three members cost while nobody calls them: CPU, and commits (each is a sync)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench.processes import commits, cpu_s, load_average
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

SETTLE_S, MEASURE_S = 5.0, 60.0


async def idle(directory: Path) -> None:
    async with LocalCluster(directory / "idle", 3) as cluster:
        async with Client(cluster.endpoints) as client:
            leader = (await client.status()).leader
        await asyncio.sleep(SETTLE_S)
        members = list(cluster.members.values())
        before = [(cpu_s(member), commits(member)) for member in members]
        began = time.monotonic()
        await asyncio.sleep(MEASURE_S)
        took_s = time.monotonic() - began
        after = [(cpu_s(member), commits(member)) for member in members]
    print(f"idle, three members, {took_s:.0f} s without a call ({load_average()}):")
    for member, (cpu_before, commits_before), (cpu_after, commits_after) in zip(members, before, after, strict=True):
        role = "leader" if member.name == leader else "follower"
        print(
            f"  {member.name} {role:8}  {100 * (cpu_after - cpu_before) / took_s:4.1f} % of a core, "
            f"{commits_after - commits_before} syncs"
        )
