"""registryd with workers as tests see it: which process serves which connection, what they are and what they hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from registry.v1 import agent_pb2_grpc, cluster_pb2_grpc, fleet_pb2_grpc, registry_pb2, registry_pb2_grpc
from tests.integration.server_kit import RPC_S, answer, get, until
from tests.integration.test_server_process import ENDS_S, Daemon, flags

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


class Served:
    """A connection to one of the workers, `pid`."""

    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        self.channel, self.pid = channel, pid
        self.registry: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
        self.agents: Any = agent_pb2_grpc.AgentServiceStub(channel)  # type: ignore[no-untyped-call]
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(channel)  # type: ignore[no-untyped-call]
        self.fleet: Any = fleet_pb2_grpc.FleetServiceStub(channel)  # type: ignore[no-untyped-call]

    async def publish(self, workflow: str, content: bytes) -> registry_pb2.PublishResponse:
        request = registry_pb2.PublishRequest(workflow=workflow, content=content)
        reply: registry_pb2.PublishResponse = await self.registry.Publish(request, timeout=RPC_S)
        return reply

    async def switch(self, workflow: str, target: int, **fields: Any) -> registry_pb2.SwitchResponse:
        move = registry_pb2.Move(workflow=workflow, target=str(target), **fields)
        request = registry_pb2.SwitchRequest(moves=[move], reason="test")
        reply: registry_pb2.SwitchResponse = await self.registry.Switch(request, timeout=RPC_S)
        return reply

    async def pointer(self, workflow: str) -> registry_pb2.Pointer:
        request = registry_pb2.GetPointerRequest(workflow=workflow)
        reply = await self.registry.GetPointer(request, timeout=RPC_S)
        pointer: registry_pb2.Pointer = reply.pointer
        return pointer


class Member:
    """A member's process. Its log is read all the time, so that it never waits for the test."""

    def __init__(self, daemon: Daemon) -> None:
        self.process = daemon.process
        self.lines: list[dict[str, Any]] = []
        self.api = self.http = ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            with contextlib.suppress(json.JSONDecodeError):  # gRPC's own
                self.lines.append(json.loads(line))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]

    async def until(self, event: str, times: int = 1) -> dict[str, Any]:
        with contextlib.suppress(AssertionError):
            await until(lambda: len(self.said(event)) >= times or self._reading.done(), ENDS_S)
        assert len(self.said(event)) >= times, self.lines
        return self.said(event)[times - 1]

    async def ready(self) -> None:
        started = await self.until("started")
        self.api, self.http = started["api"], started["http"]
        await self.until("ready")
        await until_ready(self.http)

    async def ended(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), ENDS_S)
        await self._reading
        return code

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        return [pid for pid in children(self.process.pid) if b"registry.server.worker" in command(pid)]

    async def metric(self, line: str) -> float:
        """Its value; 0 where there is none yet."""
        text = (await answer(self.http, get("/metrics"))).decode()
        return next((float(each.split()[-1]) for each in text.splitlines() if each.startswith(line + " ")), 0.0)

    async def until_metric(self, line: str, value: float) -> None:
        """Each process tells the member what it has counted a few times a second."""
        async with asyncio.timeout(RPC_S):
            while await self.metric(line) != value:
                await asyncio.sleep(0.02)


async def until_ready(http: str) -> None:
    async def is_ready() -> bool:
        try:
            return (await answer(http, get("/readyz"))).endswith(b"\r\n\r\nready\n")
        except ConnectionRefusedError:  # the only worker is being started again
            return False

    async with asyncio.timeout(ENDS_S):
        while not await is_ready():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def member(path: Path, *more: str, **changes: str) -> AsyncIterator[Member]:
    arguments = [*flags(path, **({"workers": "2"} | changes)), *more]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "registry.server.main", *arguments), stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    running = Member(Daemon(process))
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def through_each(running: Member) -> AsyncIterator[tuple[Served, Served]]:
    """A connection through each of two workers."""
    async with AsyncExitStack() as stack:
        found: dict[int, Served] = {}
        for _ in range(50):
            if len(found) == 2:
                break
            before = {pid: connections(pid, running.api) for pid in running.workers}
            channel = grpc.aio.insecure_channel(running.api, options=OWN_CONNECTION)
            stack.push_async_callback(channel.close, None)
            await asyncio.wait_for(channel.channel_ready(), RPC_S)
            for pid in running.workers:
                if connections(pid, running.api) - before[pid]:
                    found.setdefault(pid, Served(channel, pid))
        first, second = found.values()
        yield first, second


def connections(pid: int, address: str) -> set[str]:
    """Sockets that a process holds on this port, by inode; not those that listen."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    tables = (Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))  # gRPC's are of the second kind
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    established = {row[9] for row in rows if row[1].endswith(port) and row[3] == "01"}
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    return established & held


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
