"""What callers come to, beside etcd doing the same: compare-and-switch, linearizable reads, publishing.

Three members each, every write synced on a majority, all on this machine with the load generators. Two shapes, never
mixed: callers of one SDK client, which coalesces them, and clients of their own with one call at a time. etcd's callers
share 16 connections, or have one each where ours do. The two sides take turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bench import etcd, loading, ours, rounds
from bench.etcd import Answered, Etcd
from bench.ours import Cost, Side
from bench.report import Row
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from tests.corpus import CORPUS

SECONDS = 5.0
MANY = 256
SHARED = 16  # of etcd's connections, where its callers share them
VALUE_BYTES = 256  # of what etcd holds for a pointer
FILES, FILE_BYTES = 9, 64 * 1024  # real ones of about that size
PEER_MODES = {"switch": "cas", "read": "get", "publish": "cas"}


class Shape(NamedTuple):
    name: str
    callers: int
    bar: float | None
    aim: float | None
    unit: str = "/s"
    independent: bool = False
    size_bytes: int = 0  # of what is published


SWITCH = (
    Shape("1 caller, p50", 1, 1.5, 1.0, "ms"),
    Shape("64 callers of one SDK client, coalesced", 64, 1.2, 2.0),
    Shape("256 callers of one SDK client, coalesced", 256, 1.0, 2.0),
    Shape("64 independent clients", 64, 0.6, 1.0, independent=True),
)
READ = (
    Shape("1 caller, p50", 1, 1.5, 1.0, "ms"),
    Shape("64 callers of one SDK client, coalesced", 64, 1.0, 2.0),
    Shape("256 callers of one SDK client, coalesced", 256, 1.0, 2.0),
    Shape("64 independent clients", 64, 0.4, 1.0, independent=True),
)
PUBLISH = (
    Shape("64 KiB that do not compress, 16 callers of one SDK client", 16, 1.0, 2.0, size_bytes=64 * 1024),
    Shape("64 KiB that do not compress, 1 caller, p50", 1, None, None, "ms", size_bytes=64 * 1024),
    Shape("10 KB that do not compress, 16 callers of one SDK client", 16, None, None, size_bytes=10_000),
    Shape("10 KB that do not compress, 1 caller, p50", 1, None, None, "ms", size_bytes=10_000),
)


@asynccontextmanager
async def both(directory: Path, callers: int = MANY, workers: int = 0) -> AsyncIterator[tuple[Side, Etcd | None]]:
    """Our cluster and etcd's, if it is here."""
    arguments = ("--workers", str(workers)) if workers else ()
    async with AsyncExitStack() as stack:
        peer = None if etcd.missing() else await stack.enter_async_context(Etcd(directory / "etcd"))
        generator = None if loading.missing() else await asyncio.to_thread(loading.build, directory)
        cluster = await stack.enter_async_context(LocalCluster(directory / "ours", 3, arguments=arguments))
        client = await stack.enter_async_context(Client(cluster.endpoints))
        side = Side(cluster, client, generator)
        await side.prepare(callers)
        yield side, peer


async def switch(directory: Path, turns: int) -> list[Row]:
    async with both(directory) as (side, peer):
        before = await side.term()
        rows = await measure(side, peer, "switch", SWITCH, turns)
        elections = float(await side.term() - before)
    return [*rows, Row(question="switch", shape="elections under this load", unit="", ours=(elections,), bar=0)]


async def read(directory: Path, turns: int) -> list[Row]:
    async with both(directory) as (side, peer):
        return await measure(side, peer, "read", READ, turns)


async def publish(directory: Path, turns: int) -> list[Row]:
    async with both(directory, callers=0) as (side, peer):
        rows = await measure(side, peer, "publish", PUBLISH, turns)
        if CORPUS.is_dir():
            rows += [await _real(side, callers, turns) for callers in (1, 16)]
    return rows


async def measure(
    side: Side, peer: Etcd | None, mode: str, shapes: Iterable[Shape], turns: int, seconds: float = SECONDS
) -> list[Row]:
    """`seconds`: of each run."""
    rows = []
    for shape in shapes:
        if shape.independent and loading.missing():
            print(f"{mode}, {shape.name}: left out, {loading.missing()}")
        else:
            rows.append(await _beside(side, peer, mode, shape, turns, seconds))
    return rows


async def _beside(side: Side, peer: Etcd | None, mode: str, shape: Shape, turns: int, seconds: float) -> Row:
    async def mine() -> Cost:
        if shape.independent:
            return await side.independent(mode, shape.callers, seconds, shape.size_bytes)
        return await side.coalesced(mode, shape.callers, seconds, size_bytes=shape.size_bytes)

    async def theirs() -> Answered:
        assert peer is not None
        connections = shape.callers if shape.independent else min(shape.callers, SHARED)
        size = shape.size_bytes or VALUE_BYTES
        return await peer.load(
            PEER_MODES[mode], callers=shape.callers, connections=connections, seconds=seconds, size_bytes=size
        )

    sides: dict[str, Callable[[], Awaitable[Cost | Answered]]] = {"ours": mine}
    if peer is not None:
        sides["etcd"] = theirs
    found = await rounds.take_turns(sides, turns)
    costs = [each for each in found["ours"] if isinstance(each, Cost)]
    answered = [each for each in found.get("etcd", ()) if isinstance(each, Answered)]
    in_ms = shape.unit == "ms"
    return Row(
        question=mode,
        shape=shape.name,
        unit=shape.unit,
        ours=tuple(each.loaded.p50_ms if in_ms else each.loaded.per_second for each in costs),
        peer=tuple(each.p50_ms if in_ms else each.per_second for each in answered),
        peer_name="etcd",
        more_is_better=not in_ms,
        bar=shape.bar,
        aim=shape.aim,
        notes=(*ours.said(costs), *_said(answered)),
    )


def _said(answered: list[Answered]) -> tuple[str, ...]:
    if not answered:
        return (f"etcd left out: {etcd.missing()}",)
    worst = max(answered, key=lambda each: each.p99_ms)
    return (
        f"etcd: p50 {worst.p50_ms:.2f}, p99 {worst.p99_ms:.1f} ms; load generator {worst.load_cores:.2f} cores; "
        f"{worst.failures} failures",
    )


async def _real(side: Side, callers: int, turns: int) -> Row:
    """Real apps, read, checked and compared with the version before; none equals another."""
    files = [file for file in sorted(CORPUS.rglob("*.yml")) if not file.read_bytes().startswith(b"{")]
    files = sorted(files, key=lambda file: abs(file.stat().st_size - FILE_BYTES))[:FILES]
    contents = tuple(str(file) for file in files)
    costs = [await side.coalesced("publish", callers, SECONDS, contents=contents) for _ in range(turns)]
    sizes = [file.stat().st_size / 1024 for file in files]
    return Row(
        question="publish",
        shape=f"real apps of {min(sizes):.0f} to {max(sizes):.0f} KiB, {callers} caller{'s' * (callers > 1)}, p50",
        unit="ms",
        ours=tuple(each.loaded.p50_ms for each in costs),
        bar=25.0 if callers == 1 else None,
        notes=ours.said(costs),
    )
