"""What a caller waits for with a thousand versions, a hundred thousand, and a million.

Each size is a cluster of its own, loaded in bulk through the product's own apply. All run at the same time and calls
take turns, so a ratio is of clusters that share the machine. BENCH_GROWTH_WORKFLOWS makes it smaller: the most
workflows, of a hundred versions each. After a full run bench/growth.svg is drawn anew.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import cast

from bench import plot
from bench.bulk import load_founders, publish_versions
from bench.report import HERE, Row, spread
from bench.resources import MIB, anonymous_bytes
from bench.rounds import take_turns
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

FULL = 10_000
MANY = int(os.environ.get("BENCH_GROWTH_WORKFLOWS") or FULL)
SIZES = ((100, 10), (MANY // 10, 100), (MANY, 100))  # workflows, with a pointer each; versions of each
TURNS_A_ROUND, TURN = 2, 20
PAGE = 10  # rows: there are so many of everything in the smallest too
Call = Callable[[Client, str, int], Awaitable[object]]


async def _publish(client: Client, workflow: str, number: int) -> None:
    await client.publish(workflow, b'{"after": %d, "salt": "%s"}' % (number, os.urandom(8).hex().encode()))


async def _switch(client: Client, workflow: str, number: int) -> None:
    await client.switch(workflow, 1 + number % PAGE, reason="bench")


async def _taken(rows: AsyncIterator[object], count: int = PAGE) -> None:
    """A page; asking for more would fetch the next one."""
    async with aclosing(cast("AsyncGenerator[object, None]", rows)) as opened:
        async for _ in opened:
            count -= 1
            if not count:
                return
    raise AssertionError(f"{count} rows are missing of a page of {PAGE}")


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

    def __init__(self, directory: Path, workflows: int, each: int) -> None:
        self.versions = workflows * each
        self.start_s: list[float] = []
        self.cluster = LocalCluster(directory / f"v{self.versions}-{workflows}", 3)
        self.client = Client(self.cluster.endpoints)
        self._workflows, self._each = workflows, each
        self._called = 0

    async def load(self) -> None:
        async with self.cluster:
            await self.client.publish("bench/first", b"{}")
        load_founders(
            self.cluster, lambda environment: publish_versions(environment, self._workflows, self._each, PAGE)
        )

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

    async def turn(self) -> dict[str, float]:
        """Median of each call, in milliseconds."""
        p50_ms = {}
        for name, call in CALLS.items():
            took_ms = []
            for _ in range(TURN):
                workflow = f"bulk/w{self._called * 7919 % self._workflows:05}"
                began = time.perf_counter()
                await call(self.client, workflow, self._called)
                took_ms.append((time.perf_counter() - began) * 1000)
                self._called += 1
            p50_ms[name] = statistics.median(took_ms)
        return p50_ms

    async def stop(self) -> None:
        await self.client.close()
        await self.cluster.stop()

    def anonymous_bytes(self) -> int:
        return max(map(anonymous_bytes, self.cluster.members.values()))


async def growth(directory: Path, rounds: int) -> list[Row]:
    clusters = [Loaded(directory, *size) for size in SIZES]
    try:
        for each in clusters:
            await each.load()
        for each in clusters:
            await each.start()
        for each in clusters:
            await each.turn()  # opens its connections
        sides = {str(number): each.turn for number, each in enumerate(clusters)}
        found = list((await take_turns(sides, rounds * TURNS_A_ROUND)).values())
        memory = [each.anonymous_bytes() for each in clusters]
    finally:
        for each in clusters:
            await each.stop()
    versions = [each.versions for each in clusters]
    if MANY == FULL:
        points = {
            name: [
                (x, statistics.median(turn[name] for turn in turns)) for x, turns in zip(versions, found, strict=True)
            ]
            for name in CALLS
        }
        drawn = plot.lines("What a caller waits for", "versions in the registry", "p50, ms", points)
        (HERE / "growth.svg").write_text(drawn)
    return [*(_call(name, versions, found) for name in CALLS), _start(clusters, memory)]


def _call(name: str, versions: Sequence[int], found: Sequence[Sequence[dict[str, float]]]) -> Row:
    few, *between, many = [tuple(turn[name] for turn in turns) for turns in found]
    return Row(
        question="growth",
        shape=f"{name}, p50 at {versions[-1]:,} versions",
        unit="ms",
        ours=many,
        peer=few,
        peer_name=f"ours at {versions[0]:,}",
        bar=1.3,
        notes=tuple(f"at {count:,}: {spread(turns)} ms" for count, turns in zip(versions[1:-1], between, strict=True)),
    )


def _start(clusters: Sequence[Loaded], memory: Sequence[int]) -> Row:
    """From exec to ready."""
    *others, most = clusters
    return Row(
        question="growth",
        shape=f"start of a member with {most.versions:,} versions",
        unit="s",
        ours=tuple(most.start_s),
        bar=5.0,
        notes=(
            *(f"with {each.versions:,}: {spread(each.start_s)} s" for each in others),
            "RssAnon at most "
            + ", ".join(
                f"{size / MIB:.0f} MiB with {each.versions:,}" for each, size in zip(clusters, memory, strict=True)
            ),
        ),
    )
