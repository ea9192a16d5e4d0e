"""One switch to thousands of agents that wait on one member, beside etcd's watch on as many connections.

Time: from just before the switch (etcd: the put) is sent to the last agent having its instruction, so a commit is in
it. The agents are one process, the member another; the two take turns with etcd. Then what waiting costs while nothing
happens, and the bytes of instructions.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench import instructions, rounds, waiting
from bench.etcd import PUTS, Etcd, Watched, missing
from bench.report import Row
from bench.resources import MIB, anonymous_bytes, cpu_s, pid, thread_cpu_s
from bench.waiting import Agents, Heard, crowd
from registry.cli.local_cluster import LocalMember
from registry.client import Client, TlsConfig


class Peer(NamedTuple):
    connections: int  # of etcd's watchers
    bar: float | None


class Beside(NamedTuple):
    agents: int
    workers: int
    peers: tuple[Peer, ...]


BESIDE = (
    Beside(1000, 0, (Peer(1000, 0.5),)),
    Beside(5000, 0, (Peer(5000, 0.5), Peer(100, None))),
    Beside(5000, 2, (Peer(100, 1.0),)),
)
MEMORY_BAR = 0.1
ALONE = 1000
SWITCHES = 4  # in a round
IDLE_AGENTS, IDLE_S, IDLE_BAR_PERCENT, NOBODY_SWITCHES = 10_000, 60.0, 5.0, 100
GRPC_CHANNELS, GRPC_SPREAD_S = 100, 10.0


async def fan_out(directory: Path, turns: int) -> list[Row]:
    rows = []
    for beside in BESIDE:
        rows += await _beside_etcd(directory / f"{beside.agents}-{beside.workers}", beside, turns)
    async with waiting.one_member(directory / "alone") as (member, client):
        rows.append(await _alone("gRPC Poll", member, client, turns, address=member.address, grpc=True))
        await waiting.until_waiting([member], 0)
        rows.append(await _idle(member, client))
        rows.append(await _idle_by_grpc(member, client))
        rows += await instructions.sizes(member, client)
    if shutil.which("openssl") is not None:
        files = _certificates(directory)
        tls = (files.ca, files.cert, files.key)
        async with waiting.one_member(directory / "tls", files) as (member, client):
            rows.append(await _alone("HTTP with TLS", member, client, turns, tls=tls))
    return rows


async def _beside_etcd(directory: Path, beside: Beside, turns: int) -> list[Row]:
    count, heard = beside.agents, list[Heard]()
    directory.mkdir()
    async with AsyncExitStack() as stack:
        serving = waiting.one_member(directory / "ours", workers=beside.workers)
        member, client = await stack.enter_async_context(serving)

        async def mine() -> Watched:
            before_bytes = anonymous_bytes(member)
            async with crowd(member, count=count) as agents:
                found, size_bytes = await waiting.switched(agents, client, member, SWITCHES)
            await waiting.until_waiting([member], 0)
            heard.extend(found)
            last_ms, cpu_ms = _medians(found)
            return Watched(last_ms, cpu_ms, (size_bytes - before_bytes) / count)

        sides: dict[str, Callable[[], Awaitable[Watched]]] = {"ours": mine}
        if not missing():
            etcd = await stack.enter_async_context(Etcd(directory / "etcd", members=1))
            sides |= {str(peer.connections): partial(etcd.watch, count, peer.connections) for peer in beside.peers}
        found = await rounds.take_turns(sides, turns)
    rows = [_timed(beside, peer, found["ours"], found.get(str(peer.connections), []), heard) for peer in beside.peers]
    if not beside.workers:
        own, *_ = beside.peers
        rows.append(_memory(count, own, found["ours"], found.get(str(own.connections), [])))
    return rows


def _timed(beside: Beside, peer: Peer, ours: list[Watched], theirs: list[Watched], heard: list[Heard]) -> Row:
    if theirs:
        cpu_ms = statistics.median(each.cpu_ms for each in theirs)
        about_peer = f"etcd: CPU of the server {cpu_ms:.0f} ms an event; a value is the median of {PUTS} puts"
    else:
        about_peer = f"etcd left out: {missing()}"
    with_workers = f", --workers {beside.workers}," if beside.workers else ""
    shape = f"{beside.agents:,} agents by HTTP{with_workers} until the last one knows"
    return Row(
        question="fan_out",
        shape=f"{shape}, etcd's on {peer.connections:,} connections",
        unit="ms",
        ours=tuple(each.last_ms for each in ours),
        peer=tuple(each.last_ms for each in theirs),
        peer_name="etcd",
        bar=peer.bar,
        notes=(f"{waiting.said(heard)}; a value is the median of {SWITCHES} switches", about_peer),
    )


def _memory(count: int, peer: Peer, ours: list[Watched], theirs: list[Watched]) -> Row:
    def most_kib(found: Iterable[Watched]) -> tuple[float, ...]:
        sizes = [each.agent_bytes / 1024 for each in found]
        return (max(sizes),) if sizes else ()

    return Row(
        question="fan_out",
        shape=f"memory of the member for one of {count:,} agents that wait, {peer.connections:,} connections",
        unit="KiB",
        ours=most_kib(ours),
        peer=most_kib(theirs),
        peer_name="etcd",
        bar=MEMORY_BAR,
        notes=("the most of all rounds: later ones use again what earlier ones have left free",),
    )


async def _alone(how: str, member: LocalMember, client: Client, turns: int, **options: Any) -> Row:
    before_bytes = anonymous_bytes(member)
    async with crowd(member, count=ALONE, **options) as agents:
        heard, size_bytes = await waiting.switched(agents, client, member, turns * SWITCHES)
    by_turn = [heard[first : first + SWITCHES] for first in range(0, len(heard), SWITCHES)]
    return Row(
        question="fan_out",
        shape=f"{ALONE:,} agents by {how} until the last one knows",
        unit="ms",
        ours=tuple(_medians(each)[0] for each in by_turn),
        notes=(f"{waiting.said(heard)}; {(size_bytes - before_bytes) / ALONE / 1024:.1f} KiB of the member an agent",),
    )


def _medians(heard: list[Heard]) -> tuple[float, float]:
    return statistics.median(each.last_ms for each in heard), statistics.median(each.cpu_ms for each in heard)


async def _idle(member: LocalMember, client: Client) -> Row:
    async with crowd(member, count=IDLE_AGENTS) as agents:
        percent, size_bytes = await _percent(agents, member, client)
        await client.publish("bench/nobody", b"{}")
        nobody_ms = await _switch_unfollowed(member, client, 0)
        await client.publish("bench/nobody", b"[]")
    await waiting.until_waiting([member], 0)
    empty_ms = await _switch_unfollowed(member, client, NOBODY_SWITCHES)
    return Row(
        question="fan_out",
        shape=f"{IDLE_AGENTS:,} agents wait by HTTP, {IDLE_S:.0f} s",
        unit="% of a core",
        ours=(percent,),
        bar=IDLE_BAR_PERCENT,
        notes=(
            f"the member holds {size_bytes / MIB:.0f} MiB in all; a switch of a pointer that nobody follows: "
            f"{nobody_ms:.2f} ms of its CPU, {empty_ms:.2f} ms without any agent",
        ),
    )


async def _idle_by_grpc(member: LocalMember, client: Client) -> Row:
    shared = {"address": member.address, "grpc": True, "channels": GRPC_CHANNELS, "spread_s": GRPC_SPREAD_S}
    async with crowd(member, count=IDLE_AGENTS, **shared) as agents:
        percent, size_bytes = await _percent(agents, member, client)
        left = await waiting.polls_waiting([member])
    await waiting.until_waiting([member], 0)
    return Row(
        question="fan_out",
        shape=f"{IDLE_AGENTS:,} agents wait by gRPC Poll on {GRPC_CHANNELS} channels, {IDLE_S:.0f} s",
        unit="% of a core",
        ours=(percent,),
        notes=(f"{left:,} of them waited at the end; the member holds {size_bytes / MIB:.0f} MiB in all",),
    )


async def _percent(agents: Agents, member: LocalMember, client: Client) -> tuple[float, int]:
    """Of a core, while all wait and nothing happens; and the member's memory in bytes."""
    pointer = await client.pointer(waiting.WORKFLOW)
    await agents.wait(generation=pointer.generation, digest=pointer.digest)
    size_bytes = anonymous_bytes(member)
    began_s, before_s = time.monotonic(), cpu_s(member)  # of threads that end, too
    await asyncio.sleep(IDLE_S)
    return 100 * (cpu_s(member) - before_s) / (time.monotonic() - began_s), size_bytes


async def _switch_unfollowed(member: LocalMember, client: Client, generation: int) -> float:
    """Milliseconds of the member's CPU for one switch."""
    before_s = thread_cpu_s(pid(member))
    for number in range(NOBODY_SWITCHES):
        await client.switch("bench/nobody", 1, reason="bench", expected_generation=generation + number)
    return (thread_cpu_s(pid(member)) - before_s) * 1000 / NOBODY_SWITCHES


def _certificates(directory: Path) -> TlsConfig:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-days", "1", "-extfile", "san")
    for arguments in (
        ("req", "-x509", *curve, "-days", "1", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"),
        ("req", *curve, "-subj", "/CN=bench", "-keyout", "key.pem", "-out", "request.pem"),
        ("x509", "-req", "-in", "request.pem", *signing, "-out", "cert.pem"),
    ):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
    ca, cert, key = (str(directory / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    return TlsConfig(ca=ca, cert=cert, key=key)
