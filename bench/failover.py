"""kill -9 of the leader: how long no write succeeds, beside etcd with its default timeouts.

Ours: from the kill to the first switch of a caller that keeps trying through one SDK client. etcd: the longest time
between two writes of three writers, one for each member, as its load generator counts it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench import etcd, rounds
from bench.calls import both
from bench.etcd import Etcd
from bench.ours import Side
from bench.report import Row

BEFORE_S, ETCD_S = 2.0, 6.0
WORKFLOW = "bench/failed-over"


async def failover(directory: Path, turns: int) -> list[Row]:
    turns *= 2  # one run is one death
    async with both(directory, callers=0) as (side, peer):
        for number in range(2):
            await side.client.publish(WORKFLOW, b'{"value": %d}' % number)
        await side.client.switch(WORKFLOW, 1, reason="first")

        async def mine() -> float:
            return await _death(side)

        async def theirs() -> float:
            assert isinstance(peer, Etcd)
            return await peer.failover(BEFORE_S, ETCD_S)

        found = await rounds.take_turns({"ours": mine} | ({} if peer is None else {"etcd": theirs}), turns)
    return [
        Row(
            question="failover",
            shape="kill -9 of the leader to the next write",
            unit="ms",
            ours=tuple(found["ours"]),
            peer=tuple(found.get("etcd", ())),
            peer_name="etcd",
            bar=0.6,
            aim=0.3,
            notes=() if peer else (f"etcd left out: {etcd.missing()}",),
        )
    ]


async def _death(side: Side) -> float:
    leader = (await side.client.status()).leader
    pointer = await side.client.pointer(WORKFLOW)
    await asyncio.sleep(BEFORE_S)
    side.cluster[leader].kill()
    began = time.perf_counter()
    await side.client.switch(WORKFLOW, 3 - pointer.version, reason="after the leader's death")
    took_ms = (time.perf_counter() - began) * 1000
    await side.cluster.restart(leader)
    return took_ms
