"""Members that come and go: real ones, over loopback sockets and LMDB."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.api import MemberRemoved, NotAttempted, ReleaseTooOld
from cluster.limits import Flow
from cluster.membership import Add, Changed, Promote, Remove, Transfer
from tests.integration.cluster_members import Cluster, until

SMALL = Flow(log_entries=20, trim_entries=50, chunk_bytes=2000, digest_every=8)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path, flow=SMALL)
    await cluster.start()
    await heard(cluster)
    yield cluster
    await cluster.stop()


async def heard(cluster: Cluster) -> None:
    """The leader has heard of each how far it is: it changes nothing on a guess."""
    leader = await cluster.leader()
    await until(lambda: all(peer.alive for peer in cluster.members[leader].status().peers), "all to be heard")


@asynccontextmanager
async def writing(cluster: Cluster, *names: str) -> AsyncIterator[list[int]]:
    """Two writers at each of them all the while; what each write returned."""
    stopping, done = asyncio.Event(), list[int]()

    async def write(name: str) -> None:
        while not stopping.is_set():
            done.append(await cluster.propose(name, b"%8d" % len(done)))

    writers = [asyncio.create_task(write(name)) for name in names * 2]
    try:
        yield done
    finally:
        stopping.set()
        await asyncio.gather(*writers)


async def alike(cluster: Cluster) -> None:
    """All have applied the same."""
    await until(
        lambda: len({tuple(cluster.commands(id)) for id in cluster.members}) == 1, f"one state in {[*cluster.members]}"
    )


async def admitted(cluster: Cluster, id: str, via: str = "a") -> None:
    """It was started; it is admitted and has caught up."""
    leader = await cluster.leader_of(via)
    waits = cluster.members[leader]
    await until(lambda: id in [each.member.id for each in waits.status().waiting], f"{id} to wait")
    assert cluster.members[id].status().role == "waiting"
    assert await cluster.change(via, Add(id)) == Changed(member=id)
    await until(lambda: cluster.members[id].status().role == "observer", "its admission")
    await until(lambda: {p.member.id: p.alive for p in waits.status().peers}[id], "its first word")


async def test_a_process_joins_is_promoted_and_counts(cluster: Cluster) -> None:
    for number in range(60):
        await cluster.propose("a", b"%d" % number)
    await cluster.start("d/1")
    await admitted(cluster, "d/1", via="b")
    await alike(cluster)
    assert cluster.members["d/1"].status().first_index > 1  # it has a state, not the log from the start
    assert await cluster.change("c", Promote("d")) == Changed(member="d/1")
    assert await cluster.change("c", Promote("d")) == Changed(member="d/1")  # it is so already
    voting = {"a": "voter", "b": "voter", "c": "voter", "d/1": "voter"}
    await until(lambda: cluster.roles("d/1") == voting, "its own vote")
    leader = await cluster.leader()
    (out,) = [name for name in "abc" if name != leader][:1]
    await cluster.stop(out)  # three of four are a majority
    assert await cluster.propose("d/1", b"by d") == 61
    await cluster.start(out)
    await alike(cluster)


async def test_a_promoted_member_comes_back_after_a_restart(cluster: Cluster) -> None:
    await cluster.start("d/1")
    await admitted(cluster, "d/1")
    await cluster.propose("d/1", b"1")
    await cluster.stop("d/1")
    for number in range(50):  # more than the others keep
        await cluster.propose("a", b"%d" % number)
    await cluster.start("d/1")
    await alike(cluster)
    assert cluster.roles("d/1")["d/1"] == "observer"


async def test_a_voter_that_was_away_catches_up_by_a_state_under_load(cluster: Cluster) -> None:
    leader = await cluster.leader()
    away = next(name for name in "abc" if name != leader)
    await cluster.stop(away)
    there = [name for name in "abc" if name != away]
    async with writing(cluster, *there) as done:
        await until(lambda: len(done) > 300, "writes while it is away")
        assert cluster.members[leader].status().first_index > 20
        await cluster.start(away)
        member = cluster.members[away]
        await until(lambda: member.status().first_index > 20, "the fetched state")
        await until(lambda: member.status().applied_index > 300, "appends behind it")
    assert sorted(done) == list(range(1, len(done) + 1))
    await alike(cluster)
    assert member.status().fetching == ""


async def test_the_log_is_trimmed_everywhere_and_a_restart_goes_on(cluster: Cluster) -> None:
    for number in range(80):
        await cluster.propose("a", b"%d" % number)
    await until(lambda: all(one.status().first_index > 40 for one in cluster.members.values()), "the trimming")
    await cluster.stop()
    await cluster.start()
    assert await cluster.propose("b", b"after") == 81
    await alike(cluster)


async def test_leadership_is_transferred_under_load_and_no_call_fails(cluster: Cluster) -> None:
    leader = await cluster.leader()
    async with writing(cluster, "a", "b", "c") as done:
        for number in range(1, 5):
            await until(lambda least=20 * number: len(done) > least, "some writes")  # type: ignore[misc]
            target = next(name for name in "abc" if name != leader)
            asked = next(name for name in "abc" if name not in (leader, target))
            assert await cluster.change(asked, Transfer(target)) == Changed(member=target)
            await until(lambda name=target: cluster.members[name].status().leader == name, "the new leader")  # type: ignore[misc]
            leader = target
    assert sorted(done) == list(range(1, len(done) + 1))
    await alike(cluster)


async def test_a_removed_member_ends_and_says_so(cluster: Cluster) -> None:
    leader = await cluster.leader()
    out, stays = [name for name in "abc" if name != leader]
    ended = asyncio.create_task(cluster.members[out].failure())
    assert await cluster.change(stays, Remove(out)) == Changed(member=out)
    assert isinstance(await asyncio.wait_for(ended, 10.0), MemberRemoved)
    assert await cluster.propose(stays, b"x") == 1
    assert out not in cluster.roles(leader)
    await cluster.stop(out)
    try:
        await cluster.start(out)
    except MemberRemoved:  # it had heard of it in its log
        return
    why = await asyncio.wait_for(cluster.members[out].failure(), 10.0)
    assert "was removed from" in str(why)


async def test_a_member_removed_while_it_was_away_learns_it_when_it_comes_back(cluster: Cluster) -> None:
    leader = await cluster.leader()
    out, stays = [name for name in "abc" if name != leader]
    await cluster.propose(out, b"x")
    await cluster.stop(out)
    assert await cluster.change(stays, Remove(out)) == Changed(member=out)
    await cluster.start(out)
    why = await asyncio.wait_for(cluster.members[out].failure(), 10.0)
    assert isinstance(why, MemberRemoved)


async def test_a_leader_is_removed_by_its_successor(cluster: Cluster) -> None:
    leader = await cluster.leader()
    asked = next(name for name in "abc" if name != leader)
    ended = asyncio.create_task(cluster.members[leader].failure())
    async with writing(cluster, asked) as done:
        assert await cluster.change(asked, Remove(leader)) == Changed(member=leader)
        assert isinstance(await asyncio.wait_for(ended, 10.0), MemberRemoved)
        before = len(done)
        await until(lambda: len(done) > before + 20, "writes after it")
    assert leader not in cluster.roles(asked)


async def test_a_wiped_member_is_refused_and_replaced(cluster: Cluster, tmp_path: Path) -> None:
    leader = await cluster.leader()
    wiped = next(name for name in "abc" if name != leader)
    await cluster.propose(wiped, b"x")
    await cluster.stop(wiped)
    shutil.rmtree(tmp_path / wiped)
    await cluster.start(wiped, incarnation="another directory")
    with pytest.raises(NotAttempted):
        await cluster.members[wiped].barrier(timeout_s=0.5)
    assert cluster.commands(wiped) == []
    await cluster.stop(wiped)
    new = f"{wiped}/2"
    await cluster.start(new)
    await admitted(cluster, new, via=leader)
    assert (await cluster.change(leader, Promote(new))).reason == "NAME_TAKEN"
    assert await cluster.change(leader, Remove(wiped)) == Changed(member=wiped)
    await cluster.propose(leader, b"y")
    await alike(cluster)
    assert await cluster.change(leader, Promote(wiped)) == Changed(member=new)
    assert await cluster.propose(new, b"z") == 3
    assert cluster.roles(leader)[new] == "voter"


async def test_observers_follow_in_a_chain_and_are_cut_off_with_what_they_have(cluster: Cluster) -> None:
    await cluster.start("d/1")
    await admitted(cluster, "d/1")
    await cluster.start("e/1", join=["d/1"])
    await admitted(cluster, "e/1")
    member = cluster.members["e/1"]
    await until(lambda: member._replica.recovery.source.id == "d/1", "the source it prefers")
    for number in range(30):
        await cluster.propose("e/1", b"%d" % number)
    await alike(cluster)
    await member.barrier(timeout_s=5.0)
    assert member.status().leader_contact_s < 1.0
    await cluster.stop("a", "b", "c", "d/1")
    await until(lambda: member.status().leader_contact_s > 1.0, "its knowledge to age")
    assert len(cluster.commands("e/1")) == 30
    with pytest.raises(NotAttempted):
        await member.barrier(timeout_s=0.2)


async def test_members_of_two_releases_apply_alike_and_the_level_follows_the_last_one(tmp_path: Path) -> None:
    levels = {"a": 2, "b": 2, "c": 1}
    cluster = Cluster(tmp_path, flow=SMALL, levels=levels)
    await cluster.start()
    try:
        await cluster.propose("a", b"1")
        await until(lambda: all(p.level for p in cluster.members["a"].status().peers), "what each can apply")
        assert cluster.members["a"].status().level == 1
        await cluster.stop("c")
        levels["c"] = 2
        await cluster.start("c")
        await until(lambda: {one.status().level for one in cluster.members.values()} == {2}, "the next level")
        await cluster.stop("c")
        levels["c"] = 1
        with pytest.raises(ReleaseTooOld):
            await cluster.start("c")
        assert await cluster.propose("a", b"2") == 2
    finally:
        await cluster.stop()


async def test_a_removal_that_is_not_committed_ends_nobody(cluster: Cluster) -> None:
    """Nor does it take the vote from whom it means: with the third one it is a majority."""
    leader = await cluster.leader()
    meant, away = [name for name in "abc" if name != leader]
    await cluster.propose(leader, b"before")
    await cluster.stop(away)
    ended = asyncio.create_task(cluster.members[meant].failure())
    removing = asyncio.create_task(cluster.change(leader, Remove(meant, force=True)))
    await until(lambda: meant not in cluster.roles(leader), "the removal in the leader's log")
    await until(lambda: cluster.members[leader].status().leader is None, "the end of its term")
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)
    assert not ended.done()
    ended.cancel()
    await cluster.stop(leader)  # the entry is nowhere else
    await cluster.start(away)
    await cluster.propose(meant, b"after")
    await cluster.start(leader)
    await until(lambda: set(cluster.roles(leader)) == set("abc"), "the truncation")


async def test_another_history_ends_no_member_that_hears_a_leader(cluster: Cluster) -> None:
    """A restore at a live address, or a recovery beside a healthy majority, would otherwise end all of it."""
    member = cluster.members["a"]
    failure = asyncio.ensure_future(member.failure())
    member.on_removed("a was removed from this cluster", "a restored one")
    assert await cluster.propose("a", b"1") == 1
    assert not failure.done()
    member.on_removed("a was removed from this cluster", "ours")
    assert isinstance(await failure, MemberRemoved)
