"""What the leader does by itself, over tables in memory and a clock that goes when it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cluster.api import NotAttempted
from registry.core import limits
from registry.core.commands import (
    Ack,
    Acknowledge,
    Collect,
    Contact,
    ForgetAgents,
    Index,
    Move,
    PutChunk,
    Repack,
    Retain,
    Switch,
)
from registry.core.model import Content
from registry.server import upkeep
from registry.server.limits import (
    CHUNK_ABANDONED_S,
    COLLECT_INTERVAL_S,
    EXPIRY_FIRST_S,
    EXPIRY_INTERVAL_S,
    REPACK_AFTER_S,
    RETENTION_FIRST_S,
    RETENTION_INTERVAL_S,
    UPKEEP_TIMEOUT_S,
)
from registry.server.upkeep import Upkeep
from registry.store import content, packing, tables
from tests.unit.logged import logged, said
from tests.unit.server.lone_cluster import Member, near

WORKFLOW = "support/triage"


def upkeep_of(member: Member) -> Upkeep:
    """Of a member that has led long enough to let go of contents."""
    cluster: Any = member.cluster
    work = Upkeep(
        cluster=cluster,
        environment=cluster.environment,
        feed=cluster.feed,
        proposer=member.proposer,
        retention=member.retention,
        repacker=member.repacker,
        repairs=member.repairs,
        metrics=member.metrics,
        monotonic_s=member.clock.monotonic_s,
        sleep=member.clock.sleep,
    )
    member.clock.s += RETENTION_FIRST_S
    return work


@pytest.fixture
def member() -> Member:
    return Member()


async def chunk(member: Member, data: bytes) -> str:
    await member.apply(PutChunk(**member.stamp(), digest=content.digest(data), content=content.encode(data)))
    return content.digest(data)


async def test_the_index_is_completed_once(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INDEXED", 1)
    for name in ("a/a", "a/b", "a/c"):
        await member.publish(name, name.encode())
    work = upkeep_of(member)
    await work.round()
    assert member.cluster.feed.registry.is_indexed
    steps = len(member.cluster.of(Index))
    assert steps > 2
    await work.round()
    assert len(member.cluster.of(Index)) == steps


@pytest.mark.parametrize(("leader", "level"), [("n2", 2), ("n1", 1)])
async def test_only_the_leader_works_and_only_at_level_2(member: Member, leader: str, level: int) -> None:
    member.cluster.leader, member.cluster.level = leader, level
    await upkeep_of(member).round()
    assert member.cluster.commands == []


async def test_chunks_are_collected_when_they_were_seen_unused_long_enough(member: Member) -> None:
    work = upkeep_of(member)
    await chunk(member, b"abandoned")
    await work.round()
    member.clock.s += CHUNK_ABANDONED_S - 1
    await work.round()
    late = await chunk(member, b"late")
    assert member.cluster.of(Collect) == []
    member.clock.s += COLLECT_INTERVAL_S
    await work.round()
    assert [command.digests for command in member.cluster.of(Collect)] == [(content.digest(b"abandoned"),)]
    assert [digest for digest, _ in member.cluster.rows.chunks()] == [late]


async def test_what_another_leader_saw_does_not_count(member: Member) -> None:
    work = upkeep_of(member)
    await chunk(member, b"abandoned")
    await work.round()
    member.cluster.leader = "n2"
    await work.round()
    member.cluster.leader = "n1"
    member.clock.s += CHUNK_ABANDONED_S
    await work.round()
    assert member.cluster.of(Collect) == []


async def test_retention_goes_in_batches_what_rests_on_others_first(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETAINED", 3)
    await member.index()
    await member.chain(WORKFLOW, near(9))
    await member.publish("a/kept", b"no policy")
    await member.policy(WORKFLOW, keep_last="2")
    await upkeep_of(member).round()
    assert [command.versions for command in member.cluster.of(Retain)] == [(7, 6, 5), (4, 3, 2), (1,)]
    assert {command.principal for command in member.cluster.of(Retain)} == {"registry"}
    assert {command.reason for command in member.cluster.of(Retain)} == {f"policy of {WORKFLOW}: keep_last=2"}
    rows = member.cluster.rows
    assert [content.unpack(rows, content.digest(data)) for data in near(9)[7:]] == near(9)[7:]
    assert not any(rows.has_content(content.digest(data)) for data in near(9)[:7])
    assert rows.has_content(content.digest(b"no policy"))


async def test_a_new_leader_lets_some_time_pass_before_it_lets_go_of_contents(member: Member) -> None:
    """Else a change of leaders removes what somebody is just reading a dry run about."""
    work = upkeep_of(member)
    await member.index()
    await member.chain(WORKFLOW, near(4))
    await member.policy("*", keep_last="1")
    member.cluster.leader = "n2"
    await work.round()
    member.cluster.leader = "n1"
    member.clock.s += RETENTION_FIRST_S - 1
    await work.round()
    assert member.cluster.of(Retain) == []
    member.clock.s += 1
    await work.round()
    assert member.cluster.of(Retain)


async def test_retention_is_due_once_an_hour(member: Member) -> None:
    work = upkeep_of(member)
    await member.index()
    await work.round()
    await member.chain(WORKFLOW, near(4))
    await member.policy("*", keep_last="1")
    member.clock.s += RETENTION_INTERVAL_S - 1
    await work.round()
    assert member.cluster.of(Retain) == []
    member.clock.s += 1
    await work.round()
    assert [command.versions for command in member.cluster.of(Retain)] == [(3, 2, 1)]


async def reported(member: Member, *agents: str) -> None:
    """Each runs the first version of WORKFLOW, and was heard of now."""
    if member.cluster.rows.workflow(WORKFLOW) is None:
        await member.publish(WORKFLOW, b"1")
        await member.policy("*", agents_expire_days="7")
        moves = (Move(workflow=WORKFLOW, pointer="active", target=1),)
        await member.apply(Switch(**member.stamp(), principal="ada", moves=moves, reason="go"))
    acks = tuple(
        Ack(
            agent=agent, incarnation="i", sequence=1, workflow=WORKFLOW, pointer="active", generation=1,
            phase="confirmed", running_version=1,
        )
        for agent in agents
    )  # fmt: skip
    contacts = tuple(Contact(agent=agent, time_ms=member.clock.ms(), session="s") for agent in agents)
    await member.apply(Acknowledge(**member.stamp(), acks=acks, contacts=contacts))


def known(member: Member) -> list[str]:
    rows = member.cluster.rows
    agents = [agent.agent for _, agent in rows.agents()]
    assert agents == [agent for agent, _ in rows.contacts()]
    return agents


WEEK_S = 7 * 24 * 3600.0


async def test_agents_that_were_silent_for_so_long_are_forgotten(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FORGOTTEN", 5)
    work = upkeep_of(member)
    await reported(member, *(f"edge-{number}" for number in range(5)))
    member.clock.s += WEEK_S - 1
    await reported(member, "heard")
    await work.round()
    assert member.cluster.of(ForgetAgents) == []
    member.clock.s += EXPIRY_INTERVAL_S
    await work.round()
    assert known(member) == ["heard"]
    assert [len(command.agents) for command in member.cluster.of(ForgetAgents)] == [2, 2, 1]
    member.clock.s += WEEK_S
    await member.policy("*", agents_expire_days="never")
    await work.round()
    assert known(member) == ["heard"]


async def test_those_that_are_kept_do_not_stand_in_the_way_of_others(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "EXPIRY_WATCHED", 2)
    work = upkeep_of(member)
    await reported(member, *(f"edge-{number}" for number in range(5)))
    await member.policy("*", agents_expire_days="7")
    await member.policy(WORKFLOW, agents_expire_days="never")
    now = (Contact(agent=f"polled-{number}", time_ms=member.clock.ms()) for number in range(3))
    await member.apply(Acknowledge(**member.stamp(), acks=(), contacts=tuple(now)))
    member.clock.s += WEEK_S
    for _ in range(5):
        member.clock.s += EXPIRY_INTERVAL_S
        await work.round()
    left = [agent for agent, _ in member.cluster.rows.contacts()]
    assert left == [f"edge-{number}" for number in range(5)]


async def test_a_new_leader_lets_agents_be_heard_of_first(member: Member) -> None:
    await reported(member, "edge-1", "edge-2")
    member.clock.s += 2 * WEEK_S  # all members were down, for one
    work = upkeep_of(member)
    member.cluster.leader = "n2"
    await work.round()
    member.cluster.leader = "n1"
    await work.round()
    member.clock.s += EXPIRY_FIRST_S - 1
    await reported(member, "edge-1")
    await work.round()
    assert known(member) == ["edge-1", "edge-2"]
    member.clock.s += 1
    await work.round()
    assert known(member) == ["edge-1"]


async def test_silence_while_there_was_no_majority_does_not_count(member: Member) -> None:
    work = upkeep_of(member)
    await reported(member, "edge-1")
    member.clock.s += 2 * WEEK_S
    member.cluster.has_majority = False
    await work.round()
    member.cluster.has_majority = True
    member.clock.s += EXPIRY_FIRST_S - 1
    await work.round()
    assert known(member) == ["edge-1"]
    member.clock.s += 1
    await work.round()
    assert known(member) == []


async def test_one_that_is_heard_of_while_it_is_being_forgotten_stays(member: Member) -> None:
    work = upkeep_of(member)
    await reported(member, "edge-1", "edge-2")
    member.clock.s += 2 * WEEK_S
    propose = member.cluster.propose

    async def late(command: bytes, *, timeout_s: float) -> bytes:
        if b"forget_agents" in command:
            member.cluster.propose = propose  # type: ignore[method-assign]
            await reported(member, "edge-2")
        return await propose(command, timeout_s=timeout_s)

    member.cluster.propose = late  # type: ignore[method-assign]
    await work.round()
    assert [each.agent for each in member.cluster.of(ForgetAgents)[0].agents] == ["edge-1", "edge-2"]
    assert known(member) == ["edge-2"]


async def test_a_walk_looks_at_all_however_short_its_slices(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SLICE_ROWS", 2)
    monkeypatch.setattr(upkeep, "UPKEEP_SLICE_S", 0.0)
    await member.index()
    names = [f"a/w{number}" for number in range(7)]
    for name in names:
        await member.chain(name, near(2))
    await member.policy("*", keep_last="1")
    await upkeep_of(member).round()
    assert sorted(command.workflow for command in member.cluster.of(Retain)) == names


async def test_a_refused_step_holds_up_no_other_and_comes_again_soon(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logged(monkeypatch, upkeep)
    work = upkeep_of(member)
    await member.index()
    await chunk(member, b"abandoned")
    await work.round()
    member.clock.s += CHUNK_ABANDONED_S
    await member.chain(WORKFLOW, near(3))
    await member.policy("*", keep_last="1")
    member.cluster.fails[Collect] = NotAttempted("no leader")
    await work.round()
    await work.round()
    assert len(member.cluster.of(Retain)) == 1
    assert said(log, "upkeep is put off") == 1
    member.cluster.fails.clear()
    await work.round()
    assert len(member.cluster.of(Collect)) == 1


async def test_contents_are_packed_smaller_once_they_are_old_enough_and_tried_once(member: Member) -> None:
    work = upkeep_of(member)
    await member.index()
    first, second = near(2)
    await member.publish(WORKFLOW, first)
    await member.publish(WORKFLOW, second)  # alone, though it could rest on the first
    before = member.cluster.rows.content(content.digest(second))
    await work.round()
    assert member.cluster.of(Repack) == []
    member.clock.s += REPACK_AFTER_S
    await work.round()
    after = member.cluster.rows.content(content.digest(second))
    assert before is not None
    assert after is not None
    assert content.cost_bytes(after) < content.cost_bytes(before) / 2
    assert after.settled
    assert content.unpack(member.cluster.rows, content.digest(second)) == second
    tried: list[str] = []
    member.repacker.shrink = lambda digest, _: tried.append(digest)  # type: ignore[assignment, return-value]
    await work.round()
    assert tried == []


async def test_packing_takes_nothing_of_the_time_that_its_proposal_has(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a content that takes long to pack would be packed again and again, and none behind it ever."""
    loop = asyncio.get_running_loop()
    better = packing.Repacking.better

    def slow(job: packing.Repacking) -> Content | None:
        later_s = loop.time() + 10 * UPKEEP_TIMEOUT_S
        monkeypatch.setattr(loop, "time", lambda: later_s)
        return better(job)

    monkeypatch.setattr(packing.Repacking, "better", slow)
    await member.index()
    for data in near(2):
        await member.publish(WORKFLOW, data)
    member.clock.s += REPACK_AFTER_S
    await upkeep_of(member).round()
    assert len(member.cluster.of(Repack)) == 1


async def test_while_there_is_no_room_nothing_is_packed_smaller(member: Member) -> None:
    """The log would take what room is left, and purges need that."""
    await member.index()
    for data in near(2):
        await member.publish(WORKFLOW, data)
    member.clock.s += REPACK_AFTER_S
    member.cluster.has_room = False
    work = upkeep_of(member)
    await work.round()
    assert member.cluster.of(Repack) == []
    member.cluster.has_room = True
    await work.round()
    assert len(member.cluster.of(Repack)) == 1


async def test_a_walk_rests_also_where_each_row_costs_time_and_nothing_is_to_be_done(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_SLICE_S", 0.0)
    monkeypatch.setattr(upkeep, "SLICE_ROWS", 1000)
    await member.index()
    for number in range(20):
        await member.publish(f"a/w{number}", b"one")
    rests = 0

    async def sleep(seconds: float) -> None:
        nonlocal rests
        rests += 1

    monkeypatch.setattr(member.clock, "sleep", sleep)
    await upkeep_of(member).round()
    assert rests >= 20


async def test_content_that_cannot_be_read_stops_nothing(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logged(monkeypatch, upkeep)
    await member.index()
    broken = Content(encoding="zstd", data=b"no frame", size_bytes=2720)
    first, second = near(2)
    await member.publish("a/broken", b"other bytes", broken)
    await member.publish(WORKFLOW, first)
    await member.publish(WORKFLOW, second)
    member.clock.s += REPACK_AFTER_S
    await upkeep_of(member).round()
    assert said(log, "passes by")
    assert [command.digest for command in member.cluster.of(Repack)][-1] == content.digest(second)


async def test_a_damaged_row_is_a_reason_to_repair_the_member(member: Member) -> None:
    await member.index()
    await member.publish(WORKFLOW, b"one")
    key = next(member.cluster.environment.transaction().scan(tables.WORKFLOWS))[0]
    member.cluster.environment._tables[tables.WORKFLOWS].damaged.add(key)
    await upkeep_of(member).round()
    assert "damaged by a test" in member.repairs.needed
