"""What a caller waits for when there are a million versions, beside a cluster with a thousand.

Both are loaded in bulk through the product's own apply: the same number of versions for each workflow, so that only the
number of workflows differs. The two run at the same time, and calls take turns.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import cast

from bench.bulk import load_founders, publish_versions
from bench.processes import MIB, anonymous_bytes, load_average
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

EACH = 100  # versions of a workflow
FEW, MANY = 10, int(os.environ.get("BENCH_GROWTH_WORKFLOWS", "10000"))
TURNS, TURN = 10, 20
PAGE = 10  # rows: there are so many of everything in the small one too
Call = Callable[[Client, str, int], Awaitable[object]]


async def _publish(client: Client, workflow: str, number: int) -> None:
    await client.publish(workflow, b'{"after": %d, "salt": "%s"}' % (number, os.urandom(8).hex().encode()))


async def _switch(client: Client, workflow: str, number: int) -> None:
    await client.switch(workflow, 1 + number % EACH, reason="bench")


async def _taken(rows: AsyncIterator[object], count: int = PAGE) -> None:
    """A page; asking for more would fetch the next one."""
    async with aclosing(cast("AsyncGenerator[object, None]", rows)) as opened:
        async for _ in opened:
            count -= 1
            if not count:
                return


async def _workflows(client: Client, workflow: str, number: int) -> None:
    await _taken(client.workflows("bulk/", page_size=PAGE))


async def _versions(client: Client, workflow: str, number: int) -> None:
    await _taken(client.versions(workflow, page_size=PAGE))


async def _history(client: Client, workflow: str, number: int) -> None:
    await _taken(client.history(workflow, page_size=PAGE))


CALLS: dict[str, Call] = {
    "publish": _publish,
    "switch": _switch,
    "list workflows, a page": _workflows,
    "list versions, a page": _versions,
    "history, a page": _history,
}


class Loaded:
    """One cluster with so many workflows."""

    def __init__(self, directory: Path, workflows: int) -> None:
        self.workflows = workflows
        self.cluster = LocalCluster(directory / f"w{workflows}", 3)
        self.client = Client(self.cluster.endpoints)
        self.took_ms: dict[str, list[float]] = {name: [] for name in CALLS}
        self.start_s: list[float] = []
        self._called = 0

    async def load(self) -> None:
        async with self.cluster:
            await self.client.publish("bench/first", b"{}")
        began = time.perf_counter()
        load_founders(self.cluster, lambda environment: publish_versions(environment, self.workflows, EACH))
        print(f"  loaded {self.workflows * EACH} versions in {time.perf_counter() - began:.0f} s", flush=True)

    async def start(self) -> None:
        """All together, then each alone while the others run."""

        async def one(name: str) -> float:
            self.cluster[name].start()
            began = time.perf_counter()
            await self.cluster.wait_ready([name])
            return time.perf_counter() - began

        self.start_s = list(await asyncio.gather(*map(one, self.cluster.members)))
        for name, member in self.cluster.members.items():
            member.kill()
            self.start_s.append(await one(name))

    async def turn(self) -> None:
        for name, call in CALLS.items():
            for _ in range(TURN):
                workflow = f"bulk/w{self._called * 7919 % self.workflows:05}"
                began = time.perf_counter()
                await call(self.client, workflow, self._called)
                self.took_ms[name].append((time.perf_counter() - began) * 1000)
                self._called += 1


async def growth(directory: Path) -> None:
    print(f"growth, {FEW * EACH} and {MANY * EACH} versions, three members each ({load_average()}):", flush=True)
    few, many = Loaded(directory, FEW), Loaded(directory, MANY)
    for each in (few, many):
        await each.load()
    try:
        for each in (few, many):
            await each.start()
        for _ in range(TURNS):
            for each in (few, many):
                await each.turn()
        memory = max(anonymous_bytes(member) for member in many.cluster.members.values())
    finally:
        for each in (few, many):
            await each.client.close()
            await each.cluster.stop()
    for name in CALLS:
        small, large = (statistics.median(each.took_ms[name]) for each in (few, many))
        print(f"  {name:24} p50 {small:6.2f} ms and {large:6.2f} ms: {large / small:.2f} times")
    print(f"  start {min(many.start_s):.2f} to {max(many.start_s):.2f} s, RssAnon at most {memory / MIB:.0f} MiB")
