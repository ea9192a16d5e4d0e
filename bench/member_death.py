"""kill -9 of a member that thousands of agents wait on, once a follower and once the leader.

Three members; the agents are one more process on the same cores, behind the members there, with the client of real
agents. Meanwhile callers of the survivors switch other pointers at a steady pace, whether earlier ones were answered or
not. The death of a leader leaves a gap until the next one is elected, told apart; what is due after it counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench.report import Row, spread
from bench.summary import percentile_ms
from bench.waiting import WORKFLOW, Agents, crowd, polls_waiting
from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.client import Client
from registry.core.errors import RegistryError

AGENTS = 5000
SWITCHES_S, WORKFLOWS = 64, 8
BEFORE_S, AFTER_S = 5.0, 5.0
LATER_S = 16.0  # longer than members gather the contacts of agents, which they then record
HELD_LIMIT_S = 30.0
LOOK_S = 0.1
HELD_BAR_S, WRITE_BAR_MS = 5.0, 100.0


class Write(NamedTuple):
    due_s: float
    done_s: float
    succeeded: bool

    @property
    def took_ms(self) -> float:
        return (self.done_s - self.due_s) * 1000


@dataclass
class Writes:
    client: Client
    done: list[Write] = field(default_factory=list)
    until_s: float = float("inf")

    async def run(self) -> None:
        due_s = time.perf_counter()
        number = 0
        async with asyncio.TaskGroup() as group:
            while (due_s := due_s + 1 / SWITCHES_S) < self.until_s:
                number += 1
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                group.create_task(self._switch(number, due_s))

    async def _switch(self, number: int, due_s: float) -> None:
        succeeded = True
        try:
            await self.client.switch(f"bench/w{number % WORKFLOWS}", 1 + number // WORKFLOWS % 2, reason="bench")
        except RegistryError:
            succeeded = False
        self.done.append(Write(due_s, time.perf_counter(), succeeded))


class Death(NamedTuple):
    held_s: float  # until the survivors held all agents
    told_ms: float  # a switch then, until all agents had it
    attempts: int  # of agents at members that did not answer
    gap_ms: float  # until the first write after it was done
    in_gap: int  # writes due before that
    in_gap_ms: float  # the longest of them
    failed: int
    before_ms: Sequence[float]
    after_ms: Sequence[float]
    later_ms: Sequence[float]


async def member_death(directory: Path, turns: int) -> list[Row]:
    rows = []
    async with LocalCluster(directory / "member_death", 3) as cluster:
        async with Client(cluster.endpoints) as client:
            for workflow in (WORKFLOW, *(f"bench/w{number}" for number in range(WORKFLOWS))):
                for content in (b"1", b"2"):
                    await client.publish(workflow, content)
                await client.switch(workflow, 1, reason="first")
        for role in ("follower", "leader"):
            deaths = []
            for _ in range(turns):
                victim = await _find(cluster, role)
                deaths.append(await _death(cluster, victim))
                await cluster.restart(victim.name)
            rows += _rows(role, deaths)
    return rows


async def _find(cluster: LocalCluster, role: str) -> LocalMember:
    async with Client(cluster.endpoints) as client:
        leader = (await client.status()).leader
    return next(member for name, member in cluster.members.items() if (name == leader) == (role == "leader"))


async def _death(cluster: LocalCluster, victim: LocalMember) -> Death:
    survivors = [member for member in cluster.members.values() if member is not victim]
    others = [member.http_address for member in survivors]
    async with (
        Client([member.address for member in survivors]) as client,
        crowd(victim, count=AGENTS, others=others) as agents,
    ):
        pointer = await client.pointer(WORKFLOW)
        await agents.wait(generation=pointer.generation, digest=pointer.digest)
        writes = Writes(client)
        running = asyncio.create_task(writes.run())
        await asyncio.sleep(BEFORE_S)
        killed_s = time.perf_counter()
        _, held_s = await asyncio.gather(asyncio.to_thread(victim.kill), _held(survivors))
        writes.until_s = killed_s + AFTER_S + LATER_S
        await running
        told = await _switched(agents, client, 3 - pointer.version)
    return _summary(writes.done, killed_s, held_s - killed_s, told)


async def _held(survivors: Sequence[LocalMember]) -> float:
    """When all agents wait there."""
    async with asyncio.timeout(HELD_LIMIT_S):
        while True:
            if await polls_waiting(survivors) >= AGENTS:
                return time.perf_counter()
            await asyncio.sleep(LOOK_S)


async def _switched(agents: Agents, client: Client, version: int) -> tuple[float, int]:
    """Milliseconds until all agents had it; their failed attempts so far."""
    telling = asyncio.create_task(agents.say(order="tell"))
    await asyncio.sleep(0)
    began_s = time.monotonic()
    await client.switch(WORKFLOW, version, reason="bench")
    told = await telling
    return (told["last_s"] - began_s) * 1000, int(told["failed"])


def _summary(writes: list[Write], killed_s: float, held_s: float, told: tuple[float, int]) -> Death:
    after_s = min(write.done_s for write in writes if write.succeeded and write.due_s >= killed_s)
    gap = [write for write in writes if write.due_s < after_s and write.done_s > killed_s]
    end_s = killed_s + AFTER_S
    return Death(
        held_s,
        *told,
        gap_ms=(after_s - killed_s) * 1000,
        in_gap=len(gap),
        in_gap_ms=max((write.took_ms for write in gap), default=0.0),
        failed=sum(not write.succeeded for write in writes),
        before_ms=[write.took_ms for write in writes if write.done_s <= killed_s],
        after_ms=[write.took_ms for write in writes if after_s <= write.due_s < end_s],
        later_ms=[write.took_ms for write in writes if write.due_s >= end_s],
    )


def _rows(role: str, deaths: Sequence[Death]) -> list[Row]:
    def row(shape: str, unit: str, of: Callable[[Death], float], bar: float | None, *notes: str) -> Row:
        values = tuple(map(of, deaths))
        shape = f"{'the leader' if role == 'leader' else 'a follower'}, {shape}"
        return Row(question="member_death", shape=shape, unit=unit, ours=values, bar=bar, notes=notes)

    gap, due, longest, attempts = (
        spread(values)
        for values in zip(*((each.gap_ms, each.in_gap, each.in_gap_ms, each.attempts) for each in deaths), strict=True)
    )
    failed = sum(each.failed for each in deaths)
    return [
        row(
            *(f"until others hold its {AGENTS:,} agents", "s", lambda death: death.held_s, HELD_BAR_S),
            f"attempts of agents that failed: {attempts}",
        ),
        row("a switch then, until all agents know", "ms", lambda death: death.told_ms, None),
        row(
            *(f"p99 of writes in the {AFTER_S:g} s after it", "ms"),
            *(lambda death: percentile_ms(death.after_ms, 99), WRITE_BAR_MS),
            f"{_said([each.after_ms for each in deaths])}; before it: {_said([each.before_ms for each in deaths])}",
            f"first write done after {gap} ms; due until then: {due}, the longest took {longest} ms; {failed} failed",
        ),
        row(
            *(f"p99 of writes in the {LATER_S:g} s after those", "ms"),
            *(lambda death: percentile_ms(death.later_ms, 99), WRITE_BAR_MS),
            _said([each.later_ms for each in deaths]),
        ),
    ]


def _said(took_ms: Sequence[Sequence[float]]) -> str:
    """Of each death's writes."""
    p50, p99, longest = (spread([percentile_ms(each, percent) for each in took_ms]) for percent in (50, 99, 100))
    return f"p50 {p50} ms, p99 {p99} ms, longest {longest} ms"
