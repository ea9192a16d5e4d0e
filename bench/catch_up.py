"""A member without a gibibyte of state joins three others while 200 switches a second go on.

The contents are loaded in bulk and the log behind them is trimmed, so that the state has to be fetched. All four
members share this machine's disk and cores with the callers; in production only the giver would notice. The one that
joins is stopped now and then while it fetches: the figures of those seconds tell what else goes on on this machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.bulk import load_founders, publish_contents
from bench.report import Row
from bench.resources import MIB, anonymous_bytes
from bench.summary import percentile_ms
from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.client import Client
from registry.core.errors import NotFound, Refused, RegistryError
from registry.server.identity import DATABASE

STATE_BYTES = 1024 * MIB
RATE_BYTES_S = 16 * MIB
SWITCHES_S, WORKFLOWS = 200, 8
ALONE_S = 20.0  # before, and after
FETCH_S, STOPPED_S = 6.0, 3.0  # in turns; a fetch that is silent for longer would begin anew
JOIN_LIMIT_S = 600.0
LOOK_S = 0.05
JOINER = "n4"
PHASES = {  # in words
    "before": "before",
    "fetch": "while a member fetches the state",
    "stopped": "while it is stopped",
    "after": "after",
}


@dataclass
class Load:
    """Switches at a steady pace, whether earlier ones were answered or not: a stall delays all that fall into it."""

    client: Client
    took_ms: dict[str, list[float]] = field(default_factory=lambda: {"warm up": []})
    failed: int = 0
    phase: str = "warm up"

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.took_ms.setdefault(phase, [])

    async def run(self) -> None:
        due = time.perf_counter()
        number = 0
        async with asyncio.TaskGroup() as group:
            while True:
                due += 1 / SWITCHES_S
                number += 1
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._switch(number, due, self.phase))

    async def _switch(self, number: int, due: float, phase: str) -> None:
        target = 1 + number // WORKFLOWS % 2
        try:
            await self.client.switch(f"bench/w{number % WORKFLOWS}", target, reason="bench")
        except RegistryError:
            self.failed += 1
        self.took_ms[phase].append((time.perf_counter() - due) * 1000)


async def catch_up(directory: Path, _rounds: int) -> list[Row]:
    """One run: a gibibyte is fetched once."""
    arguments = ("--catch-up-rate", str(RATE_BYTES_S))
    cluster = LocalCluster(directory / "catch_up", 3, arguments=arguments)
    try:
        async with Client(cluster.endpoints) as client:
            await _prepare(cluster, client)
            load = Load(client)
            running = asyncio.create_task(load.run())
            await asyncio.sleep(ALONE_S / 4)
            load.enter("before")
            await asyncio.sleep(ALONE_S)
            load.enter("start of a process")  # elsewhere, in production
            began = time.perf_counter()
            joiner = cluster.join(JOINER)
            peaks = await _admit(cluster, client, joiner, load)
            joined_s = time.perf_counter() - began
            load.enter("after")
            await asyncio.sleep(ALONE_S)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        async with Client(joiner.address) as client:
            first_index = (await client.status()).first_index
    finally:
        await cluster.stop()
    assert first_index > STATE_BYTES // MIB, "it was given the log, not the state"
    return _rows(load, peaks, joined_s, joiner)


async def _prepare(cluster: LocalCluster, client: Client) -> None:
    await cluster.start()
    for workflow in range(WORKFLOWS):
        for content in (b"1", b"2"):
            await client.publish(f"bench/w{workflow}", content)
    await cluster.stop()
    load_founders(cluster, lambda environment: publish_contents(environment, STATE_BYTES))
    await cluster.start()


async def _admit(cluster: LocalCluster, client: Client, joiner: LocalMember, load: Load) -> dict[str, int]:
    """Returns once it votes: the most anonymous memory of each member meanwhile."""
    peaks = dict.fromkeys(cluster.members, 0)
    watching = asyncio.create_task(_watch(cluster, peaks))
    try:
        async with asyncio.timeout(JOIN_LIMIT_S):
            while not await joiner.waits():
                await asyncio.sleep(LOOK_S)
            id = await _taken(lambda: client.members.add(JOINER))
            while not await _fetches(joiner, load):
                load.enter("stopped")
                joiner.pause()
                await asyncio.sleep(STOPPED_S)
                joiner.resume()
            await _taken(lambda: client.members.promote(id))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return peaks


async def _fetches(joiner: LocalMember, load: Load) -> bool:
    """For a while; whether it is ready."""
    load.enter("fetch")
    until = time.perf_counter() + FETCH_S
    while not (ready := await joiner.ready()) and time.perf_counter() < until:
        await asyncio.sleep(LOOK_S)
    return ready


async def _taken(step: Callable[[], Awaitable[str]]) -> str:
    """The member's id, once the leader has heard of it and how far it is."""
    while True:
        try:
            return await step()
        except (NotFound, Refused):
            await asyncio.sleep(LOOK_S)


async def _watch(cluster: LocalCluster, peaks: dict[str, int]) -> None:
    while True:
        for name, member in cluster.members.items():
            peaks[name] = max(peaks[name], anonymous_bytes(member))
        await asyncio.sleep(LOOK_S)


def _rows(load: Load, peaks: dict[str, int], joined_s: float, joiner: LocalMember) -> list[Row]:
    file_bytes = sum(file.stat().st_size for file in (joiner.data_dir / DATABASE).rglob("data.mdb"))
    went = (
        f"{file_bytes / MIB:.0f} MiB of database fetched at {RATE_BYTES_S / MIB:.0f} MiB/s under {SWITCHES_S} switches "
        f"a second; a voter after {joined_s:.0f} s; {load.failed} switches failed"
    )
    phases = tuple(f"{phase}: {_said(load.took_ms[phase])}" for phase in ("before", "fetch", "stopped", "after"))

    def p99(phase: str, beside: str, bar: float | None = None, notes: tuple[str, ...] = ()) -> Row:
        return Row(
            question="catch_up",
            shape=f"switches, {PHASES[phase]}, p99",
            unit="ms",
            ours=(percentile_ms(load.took_ms[phase], 99),),
            peer=(percentile_ms(load.took_ms[beside], 99),),
            peer_name=f"ours {PHASES[beside]}",
            bar=bar,
            notes=notes,
        )

    def memory(shape: str, size_bytes: int, bar: float | None = None) -> Row:
        return Row(
            question="catch_up", shape=f"RssAnon at most, {shape}", unit="MiB", ours=(size_bytes / MIB,), bar=bar
        )

    return [
        p99("fetch", "before", 3.0, (went, *phases)),
        p99("fetch", "stopped"),
        p99("after", "before"),
        memory("the one that joins", peaks[JOINER], 300.0),
        memory("the others", max(peak for name, peak in peaks.items() if name != JOINER)),
    ]


def _said(took_ms: Sequence[float]) -> str:
    p50, p99 = (percentile_ms(took_ms, percent) for percent in (50, 99))
    return f"{len(took_ms)} switches, p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {max(took_ms):.0f} ms"
