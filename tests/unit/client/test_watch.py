"""One watch over many streams."""

from __future__ import annotations

from contextlib import aclosing

import grpc
import pytest

from registry.client import Client
from registry.core.errors import Invalid, Reason, Unavailable
from registry.v1 import registry_pb2
from tests.unit.client.member import Fail


def add_changes(world, *revisions: int) -> None:
    world.changes.extend(registry_pb2.Change(revision=each, action="switch") for each in revisions)
    world.revision = max(world.revision, *revisions)


async def take(changes, count: int) -> list[int]:
    return [(await anext(changes)).revision for _ in range(count)]


async def test_it_resumes_after_the_last_change(members):
    first, second = await members(2)
    add_changes(first.world, 1, 2, 3)
    first.script["Watch.later"].append(Fail(message="Socket closed"))
    second.script["Watch.later"].append(Fail(message="Socket closed"))
    async with Client([first.address, second.address]) as client:
        async with aclosing(client.watch(["a/b"], from_revision=2)) as changes:
            assert await take(changes, 2) == [2, 3]
            add_changes(first.world, 4)
            assert await take(changes, 1) == [4]
    requests = [request for member in (first, second) for rpc, request in member.calls if rpc == "Watch"]
    assert sorted(request.from_revision for request in requests) == [2, 4]
    assert all(list(request.workflows) == ["a/b"] for request in requests)


async def test_it_survives_the_death_of_its_member(members):
    first, second = await members(2)
    add_changes(first.world, 1)
    async with Client([first.address, second.address]) as client:
        async with aclosing(client.watch(from_revision=1)) as changes:
            assert await take(changes, 1) == [1]
            serving = first if first.count("Watch") else second
            add_changes(first.world, 2)
            await serving.stop()
            assert await take(changes, 1) == [2]
    assert first.count("Watch") == second.count("Watch") == 1


async def test_from_now_on_means_after_the_current_revision(members):
    (member,) = await members(1)
    add_changes(member.world, 1, 2)
    member.script["Watch"].append(Fail(message="Socket closed"))  # before the first sign of life
    async with Client(member.address) as client:
        async with aclosing(client.watch()) as changes:
            waiting = anext(changes)
            add_changes(member.world, 3)
            member.answers["ListWorkflows"] = lambda request: registry_pb2.ListWorkflowsResponse(
                info=registry_pb2.ReplyInfo(revision=2)
            )
            assert (await waiting).revision == 3
    assert {request.from_revision for rpc, request in member.calls if rpc == "Watch"} == {3}


async def test_a_cursor_of_another_cluster_is_refused(members):
    (member,) = await members(1)
    future = Fail(grpc.StatusCode.OUT_OF_RANGE, Reason.REVISION_IN_FUTURE, metadata={"revision": "5"})
    member.script["Watch"].append(future)
    async with Client(member.address) as client:
        async with aclosing(client.watch(from_revision=900)) as changes:
            with pytest.raises(Invalid) as caught:
                await anext(changes)
    assert caught.value.reason is Reason.REVISION_IN_FUTURE


async def test_a_member_that_is_behind_is_left_for_another(members):
    (member,) = await members(1)
    add_changes(member.world, 7)
    behind = Fail(grpc.StatusCode.OUT_OF_RANGE, Reason.REVISION_IN_FUTURE)
    async with Client(member.address) as client:
        async with aclosing(client.watch()) as changes:
            member.script["Watch"].extend([behind, behind])
            waiting = anext(changes)
            member.answers["ListWorkflows"] = lambda request: registry_pb2.ListWorkflowsResponse(
                info=registry_pb2.ReplyInfo(revision=6)
            )
            assert (await waiting).revision == 7


async def test_it_ends_when_no_member_gives_a_sign_of_life():
    async with Client("127.0.0.1:1") as client:
        async with aclosing(client.watch(from_revision=1, timeout_s=0.1)) as changes:
            with pytest.raises(Unavailable, match="cannot connect"):
                await anext(changes)
