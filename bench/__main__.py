"""What a caller waits for, on three members on this machine, every write synced.

    python -m bench [switch] [failover] [idle] [long_log] [catch_up] [compare] [storage] [growth]
    (or: make bench, for all of them)

`switch`: one caller, one switch at a time, through the SDK to the leader. Beside it the floor on the same disk in the
same run: one synced LMDB commit, of which a switch needs at least two in a row (leader and followers append at the same
time, then it is applied).
`failover`: kill -9 of the leader to the first successful switch of a caller that keeps trying.
`idle`: CPU and syncs of members that nobody calls.
`long_log`: start, memory and the longest gap between two writes with a million entries in the log, while they are
trimmed, beside a short log.
`catch_up`: a member without a gibibyte of state joins under 200 switches a second: their p99 before and meanwhile, and
the memory it takes.
`storage`: bytes of real histories, beside git for the same versions.
`growth`: publish, switch, lists and history with a million versions, beside a thousand; starting with a million.
`compare`: two parsed real versions, beside deepdiff on the same values; CPU of reading a real version of 64 KiB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.catch_up import catch_up
from bench.compare import compare
from bench.growth import growth
from bench.idle import idle
from bench.long_log import long_log
from bench.storage import storage
from cluster.kv.lmdb_env import LmdbEnvironment
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

SWITCHES, WARM_UP, FAILOVERS, COMMITS = 1000, 100, 10, 500
WORKFLOW = "bench/target"


def commit_floor_ms(directory: Path) -> float:
    environment = LmdbEnvironment(directory / "floor", ["rows"])
    took = []
    for number in range(COMMITS):
        environment.transaction().put("rows", number.to_bytes(8, "big"), os.urandom(256))
        began = time.perf_counter()
        environment.commit()
        took.append(time.perf_counter() - began)
    environment.close()
    return statistics.median(took) * 1000


async def _prepare(client: Client) -> None:
    for number in range(2):
        await client.publish(WORKFLOW, b'{"value": %d}' % number)
    await client.switch(WORKFLOW, 1, reason="first")


async def switch(directory: Path) -> None:
    async with LocalCluster(directory / "switch", 3) as cluster, Client(cluster.endpoints) as client:
        await _prepare(client)
        took = []
        for number in range(WARM_UP + SWITCHES):
            began = time.perf_counter()
            await client.switch(WORKFLOW, 1 + number % 2, reason="bench")
            if number >= WARM_UP:
                took.append((time.perf_counter() - began) * 1000)
        floor_ms = commit_floor_ms(directory)
    took.sort()
    p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    print(
        f"switch, one caller, {SWITCHES} times: p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {took[-1]:.2f} ms; "
        f"one synced commit {floor_ms:.2f} ms; ratio p50 {p50 / floor_ms:.1f}"
    )


async def failover(directory: Path) -> None:
    took = []
    async with LocalCluster(directory / "failover", 3) as cluster, Client(cluster.endpoints) as client:
        await _prepare(client)
        for number in range(FAILOVERS):
            leader = (await client.status()).leader
            cluster[leader].kill()
            began = time.perf_counter()
            await client.switch(WORKFLOW, 1 + number % 2, reason="after the leader's death")
            took.append((time.perf_counter() - began) * 1000)
            await cluster.restart(leader)
    took.sort()
    print(
        f"failover, kill -9 of the leader to the first successful switch, {FAILOVERS} times: "
        f"median {statistics.median(took):.0f} ms, {took[0]:.0f} to {took[-1]:.0f} ms"
    )


BENCHES = {
    "switch": switch,
    "failover": failover,
    "idle": idle,
    "long_log": long_log,
    "catch_up": catch_up,
    "compare": compare,
    "storage": storage,
    "growth": growth,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", choices=[[], *BENCHES], default=[])
    which = parser.parse_args().which or list(BENCHES)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=Path.cwd()) as directory:  # a real disk, not /tmp in memory
        for name in which:
            asyncio.run(BENCHES[name](Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
