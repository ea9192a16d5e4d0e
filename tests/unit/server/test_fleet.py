"""FleetService over a cluster of one process, and what /metrics says of agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from structlog.testing import capture_logs

from registry.core import commands, limits
from registry.core.errors import Invalid, NotFound, Reason, Unavailable
from registry.server.agent_gauges import AgentGauges
from registry.server.limits import AGENT_GAUGES_AGAIN_S, AGENT_GAUGES_IDLE_S, CONFIRMATIONS_SHOWN, CONFIRMATIONS_WATCHES
from registry.server.replies import Replies
from registry.server.services import fleet as service
from registry.server.services.fleet import Fleet
from registry.v1 import fleet_pb2
from tests.unit.server.lone_cluster import Member

NAME = "support/triage"
DATA = [b"first", b"second"]
Asks = Callable[..., "AsyncIterator[fleet_pb2.Confirmations]"]


class Bench:
    def __init__(self) -> None:
        self.member = Member()
        cluster: Any = self.member.cluster
        self.feed = self.member.cluster.feed
        replies = Replies("n1", cluster, self.feed)
        self.fleet = Fleet(proposer=self.member.proposer, reads=self.member.reads, feed=self.feed, replies=replies)
        self.sequence = 0

    async def live(self, version: int) -> None:
        move = commands.Move(workflow=NAME, pointer="active", target=version)
        await self.member.apply(commands.Switch(**self.member.stamp(), principal="ada", reason="go", moves=(move,)))

    async def ack(self, *agents: str, generation: int, phase: str = "confirmed", version: int = 0, **more: Any) -> None:
        version = version or generation
        digest = self.member.cluster.rows.version(NAME, version).digest  # type: ignore[union-attr]
        self.sequence += 1
        report: dict[str, Any] = {
            "generation": generation,
            "running_generation": version if phase in ("confirmed", "installed") else generation - 1,
            "running_version": version,
            "running_digest": digest,
            "site": "eu-1",
        }
        acks = tuple(
            commands.Ack(
                agent=name,
                incarnation="i",
                sequence=self.sequence,
                workflow=NAME,
                pointer="active",
                phase=phase,  # type: ignore[arg-type]
                **(report | more),
            )
            for name in agents
        )
        contacts = tuple(commands.Contact(agent=name, time_ms=self.member.clock.ms()) for name in agents)
        await self.member.apply(commands.Acknowledge(**self.member.stamp(), acks=acks, contacts=contacts))

    def watch(self, generation: int = 0, wait_s: float = 60.0, **more: Any) -> AsyncIterator[fleet_pb2.Confirmations]:
        return self.fleet.watch_confirmations(
            fleet_pb2.WatchConfirmationsRequest(
                workflow=NAME, generation=generation, wait_ms=int(wait_s * 1000), **more
            )
        )

    async def once(self, generation: int = 0) -> fleet_pb2.Confirmations:
        (message,) = [each async for each in self.watch(generation, wait_s=0)]
        assert message.done
        return message


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Two versions, of which the second went live after the first. Only what is told wakes a watch, and at once."""
    for name in ("CONFIRMATIONS_GATHER_S", "CONFIRMATIONS_MESSAGE_S"):
        monkeypatch.setattr(service, name, 0.001)
    for name in ("CONFIRMATIONS_BEAT_S", "CONFIRMATIONS_AGAIN_S"):
        monkeypatch.setattr(service, name, 3600.0)
    bench = Bench()
    for number, data in enumerate(DATA, 1):
        await bench.member.publish(NAME, data)
        await bench.live(number)
    return bench


async def test_a_watch_goes_on_until_all_have_confirmed(bench: Bench) -> None:
    await bench.ack("edge-1", "edge-2", "edge-3", generation=1)
    async with aclosing(bench.watch(2)) as watch:
        message = await anext(watch)
        assert (message.agents, message.confirmed, message.done) == (3, 0, False)
        assert [(row.agent, row.state) for row in message.behind] == [(f"edge-{n}", "behind") for n in (1, 2, 3)]
        await bench.ack("edge-2", generation=2, phase="reverted", code="PROBE_FAILED", version=1)
        message = await anext(watch)
        assert (message.nacked, message.behind[0].agent, message.behind[0].code) == (1, "edge-2", "PROBE_FAILED")
        await bench.ack("edge-1", generation=2)
        assert (await anext(watch)).confirmed == 1
        await bench.ack("edge-2", "edge-3", generation=2)
        message = await anext(watch)
        assert (message.confirmed, message.done, len(message.behind)) == (3, True, 0)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_a_later_generation_is_as_good_and_other_pointers_and_workflows_do_not_count(bench: Bench) -> None:
    await bench.member.publish("support/other", b"x")
    await bench.ack("edge-1", generation=1)
    assert (await bench.once(1)).confirmed == 1
    await bench.ack("edge-1", generation=2)
    found = await bench.once(1)
    assert (found.agents, found.confirmed, found.generation) == (1, 1, 1)
    assert (await bench.once()).generation == 2
    await bench.ack("edge-1", generation=2, phase="refused", running_generation=0)
    (row,) = (await bench.once(1)).behind
    assert row.state == "nacked"


async def test_what_comes_late_from_before_a_restore_confirms_nothing(bench: Bench) -> None:
    await bench.ack("edge-1", generation=1)
    async with aclosing(bench.watch(2)) as watch:
        assert (await anext(watch)).confirmed == 0
        await bench.ack("edge-1", generation=9, version=2)
        message = await anext(watch)
        assert (message.confirmed, message.done, message.behind[0].state) == (0, False, "behind")
    assert (await bench.once(1)).confirmed == 0
    (site,) = (await bench.fleet.summarize(fleet_pb2.SummarizeRequest(), 1.0)).sites
    assert (site.behind, site.on_target) == (1, 0)


async def test_time_over_is_said_and_nobody_is_done_at_once(bench: Bench) -> None:
    assert (await bench.once()).agents == 0
    await bench.ack("edge-1", generation=1)
    messages = [each async for each in bench.watch(2, wait_s=0.01)]
    assert [each.done for each in messages] == [False, True]
    assert messages[-1].confirmed == 0


async def test_an_agent_that_is_forgotten_is_not_waited_for(bench: Bench) -> None:
    await bench.ack("edge-1", generation=2)
    await bench.ack("edge-2", generation=1)
    async with aclosing(bench.watch(2)) as watch:
        assert not (await anext(watch)).done
        request = fleet_pb2.ForgetAgentRequest(agent="edge-2", principal="ada")
        with capture_logs() as logged:
            assert (await bench.fleet.forget_agent(request, 1.0)).forgotten == 1
        assert {"agent": "edge-2", "rows": 1, "principal": "ada"}.items() <= logged[-1].items()
        message = await anext(watch)
        assert (message.agents, message.confirmed, message.done) == (1, 1, True)
    assert (await bench.fleet.forget_agent(request, 1.0)).forgotten == 0
    assert bench.member.cluster.rows.contact("edge-2").time_ms == 0
    for wrong in ({"agent": "no/name"}, {"agent": "edge-2", "principal": "two\nlines"}):
        with pytest.raises(Invalid):
            await bench.fleet.forget_agent(fleet_pb2.ForgetAgentRequest(**wrong), 1.0)


async def test_an_agent_of_many_pointers_is_forgotten_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FORGOTTEN", 2)
    await bench.member.publish("support/other", b"x")
    move = commands.Move(workflow="support/other", pointer="active", target=1)
    await bench.member.apply(commands.Switch(**bench.member.stamp(), principal="ada", reason="go", moves=(move,)))
    await bench.ack("edge-1", generation=1)
    other = commands.Ack(
        agent="edge-1", incarnation="i", sequence=9, workflow="support/other", pointer="active", generation=1,
        phase="confirmed",
    )  # fmt: skip
    await bench.member.apply(commands.Acknowledge(**bench.member.stamp(), acks=(other,)))
    request = fleet_pb2.ForgetAgentRequest(agent="edge-1")
    assert (await bench.fleet.forget_agent(request, 1.0)).forgotten == 2
    assert [each.agents[0].entirely for each in bench.member.cluster.of(commands.ForgetAgents)] == [False, True]
    assert not [*bench.member.cluster.rows.agents()]


async def test_silence_comes_without_a_word(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CONFIRMATIONS_AGAIN_S", 0.001)
    await bench.ack("edge-1", "edge-2", generation=1)
    async with aclosing(bench.watch(2)) as watch:
        assert (await anext(watch)).silent == 0
        bench.member.clock.s += limits.AGENT_SILENT_S + 1
        async for message in watch:
            if message.silent:
                break
        assert (message.silent, [row.state for row in message.behind]) == (2, ["silent", "silent"])


async def test_so_many_are_behind_that_not_all_are_named(bench: Bench) -> None:
    names = [f"edge-{number:03}" for number in range(600)]
    for start in range(0, len(names), limits.ACKS):
        await bench.ack(*names[start : start + limits.ACKS], generation=1)
    async with aclosing(bench.watch(2)) as watch:
        message = await anext(watch)
        assert (message.agents, len(message.behind)) == (600, CONFIRMATIONS_SHOWN)
        for start in range(0, len(names), limits.ACKS):  # more than one slice
            await bench.ack(*names[start : start + limits.ACKS], generation=2)
        message = [each async for each in watch][-1]
    assert (message.confirmed, message.done) == (600, True)


async def test_another_state_is_read_anew(bench: Bench) -> None:
    await bench.ack("edge-1", generation=1)
    async with aclosing(bench.watch(2)) as watch:
        await anext(watch)
        read, called = bench.fleet.call_roll, list[object]()
        bench.fleet.call_roll = lambda *what: (called.append(what), read(*what))[1]  # type: ignore[method-assign]
        bench.feed.replaced(bench.feed.registry)
        assert (await anext(watch)).agents == 1
        await bench.ack("edge-2", generation=1)
        assert (await anext(watch)).agents == 2
        assert len(called) == 1  # all of them once, and then the one that reported


async def test_a_member_that_leaves_ends_its_watches(bench: Bench) -> None:
    await bench.ack("edge-1", generation=1)
    async with aclosing(bench.watch(2)) as watch:
        await anext(watch)
        bench.feed.close()
        with pytest.raises(Unavailable) as left:
            await anext(watch)
    assert left.value.reason is Reason.SHUTTING_DOWN


async def test_watches_are_bounded_and_give_their_place_back(bench: Bench) -> None:
    await bench.ack("edge-1", generation=1)
    watches = [bench.watch(2) for _ in range(CONFIRMATIONS_WATCHES)]
    for watch in watches:
        await anext(watch)
    with pytest.raises(Unavailable) as busy:
        await anext(bench.watch(2))
    assert busy.value.reason is Reason.BUSY
    for watch in watches:
        await watch.aclose()  # type: ignore[attr-defined]
    assert (await bench.once(2)).agents == 1
    assert not bench.fleet._watches


async def test_agents_are_read_by_one_after_the_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.ack("edge-1", generation=2)
    beside, reading, most = bench.member.reads.beside, 0, 0

    async def counted(read: Callable[..., Any]) -> Any:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        try:
            return await beside(read)
        finally:
            reading -= 1

    monkeypatch.setattr(bench.member.reads, "beside", counted)
    summing = asyncio.create_task(bench.fleet.summarize(fleet_pb2.SummarizeRequest(), 1.0))
    found = await asyncio.gather(*(bench.once(2) for _ in range(5)))
    assert [each.confirmed for each in found] == [1] * 5
    assert (await summing).sites[0].on_target == 1
    assert most == 1


async def test_what_is_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound) as unknown:
        await bench.once(7)
    assert unknown.value.reason is Reason.POINTER_NOT_FOUND
    monkeypatch.setattr(service, "CALL_S", 0.001)
    with pytest.raises(Unavailable) as behind:
        await anext(bench.watch(2, min_revision=bench.feed.registry.revision + 1))
    assert behind.value.reason is Reason.BUSY
    waiting = asyncio.ensure_future(anext(bench.watch(2, min_revision=bench.feed.registry.revision)))
    assert (await waiting).done


async def test_a_summary_counts_by_pointer_and_site(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.ack("edge-1", generation=1)
    bench.member.clock.s += 3
    await bench.ack("edge-2", generation=2)
    await bench.ack("edge-3", generation=2, site="us-1")
    reply = await bench.fleet.summarize(fleet_pb2.SummarizeRequest(), 1.0)
    assert [(site.site, site.agents, site.on_target, site.behind) for site in reply.sites] == [
        ("eu-1", 2, 1, 1),
        ("us-1", 1, 1, 0),
    ]
    assert (reply.sites[0].generation, reply.sites[0].version) == (2, 2)
    assert (reply.sites[0].oldest_behind_ms, reply.sites[0].oldest_contact_ms) == (3000, 3000)
    assert not (await bench.fleet.summarize(fleet_pb2.SummarizeRequest(workflow=NAME, stale=True), 1.0)).info.age_ms
    with pytest.raises(NotFound):
        await bench.fleet.summarize(fleet_pb2.SummarizeRequest(workflow="support/nothing"), 1.0)
    monkeypatch.setattr(service, "SUMMARY_SITES", 1)
    with pytest.raises(Invalid) as large:
        await bench.fleet.summarize(fleet_pb2.SummarizeRequest(), 1.0)
    assert large.value.reason is Reason.TOO_LARGE


async def test_gauges_are_counted_while_somebody_looks_at_the_leader(bench: Bench) -> None:
    member = bench.member
    cluster: Any = member.cluster
    gauges = AgentGauges(
        cluster=cluster, environment=cluster.environment, repairs=member.repairs, clock_ms=member.clock.ms,
        monotonic_s=member.clock.monotonic_s, sites=1,
    )  # fmt: skip
    await bench.ack("edge-1", "edge-2", generation=2)
    await bench.ack("edge-3", generation=2, site="us-1")

    def shown() -> dict[tuple[str, ...], float]:
        agents, left_out = gauges.collect()
        samples = [*agents.samples, *left_out.samples]
        return {tuple(each.labels.values()): each.value for each in samples if each.value or not each.labels}

    await gauges.round()
    assert shown() == {(): 0}
    await gauges.round()
    assert shown() == {(NAME, "active", "eu-1", "on_target"): 2, (): 1}
    await bench.ack("edge-4", generation=2)
    await gauges.round()
    assert shown()[NAME, "active", "eu-1", "on_target"] == 2  # not yet
    member.clock.s += AGENT_GAUGES_AGAIN_S
    await gauges.round()
    assert shown()[NAME, "active", "eu-1", "on_target"] == 3
    member.cluster.leader = "n2"
    assert shown() == {}
    await gauges.round()
    member.cluster.leader = "n1"
    assert shown() == {(): 0}
    member.clock.s += AGENT_GAUGES_IDLE_S
    await gauges.round()
    assert shown() == {(): 0}
