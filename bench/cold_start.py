"""kill -9 of all members, and how long until a read is answered again, beside etcd with as many revisions.

Ours has a hundred thousand versions, loaded in bulk through the product's own apply. etcd has as many compare-and-puts
by its load generator, to a key for each caller. The kernel has the files of both sides in memory. Each side's time is
from the first exec until all members are ready (etcd: healthy) and one of them answered a linearizable read.
"""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import etcd
from bench.bulk import load_founders, publish_versions
from bench.etcd import Etcd
from bench.report import Row
from bench.resources import MIB, anonymous_bytes, process_bytes
from bench.rounds import take_turns
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

WORKFLOWS, EACH = 1000, 100
VERSIONS = WORKFLOWS * EACH
CALLERS, CONNECTIONS, LOAD_S = 256, 16, 5.0
KEY = base64.b64encode(b"/ptr/000000").decode()  # of the first caller of etcd's load generator


class Started(NamedTuple):
    seconds: float
    anonymous_bytes: int  # of the member with most


async def cold_start(directory: Path, rounds: int) -> list[Row]:
    cluster = LocalCluster(directory / "ours", 3)
    async with cluster, Client(cluster.endpoints) as client:
        await client.publish("bench/first", b"{}")
    load_founders(cluster, lambda environment: publish_versions(environment, WORKFLOWS, EACH))
    async with AsyncExitStack() as stack:
        peer = None if etcd.missing() else await stack.enter_async_context(Etcd(directory / "etcd"))
        if peer is not None:
            await _fill(peer)
        await stack.enter_async_context(cluster)
        sides = {"ours": lambda: _ours(cluster)} | ({} if peer is None else {"etcd": lambda: _etcd(peer)})
        found = await take_turns(sides, rounds)
    return _rows(found["ours"], found.get("etcd", []))


async def _fill(peer: Etcd) -> None:
    while _revision(peer) <= VERSIONS:
        answered = await peer.load("cas", callers=CALLERS, connections=CONNECTIONS, seconds=LOAD_S)
        assert answered.per_second > 0, answered


def _revision(peer: Etcd) -> int:
    return int(peer.call("maintenance/status")["header"]["revision"])


async def _ours(cluster: LocalCluster) -> Started:
    for member in cluster.members.values():
        member.kill()
    began = time.perf_counter()
    await cluster.start()
    async with Client(cluster.endpoints) as client:
        pointer = await client.pointer(f"bulk/w{WORKFLOWS - 1:05}")
        seconds = time.perf_counter() - began
    assert pointer.version == EACH, pointer
    return Started(seconds, max(map(anonymous_bytes, cluster.members.values())))


async def _etcd(peer: Etcd) -> Started:
    peer.stop()
    began = time.perf_counter()
    await peer.start()
    read = await asyncio.to_thread(peer.call, "kv/range", key=KEY)
    seconds = time.perf_counter() - began
    assert int(read["header"]["revision"]) > VERSIONS, read
    assert read["count"] == "1", read
    return Started(seconds, max(map(process_bytes, peer.pids)))


def _rows(ours: list[Started], theirs: list[Started]) -> list[Row]:
    alone = Row(
        question="cold_start",
        shape=f"{VERSIONS:,} versions, kill -9 of all to a read",
        unit="s",
        ours=tuple(each.seconds for each in ours),
        bar=5.0,
    )
    left_out = () if theirs else (f"etcd left out: {etcd.missing()}",)
    beside = msgspec.structs.replace(
        alone, peer=tuple(each.seconds for each in theirs), peer_name="etcd", bar=None, notes=left_out
    )
    memory = Row(
        question="cold_start",
        shape=f"{VERSIONS:,} versions, RssAnon of a member after it",
        unit="MiB",
        ours=tuple(each.anonymous_bytes / MIB for each in ours),
        peer=tuple(each.anonymous_bytes / MIB for each in theirs),
        peer_name="etcd",
    )
    return [alone, beside, memory]
