"""Calls that wait: polls, watches, reads of a revision to come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from registry.core import limits
from registry.v1 import agent_pb2, registry_pb2
from tests.integration.server_kit import RPC_S, Peer, failed, members, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG_MS = 20_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Peer]:
    async with members(tmp_path_factory.mktemp("member")) as (only,):
        yield only


def poll_of(workflow: str, generation: int = 0, *, wait_ms: int = 0, **fields: Any) -> agent_pb2.PollRequest:
    follow = agent_pb2.Follow(workflow=workflow, generation=generation)
    return agent_pb2.PollRequest(**{"agent": "edge-1", "follows": [follow], "wait_ms": wait_ms, "epoch": 1} | fields)


async def live(peer: Peer, workflow: str, *, versions: int = 2) -> None:
    for number in range(versions):
        await peer.publish(workflow, b'{"v": %d}' % number)
    await peer.switch(workflow, 1)


async def test_a_poll_answers_at_once_with_what_differs(peer: Peer) -> None:
    await live(peer, "poll/one")
    await peer.switch("poll/one", 2)
    reply = await peer.agents.Poll(poll_of("poll/one"), timeout=RPC_S)
    (instruction,) = reply.instructions
    assert (instruction.pointer, instruction.generation, instruction.version.number) == ("active", 2, 2)
    first = await peer.registry.GetVersion(
        registry_pb2.GetVersionRequest(workflow="poll/one", reference="1"), timeout=RPC_S
    )
    assert instruction.base_digest == first.version.digest
    assert instruction.min_revision == reply.info.revision
    assert instruction.reason == "test"
    assert not (await peer.agents.Poll(poll_of("poll/one", 2), timeout=RPC_S)).instructions
    assert not (await peer.agents.Poll(poll_of("poll/one", 3), timeout=RPC_S)).instructions
    assert not (await peer.agents.Poll(poll_of("poll/unborn"), timeout=RPC_S)).instructions


async def test_generations_are_compared_within_an_epoch(peer: Peer) -> None:
    await live(peer, "poll/epoch")
    assert (await peer.agents.Poll(poll_of("poll/epoch", 99, epoch=0), timeout=RPC_S)).instructions
    assert not (await peer.agents.Poll(poll_of("poll/epoch", 0, epoch=2), timeout=RPC_S)).instructions


async def test_a_waiting_poll_wakes_for_its_pointer_only(peer: Peer) -> None:
    await live(peer, "wake/one")
    await live(peer, "wake/two")
    hub = peer.member.hub
    one = asyncio.ensure_future(peer.agents.Poll(poll_of("wake/one", 1, wait_ms=LONG_MS), timeout=30))
    two = asyncio.ensure_future(peer.agents.Poll(poll_of("wake/two", 1, wait_ms=LONG_MS), timeout=30))
    await until(lambda: hub.waiting == 2)
    await peer.switch("wake/one", 2)
    assert (await one).instructions[0].generation == 2
    assert hub.waiting == 1
    assert not two.done()
    await peer.switch("wake/two", 2, pointer="canary")
    await peer.switch("wake/two", 2)
    assert (await two).instructions[0].workflow == "wake/two"
    assert hub.waiting == 0


async def test_a_poll_waits_no_longer_than_asked(peer: Peer) -> None:
    await live(peer, "poll/quiet")
    started = time.monotonic()
    reply = await peer.agents.Poll(poll_of("poll/quiet", 1, wait_ms=200), timeout=RPC_S)
    assert not reply.instructions
    assert time.monotonic() - started >= 0.2


async def test_a_caller_that_leaves_frees_its_place(peer: Peer) -> None:
    await live(peer, "poll/gone")
    call = peer.agents.Poll(poll_of("poll/gone", 1, wait_ms=LONG_MS), timeout=30)
    await until(lambda: peer.member.hub.waiting == 1)
    call.cancel()
    await until(lambda: peer.member.hub.waiting == 0)


async def test_polls_that_cannot_be_served(peer: Peer) -> None:
    error = await failed(peer.agents.Poll(poll_of("poll/one", cluster_id="feedfeedfeedfeed"), timeout=RPC_S))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CLUSTER_MISMATCH")
    assert error.metadata["cluster_id"] == peer.member.feed.registry.cluster_id
    assert (await failed(peer.agents.Poll(poll_of("poll"), timeout=RPC_S))).reason == "INVALID_NAME"
    assert (await failed(peer.agents.Poll(poll_of("poll/one", agent=""), timeout=RPC_S))).reason == "INVALID_NAME"
    follows = [agent_pb2.Follow(workflow="poll/one", pointer=f"p{number}") for number in range(limits.FOLLOWS + 1)]
    error = await failed(peer.agents.Poll(poll_of("poll/one", follows=follows), timeout=RPC_S))
    assert error.reason == "TOO_LARGE"


def ack(agent: str, generation: int, phase: str, **fields: Any) -> agent_pb2.Ack:
    return agent_pb2.Ack(
        **{
            "agent": agent,
            "incarnation": "i1",
            "sequence": generation,
            "workflow": "acks/one",
            "pointer": "active",
            "generation": generation,
            "phase": phase,
            "running_generation": generation,
            "running_version": 1,
        }
        | fields
    )


async def agents(peer: Peer) -> dict[str, registry_pb2.AgentRow]:
    reply = await peer.registry.ListAgents(
        registry_pb2.ListAgentsRequest(workflow="acks/one", page_size=1000), timeout=RPC_S
    )
    return {row.agent: row for row in reply.agents}


async def test_acks_of_many_agents_are_recorded_and_say_who_runs_what(peer: Peer) -> None:
    await live(peer, "acks/one")
    names = [f"edge-{number}" for number in range(300)]
    before = peer.member.cluster.status().commit_index
    await asyncio.gather(
        *(
            peer.agents.Acknowledge(agent_pb2.AcknowledgeRequest(acks=[ack(name, 1, "confirmed")]), timeout=RPC_S)
            for name in names
        )
    )
    assert peer.member.cluster.status().commit_index - before < len(names)
    request = registry_pb2.ListAgentsRequest(workflow="acks/one", page_size=1000)
    rows = (await peer.registry.ListAgents(request, timeout=RPC_S)).agents
    assert sorted(row.agent for row in rows) == sorted(names)
    assert {(row.state, row.generation, row.version) for row in rows} == {("current", 1, 1)}
    await peer.switch("acks/one", 2)
    reports = [
        ack("edge-1", 2, "installed", running_version=2),
        ack("edge-2", 2, "reverted", running_generation=1, code="PROBE_FAILED", detail="three times"),
    ]
    await peer.agents.Acknowledge(agent_pb2.AcknowledgeRequest(acks=reports), timeout=RPC_S)
    states = await agents(peer)
    assert (states["edge-0"].state, states["edge-1"].state, states["edge-2"].state) == (
        "behind",
        "installing",
        "nacked",
    )
    assert (states["edge-2"].code, states["edge-2"].generation, states["edge-2"].target_generation) == (
        "PROBE_FAILED", 1, 2,
    )  # fmt: skip


async def test_one_wrong_ack_does_not_refuse_its_neighbours(peer: Peer) -> None:
    await live(peer, "acks/two")
    good = ack("edge-good", 1, "confirmed", workflow="acks/two")
    bad = ack("edge-bad", 1, "lovely", workflow="acks/two")
    results = await asyncio.gather(
        *(
            peer.agents.Acknowledge(agent_pb2.AcknowledgeRequest(acks=[each]), timeout=RPC_S)
            for each in (good, bad, good)
        ),
        return_exceptions=True,
    )
    assert [isinstance(result, grpc.aio.AioRpcError) for result in results] == [False, True, False]


async def test_reports_past_the_bound_are_told_to_come_back(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.server.reports.ACKS_WAITING", 0)
    request = agent_pb2.AcknowledgeRequest(acks=[ack("edge-1", 1, "confirmed")])
    error = await failed(peer.agents.Acknowledge(request, timeout=RPC_S))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "BUSY")


async def test_a_poll_is_remembered_as_contact(peer: Peer) -> None:
    await live(peer, "acks/contact")
    report = ack("edge-contact", 1, "confirmed", workflow="acks/contact", time_ms=1)
    await peer.agents.Acknowledge(agent_pb2.AcknowledgeRequest(acks=[report]), timeout=RPC_S)
    await peer.agents.Poll(poll_of("acks/contact", 1, agent="edge-contact"), timeout=RPC_S)
    await peer.member._parts._reports.flush_contacts()
    reply = await peer.registry.ListAgents(registry_pb2.ListAgentsRequest(workflow="acks/contact"), timeout=RPC_S)
    assert reply.agents[0].reported_ms == 1
    assert reply.agents[0].age_ms < 60_000


async def changes(stream: Any, count: int) -> list[registry_pb2.Change]:
    found: list[registry_pb2.Change] = []
    while len(found) < count:
        reply = await asyncio.wait_for(stream.read(), RPC_S)
        found += reply.changes
    return found


async def test_a_watch_shows_what_happens_and_resumes_where_it_was(peer: Peer) -> None:
    stream = peer.registry.Watch(registry_pb2.WatchRequest(workflows=["watch/one"]))
    opened = await stream.read()
    assert not opened.changes
    await peer.publish("watch/other", b"{}")
    await live(peer, "watch/one")
    seen = await changes(stream, 3)
    assert [change.action for change in seen] == ["publish", "publish", "switch"]
    assert seen[0].revision == opened.info.revision + 2
    stream.cancel()
    await peer.switch("watch/one", 2)
    resumed = peer.registry.Watch(
        registry_pb2.WatchRequest(workflows=["watch/one"], from_revision=seen[1].revision + 1)
    )
    again = await changes(resumed, 2)
    assert again[0] == seen[2]
    assert again[1].pointers[0].version == 2
    resumed.cancel()
    await until(lambda: peer.member.feed.watchers == 0)


async def test_a_watch_from_the_first_revision_misses_nothing(peer: Peer) -> None:
    revision = (await peer.publish("watch/all", b"{}")).info.revision
    stream = peer.registry.Watch(registry_pb2.WatchRequest(from_revision=1))
    found = await changes(stream, revision)
    assert [change.revision for change in found] == list(range(1, revision + 1))
    assert found[0].action == "found"
    stream.cancel()


async def test_long_histories_come_in_messages_of_bounded_size(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.server.services.watch.WATCH_BYTES", 2000)
    start = (await peer.publish("watch/large", b"0", message="m" * 900)).info.revision
    for number in range(1, 8):
        await peer.publish("watch/large", b"%d" % number, message="m" * 900)
    stream = peer.registry.Watch(registry_pb2.WatchRequest(from_revision=start))
    await stream.read()
    revisions, last = [], 0
    while len(revisions) < 8:
        reply = await stream.read()
        assert len(reply.changes) <= 2
        revisions += [change.revision for change in reply.changes]
        assert last < reply.info.revision == revisions[-1]
        last = reply.info.revision
    assert revisions == list(range(start, start + 8))
    stream.cancel()


async def test_a_watch_from_the_future_is_refused(peer: Peer) -> None:
    revision = peer.revision
    error = await failed(peer.registry.Watch(registry_pb2.WatchRequest(from_revision=revision + 2)).read())
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_IN_FUTURE")
    assert int(error.metadata["revision"]) == revision
    assert (
        await failed(peer.registry.Watch(registry_pb2.WatchRequest(workflows=["x"])).read())
    ).reason == "INVALID_NAME"


async def test_a_stale_read_waits_for_the_revision_it_was_told(peer: Peer) -> None:
    revision = (await peer.publish("fetch/one", b"old")).info.revision
    request = registry_pb2.GetContentRequest(workflow="fetch/one", stale=True, min_revision=revision + 1)
    fetch = asyncio.ensure_future(peer.registry.GetContent(request, timeout=RPC_S))
    await peer.publish("fetch/one", b"new")
    assert (await fetch).content == b"new"
    request.min_revision = revision + 1000
    error = await failed(peer.registry.GetContent(request, timeout=0.3))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "BUSY")
    assert int(error.metadata["retry_ms"]) > 0
