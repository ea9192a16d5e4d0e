"""What members do where their write-ahead log and their tables' file fail each other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from cluster.api import DataDamaged, OutcomeUnknown
from cluster.journal import TABLES
from cluster.kv.generation import Generation
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.limits import Flow
from tests.integration.cluster_members import STATE, Cluster, until
from tests.unit.cluster.test_kv_damage import FLAGS, P_LEAF, PAGE_BYTES


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path, flow=Flow(log_entries=5))
    await cluster.start()
    yield cluster
    await cluster.stop()


def spoil(directory: Path, scratch: Path) -> None:
    """Damage the page of the state, and of no other table, that takes the log in when it is opened again."""
    (path,) = directory.glob("*/data.mdb")
    good = path.read_bytes()
    for page in range(2 * PAGE_BYTES, len(good), PAGE_BYTES):
        if good[page + FLAGS] != P_LEAF or b"needle" not in good[page : page + PAGE_BYTES]:
            continue
        damaged = bytearray(good)
        damaged[page + FLAGS] = 0
        shutil.copytree(directory, scratch)
        (scratch / path.relative_to(directory)).write_bytes(damaged)
        try:
            environment = LmdbEnvironment(scratch, [*TABLES, STATE], map_size_bytes=1 << 28)
            spoilt = set(environment._spoilt)
            environment.close()
        except lmdb.Error:
            spoilt = set()
        shutil.rmtree(scratch)
        if spoilt == {STATE}:
            path.write_bytes(damaged)
            return
    pytest.fail("no such page")


async def test_a_state_whose_pages_cannot_take_the_log_in_is_repaired(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.member.CHECKPOINT_S", 3600.0)
    for number in range(60):
        await cluster.propose("a", b"needle %04d " % number + bytes(300))
    await until(lambda: len(cluster.commands("c")) == 60, "all commands at c")
    cluster.members["c"].checkpoint()
    applied = cluster.members["c"].status().applied_index
    await cluster.propose("a", b"one more")
    await until(lambda: cluster.members["c"].status().applied_index > applied, "what goes along with the next promise")
    await cluster.propose("a", b"and another")
    await until(lambda: cluster.members["c"].status().applied_index > applied + 1, "that promise")
    shutil.copytree(tmp_path / "c", tmp_path / "killed", ignore=shutil.ignore_patterns("lock.mdb"))
    await cluster.stop("c")
    shutil.rmtree(tmp_path / "c")
    shutil.move(tmp_path / "killed", tmp_path / "c")
    spoil(tmp_path / "c", tmp_path / "scratch")
    with pytest.raises(DataDamaged, match="fetches its state from another one"):
        await cluster.start("c")
    await cluster.stop()
    await cluster.start("c")
    assert cluster.members["c"].status().repairing
    assert not cluster.environments["c"].is_behind, "it would end at the next checkpoint"
    cluster.members["c"].checkpoint()
    assert cluster.members["c"].status().repairing
    await cluster.start("a", "b")
    await until(lambda: not cluster.members["c"].status().repairing, "the repair")
    await cluster.propose("a", b"at last")
    await until(lambda: cluster.commands("c")[-1:] == [b"at last"], "all commands at c")
    assert cluster.commands("c") == cluster.commands("a")


def no_checkpoint(monkeypatch: pytest.MonkeyPatch, environment: LmdbEnvironment) -> None:
    real = Generation.checkpoint

    def checkpoint(self: Generation, transaction: lmdb.Transaction[bytes]) -> None:
        if self is environment._generation:
            raise lmdb.DiskError("No space left on device")
        real(self, transaction)

    monkeypatch.setattr(Generation, "checkpoint", checkpoint)


async def test_a_checkpoint_that_fails_ends_the_member_and_nobody_is_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the workers of a member hear of a commit: once others see it."""
    await cluster.propose("a", b"one")
    leader = await cluster.leader()
    name = next(name for name in cluster.members if name != leader)
    member, environment, told = cluster.members[name], cluster.environments[name], list[bytes]()
    await until(lambda: len(cluster.commands(name)) == 1, "what was before")

    def committed() -> None:
        member.checkpoint()
        told.append(b"a commit")

    monkeypatch.setattr(member._replica._applying._state_machine, "committed", committed)
    no_checkpoint(monkeypatch, environment)
    await cluster.propose(leader, b"two")
    assert isinstance(await asyncio.wait_for(member.failure(), 10.0), lmdb.DiskError)
    assert not told
    with pytest.raises(OutcomeUnknown):
        member.checkpoint()


async def test_a_snapshot_that_fails_ends_the_member(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whose hands it was: a caller's failure is no more than that."""
    await cluster.propose("a", b"one")
    environment = cluster.environments["a"]
    await until(lambda: environment.is_behind or bool(cluster.commands("a")), "something in the log")
    await cluster.propose("a", b"two")
    no_checkpoint(monkeypatch, environment)
    with pytest.raises(lmdb.DiskError):
        environment.snapshot()
    assert isinstance(await asyncio.wait_for(cluster.members["a"].failure(), 10.0), lmdb.DiskError)
