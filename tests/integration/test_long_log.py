"""A log far longer than what is kept is trimmed bit by bit beside writes; members that nobody calls write nothing."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from cluster import entries
from cluster.journal import TABLES, Journal
from cluster.kv.generation import DATA, WAL
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.limits import LOCAL, Flow
from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.client import Client
from registry.server.identity import DATABASE
from tests.integration.cluster_members import STATE, Cluster

LOADED = 10_000
SMALL = Flow(log_entries=1000, trim_entries=250)
IDLE_S = 20 * LOCAL.heartbeat_s


def load(directory: Path) -> None:
    """Entries that are applied already, as far as the member can tell."""
    environment = LmdbEnvironment(directory, [*TABLES, STATE], map_size_bytes=1 << 28)
    log = Journal(environment)
    term = log.term_at(log.last)
    for number in range(LOADED):
        log.add(entries.pack([b"%d" % number]), log.last + 1, term)
    log.set_applied(log.last, log.digest)
    environment.commit()
    environment.close()


async def test_a_long_log_is_trimmed_a_little_with_every_write(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, flow=SMALL)
    await cluster.start()
    try:
        await cluster.propose("a", b"first")
        await cluster.stop()
        load(tmp_path / "a")
        for name in "bc":
            shutil.rmtree(tmp_path / name)
            shutil.copytree(tmp_path / "a", tmp_path / name)
        await cluster.start()
        leader = cluster.members[await cluster.leader()]
        assert leader.status().last_index > LOADED
        while leader.status().last_index - leader.status().first_index > SMALL.log_entries:
            before = leader.status()
            await leader.propose(b"next", timeout_s=10)
            after = leader.status()
            applied = after.applied_index - before.applied_index
            trimmed = after.first_index - before.first_index
            assert 0 < trimmed <= SMALL.trim_entries * applied, "not at all, or more at once than a tick may"
        await leader.propose(b"last", timeout_s=10)
        assert leader.status().last_index - leader.status().first_index == SMALL.log_entries
    finally:
        await cluster.stop()


def written_ns(member: LocalMember) -> int:
    """When the member last wrote to its database."""
    current = member.data_dir / DATABASE / (member.data_dir / DATABASE / "CURRENT").read_text().strip()
    return max((current / name).stat().st_mtime_ns for name in (DATA, WAL))


async def test_members_that_nobody_calls_write_nothing(tmp_path: Path) -> None:
    """A heartbeat must not cost a sync. The first periods may still hold the last write and its
    checkpoint, or an election."""
    async with LocalCluster(tmp_path, 3) as cluster, Client(cluster.endpoints) as client:
        members = list(cluster.members.values())
        founded = [written_ns(member) for member in members]
        await client.publish("idle/one", b"1")
        async with asyncio.timeout(30):
            before, now = founded, [written_ns(member) for member in members]
            while before != now:
                await asyncio.sleep(IDLE_S)
                before, now = now, [written_ns(member) for member in members]
        assert all(last > earlier for last, earlier in zip(now, founded, strict=True)), "writes are not noticed"
