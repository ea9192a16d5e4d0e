"""Agents that wait at a member, in a process of their own (bench.crowd), led from here."""

from __future__ import annotations

import asyncio
import ssl
import statistics
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.crowd import Crowd
from bench.resources import anonymous_bytes, pid, thread_cpu_s
from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.client import Client, TlsConfig

WAIT_S, LOOK_S, REST_S = 60.0, 0.1, 0.5
WORKFLOW = "bench/followed"


class Heard(NamedTuple):
    """Of one switch. `last_ms`: from just before it is sent to the last agent having its instruction."""

    last_ms: float
    cpu_ms: float  # of the member, until the last agent had it
    again_cpu_ms: float  # of the member, for all of them polling again
    crowd_cpu_ms: float


class Agents:
    """A crowd, and the member that it polls."""

    def __init__(self, process: asyncio.subprocess.Process, member: LocalMember, crowd: Crowd) -> None:
        self._process, self._member, self._crowd = process, member, crowd
        self._context = ssl.create_default_context(cafile=crowd.tls[0]) if crowd.tls else None

    async def say(self, **order: Any) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        return await self.hear()

    async def hear(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the agents have ended; stderr says why")
        return msgspec.json.decode(line, type=dict[str, float])

    async def wait(self, **holding: Any) -> None:
        """All of them poll, until the member holds all."""
        await self.say(order="poll", **holding)
        await until_waiting([self._member], self._crowd.count, self._context)


@asynccontextmanager
async def crowd(member: LocalMember, **options: Any) -> AsyncIterator[Agents]:
    options = {"address": member.http_address, "workflow": WORKFLOW} | options
    made = msgspec.convert(options, Crowd)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.crowd", msgspec.json.encode(made).decode(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        agents = Agents(process, member, made)
        await agents.hear()
        yield agents
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def one_member(
    directory: Path, tls: TlsConfig | None = None, *, workers: int = 0
) -> AsyncIterator[tuple[LocalMember, Client]]:
    """A cluster of one, with two versions of WORKFLOW."""
    arguments = ("--workers", str(workers)) if workers else ()
    cluster = LocalCluster(directory, 1, tls=tls, arguments=arguments)
    async with cluster, Client(cluster.endpoints, tls=tls) as client:
        for number in range(2):
            await client.publish(WORKFLOW, b'{"value": %d}' % number)
        await client.switch(WORKFLOW, 1, reason="first")
        (member,) = cluster.members.values()
        yield member, client


async def until_waiting(members: Sequence[LocalMember], count: int, context: ssl.SSLContext | None = None) -> None:
    """Until so many polls wait at the members. `context`: they speak TLS."""
    deadline = time.monotonic() + WAIT_S
    while (waiting := await polls_waiting(members, context)) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not {count} polls wait, but {waiting}")
        await asyncio.sleep(LOOK_S)


async def polls_waiting(members: Sequence[LocalMember], context: ssl.SSLContext | None = None) -> int:
    return sum(await asyncio.gather(*(asyncio.to_thread(_polls_waiting, member, context) for member in members)))


def _polls_waiting(member: LocalMember, context: ssl.SSLContext | None) -> int:
    scheme = "http" if context is None else "https"
    with urllib.request.urlopen(f"{scheme}://{member.http_address}/metrics", context=context) as reply:
        lines = reply.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("registry_polls_waiting "))))


async def switched(agents: Agents, client: Client, member: LocalMember, switches: int) -> tuple[list[Heard], int]:
    """Switches between two versions, each told to all, after one that warms up; the member's memory in bytes once all
    waited for the first time."""
    found = []
    crowd_s, size_bytes = 0.0, 0
    first = (await client.pointer(WORKFLOW)).generation
    for _ in range(1 + switches):
        pointer = await client.pointer(WORKFLOW)
        before_s = thread_cpu_s(pid(member))
        await agents.wait(generation=pointer.generation, digest=pointer.digest)
        again_s = thread_cpu_s(pid(member)) - before_s
        size_bytes = size_bytes or anonymous_bytes(member)
        await asyncio.sleep(REST_S)
        telling = asyncio.create_task(agents.say(order="tell"))
        await asyncio.sleep(0)
        cpu_s, began_s = thread_cpu_s(pid(member)), time.monotonic()
        await client.switch(WORKFLOW, 3 - pointer.version, reason="bench")
        told = await telling
        cpu_s = thread_cpu_s(pid(member)) - cpu_s
        took_s = told["last_s"] - began_s
        found.append(Heard(took_s * 1000, cpu_s * 1000, again_s * 1000, (told["cpu_s"] - crowd_s) * 1000))
        crowd_s = told["cpu_s"]
    left = (await client.pointer(WORKFLOW)).generation
    assert left == first + len(found), f"{len(found)} switches from generation {first} on have led to {left}"
    return found[1:], size_bytes


def said(heard: Sequence[Heard]) -> str:
    cpu_ms, again_ms, crowd_ms = (
        statistics.median(values) for values in zip(*(each[1:] for each in heard), strict=True)
    )
    return (
        f"CPU of the member {cpu_ms:.0f} ms an event, {again_ms:.0f} ms for all to poll again; "
        f"of the agents' process {crowd_ms:.0f} ms for both"
    )
