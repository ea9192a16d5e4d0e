"""After a purge: when the database is compacted, and what happens when it cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cluster.api import Compacted, CompactionRefused
from cluster.kv.api import Damaged
from registry.core import commands, outcomes
from registry.server.contents import Contents
from registry.server.forgetting import FILE, Forgetting
from registry.store import content
from tests.integration.server_kit import until
from tests.unit.server.lone_cluster import Member

DONE = Compacted(before_bytes=2, after_bytes=1, seconds=0.1)


class Inspector:
    def __init__(self) -> None:
        self.forgot = 0

    async def forget(self) -> None:
        self.forgot += 1


@asynccontextmanager
async def running(member: Member, directory: Path, retry_s: float = 0.0) -> AsyncIterator[tuple[Forgetting, Inspector]]:
    cluster: Any = member.cluster
    inspector: Any = Inspector()
    # the log of a LoneCluster holds nothing
    cluster.environment._tables |= type(cluster.environment)(("raft_log", "raft_meta"))._tables
    forgetting = Forgetting(
        cluster=cluster,
        environment=cluster.environment,
        inspector=inspector,
        contents=Contents(),
        repairs=member.repairs,
        metrics=member.metrics,
        directory=directory,
        retry_s=retry_s,
    )
    task = asyncio.create_task(forgetting.run())
    try:
        yield forgetting, inspector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def purged(member: Member, data: bytes) -> None:
    await member.index()
    published = await member.publish("a/b", data)
    number = published.version.number
    outcome = await member.apply(
        commands.Purge(
            **member.stamp(),
            principal="ada",
            workflow="a/b",
            version=number,
            digest=content.digest(data),
            reason="because",
        )
    )
    assert isinstance(outcome, outcomes.Purged)


async def test_nothing_is_compacted_without_a_purge(tmp_path: Path) -> None:
    member = Member()
    async with running(member, tmp_path) as (forgetting, inspector):
        forgetting.purged()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert inspector.forgot == 0


async def test_a_purge_compacts_once_and_that_outlives_the_process(tmp_path: Path) -> None:
    member = Member()
    await purged(member, b"one")
    member.cluster.compactions = [DONE]
    async with running(member, tmp_path):
        await until(lambda: (tmp_path / FILE).exists())
    async with running(member, tmp_path) as (forgetting, inspector):
        forgetting.purged()
        await asyncio.sleep(0)
        assert inspector.forgot == 0
        await purged(member, b"two")
        member.cluster.compactions = [DONE]
        forgetting.purged()
        await until(lambda: (tmp_path / FILE).read_text() == "2\n")


async def test_purged_bytes_that_came_again_are_compacted_away_again(tmp_path: Path) -> None:
    member = Member()
    await purged(member, b"one")
    member.cluster.compactions = [DONE]
    async with running(member, tmp_path) as (forgetting, inspector):
        await until(lambda: (tmp_path / FILE).exists())
        member.cluster.compactions = [DONE]
        forgetting.came_again()
        assert not (tmp_path / FILE).exists()
        await until(lambda: (tmp_path / FILE).exists())
        assert inspector.forgot == 2


async def test_a_compaction_that_fails_is_tried_again(tmp_path: Path) -> None:
    member = Member()
    await purged(member, b"one")
    member.cluster.compactions = [
        CompactionRefused("one runs"),
        OSError(28, "no space left"),
        Damaged("contents", b"key", "other bytes"),
        DONE,
    ]
    async with running(member, tmp_path) as (_, inspector):
        await until(lambda: (tmp_path / FILE).exists())
        assert inspector.forgot == 4
    assert "other bytes" in member.repairs.needed
