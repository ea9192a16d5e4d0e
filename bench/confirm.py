"""A rollback of what real agents show: until it is everywhere.

First as a person sees it: from typing `regctl rollback --wait` to its end, with two hundred agents; what starting
regctl takes is in it. Then a thousand agents: from just before the rollback is sent to the last PATH leading to the
version, and to the registry having the word of all.

Three members; the agents are processes of their own on the same cores and the same disk, each with files and
connections of its own. They have kept both versions, so none is fetched.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import NamedTuple

from bench import fleet
from bench.fleet import Fleets
from bench.report import Row, spread
from bench.resources import Meter, Used, pid
from bench.waiting import until_waiting
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.core.model import Pointer

AGENTS, ROLLBACKS, BAR_S = 200, 20, 1.5
MANY = 1000
PROCESSES = 2  # of those: one alone comes to 1.1 cores and is the limit
SETTLE_S = 120.0
WORKFLOW = "bench/confirmed"
CONTENT_BYTES = 60_000


class Followed(NamedTuple):
    """Agents that show the newer of two versions, and wait."""

    cluster: LocalCluster
    client: Client
    fleets: Fleets

    async def forward(self) -> None:
        """Brings all to version 2."""
        await self.confirmed(await self.client.switch(WORKFLOW, 2, reason="next"))
        await until_waiting(list(self.cluster.members.values()), len(self.fleets.paths))

    async def confirmed(self, live: Pointer) -> None:
        """Until all report, and have confirmed what is live."""
        async with asyncio.timeout(SETTLE_S):
            while True:
                async for found in self.client.confirmations(
                    WORKFLOW, generation=live.generation, wait_s=1.0, min_revision=live.revision
                ):
                    if found.complete and found.agents == len(self.fleets.paths):
                        return

    async def check(self) -> None:
        """All show version 1."""
        content = await self.client.content(WORKFLOW, 1)
        others = [str(path) for path in self.fleets.paths if path.read_bytes() != content]
        assert not others, f"not rolled back: {others}"


class Rolled(NamedTuple):
    """Of a thousand agents. Milliseconds."""

    installed_ms: float
    confirmed_ms: float
    members: Used
    agents: Used


async def confirm(directory: Path, turns: int) -> list[Row]:
    return [await _typed(directory / "typed"), *await _installed(directory / "installed", turns)]


@asynccontextmanager
async def _followed(directory: Path, agents: int, processes: int) -> AsyncIterator[Followed]:
    async with LocalCluster(directory, 3) as cluster, Client(cluster.endpoints) as client:
        for _ in range(2):
            await client.publish(WORKFLOW, os.urandom(CONTENT_BYTES // 2).hex().encode(), kind="text")
        first = await client.switch(WORKFLOW, 1, reason="first")
        faces = [f"http://{member.http_address}" for member in cluster.members.values()]
        async with fleet.start(faces, directory / "agents", WORKFLOW, agents, processes) as fleets:
            followed = Followed(cluster, client, fleets)
            await followed.confirmed(first)
            yield followed


async def _typed(directory: Path) -> Row:
    took_s, waited_s = [], []
    async with _followed(directory, AGENTS, 1) as followed:
        for _ in range(ROLLBACKS):
            await followed.forward()
            began_s = time.perf_counter()
            waited_s.append(await _regctl(followed.cluster))
            took_s.append(time.perf_counter() - began_s)
            await followed.check()
    took_s.sort()
    waited_s.sort()
    place = max(int(ROLLBACKS * 0.95) - 1, 0)
    return Row(
        question="confirm",
        shape=f"regctl rollback --wait, {AGENTS} agents, p95 of {ROLLBACKS}",
        unit="s",
        ours=(took_s[place],),
        bar=BAR_S,
        notes=(
            f"p50 {statistics.median(took_s):.2f} s, longest {took_s[-1]:.2f} s; of that the wait itself "
            f"p95 {waited_s[place]:.2f} s",
        ),
    )


async def _regctl(cluster: LocalCluster) -> float:
    """Seconds that it waited for the agents."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "registry.cli.main", "rollback", WORKFLOW, "--to", "1", "--keep-status"),
        *("--reason", "bench", "--yes", "--wait", "-o", "json", "--endpoints", ",".join(cluster.endpoints)),
        stdin=DEVNULL,
        stdout=PIPE,
    )
    out, _ = await process.communicate()
    found = json.loads(out)["wait"]
    assert (process.returncode, found["confirmed"]) == (0, AGENTS), found
    return float(found["waited_s"])


async def _installed(directory: Path, turns: int) -> list[Row]:
    async with _followed(directory, MANY, PROCESSES) as followed:
        rolled = [await _rollback(followed) for _ in range(turns)]
    agents, members = (
        spread([each.cpu_s / each.seconds for each in used])
        for used in ([each.agents for each in rolled], [each.members for each in rolled])
    )
    cpu_ms = statistics.median(each.agents.cpu_s for each in rolled) * 1000 / MANY
    notes = (
        f"agents in {PROCESSES} processes: {agents} cores, {cpu_ms:.2f} ms of CPU each; members {members} cores; of "
        f"{os.cpu_count()}",
    )
    shape = f"rollback of {MANY:,} agents, "
    return [
        Row(
            question="confirm",
            shape=shape + "until the last one has it installed",
            unit="ms",
            ours=tuple(each.installed_ms for each in rolled),
            notes=notes,
        ),
        Row(
            question="confirm",
            shape=shape + "until the registry has the word of all",
            unit="ms",
            ours=tuple(each.confirmed_ms for each in rolled),
        ),
    ]


async def _rollback(followed: Followed) -> Rolled:
    await followed.forward()
    members = Meter([pid(member) for member in followed.cluster.members.values()])
    agents = followed.fleets.meter()
    began_s = time.time()
    await followed.confirmed(await followed.client.rollback(WORKFLOW, to=1, keep_status=True, reason="bench"))
    confirmed_s = time.time() - began_s
    used = members.used(), agents.used()
    await followed.check()
    return Rolled((followed.fleets.installed_s() - began_s) * 1000, confirmed_s * 1000, *used)
