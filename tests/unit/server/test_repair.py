"""Who is told of damage, and how often."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import journal
from cluster.kv.memory_env import MemoryEnvironment
from registry.server import repair
from registry.server.repair import Repairs
from registry.server.replies import Replies
from registry.server.scrubs import Scrubs
from registry.server.services.maintenance import Maintenance
from registry.store import tables
from registry.v1 import cluster_pb2
from tests.unit.logged import logged, said
from tests.unit.server.lone_cluster import Member


class Voters:
    """Three of them; `alive` are heard. `ended`: why this one was ended."""

    def __init__(self) -> None:
        self.alive = {"n1"}
        self.name = "n1"
        self.looks = 0
        self.ended: list[str] = []

    def status(self) -> Any:
        self.looks += 1
        names = ("n1", "n2", "n3")
        peers = [
            SimpleNamespace(member=SimpleNamespace(id=name, role="voter"), alive=name in self.alive) for name in names
        ]
        return SimpleNamespace(id=self.name, peers=peers)

    async def damaged(self, why: str) -> bool:
        self.ended.append(why)
        return True


async def test_a_member_that_waits_for_the_others_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of them may be away for days."""
    log = logged(monkeypatch, repair)
    monkeypatch.setattr(repair, "REPAIR_LOOK_S", 0.0)
    monkeypatch.setattr(repair, "REPAIR_TURN_S", 0.0)
    repairs, voters = Repairs(), Voters()
    cluster: Any = voters
    repairs.note("a row")
    running = asyncio.create_task(repairs.run(cluster))
    while voters.looks < 20:
        await asyncio.sleep(0)
    assert voters.ended == []
    assert said(log, "repairs itself once") == 1
    voters.alive = {"n1", "n2", "n3"}
    while not voters.ended:
        await asyncio.sleep(0)
    running.cancel()


def leave(*_: object) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("leaves", ["while it runs", "with the last message"])
async def test_what_a_scrub_has_found_is_repaired_also_where_the_caller_has_left(
    leaves: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Member()
    environment = MemoryEnvironment((*journal.TABLES, *tables.TABLES))
    environment.transaction().put(tables.WORKFLOWS, b"a/b", b"row")
    environment.commit()
    environment._tables[tables.WORKFLOWS].damaged.add(b"a/b")
    cluster: Any = member.cluster
    peers = [SimpleNamespace(member=SimpleNamespace(id=name, role="voter"), alive=True) for name in ("n1", "n2")]
    status = SimpleNamespace(**vars(cluster.status()), peers=peers)
    monkeypatch.setattr(cluster, "status", lambda: status)
    scrubs = Scrubs(cluster=cluster, environment=environment, repairs=member.repairs)
    replies = Replies("n1", cluster, cluster.feed)
    service = Maintenance(cluster=cluster, scrubs=scrubs, feed=cluster.feed, replies=replies)
    if leaves == "while it runs":
        monkeypatch.setattr(Maintenance, "_report", leave)
    stream = service.scrub(cluster_pb2.ScrubRequest())
    if leaves == "while it runs":
        with pytest.raises(asyncio.CancelledError):
            await anext(stream)
    else:
        assert (await anext(stream)).done
        await stream.aclose()  # type: ignore[attr-defined]
    assert "damaged by a test" in member.repairs.needed
    assert not scrubs.running


async def test_members_that_met_damage_together_leave_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    for name, turn in (("n1", 0), ("n2", 1), ("n3", 2)):
        slept.clear()
        voters = Voters()
        voters.name, voters.alive = name, {"n1", "n2", "n3"}
        cluster: Any = voters
        repairs = Repairs()
        repairs.note("a row")
        with monkeypatch.context() as patched:
            patched.setattr(repair.asyncio, "sleep", sleep)
            running = asyncio.ensure_future(repairs.run(cluster))
            while not voters.ended:
                await asyncio.wait([running], timeout=0.001)
        running.cancel()
        assert slept == [turn * repair.REPAIR_TURN_S]
