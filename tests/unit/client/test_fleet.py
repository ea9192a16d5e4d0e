"""Confirmations over as many members as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
import pytest

from registry.client import Client
from registry.core.errors import Invalid, NotFound, Reason, Unavailable
from registry.v1 import fleet_pb2, fleet_pb2_grpc, registry_pb2
from tests.unit.client.member import Fail

NAME = "a/b"


class Scripted(fleet_pb2_grpc.FleetServiceServicer):
    """Each watch sends what is next in `says`; None: it hangs from there on."""

    def __init__(self, *says: Any) -> None:
        self.says = [*says]
        self.asked: list[fleet_pb2.WatchConfirmationsRequest] = []
        self.address = ""

    async def WatchConfirmations(self, request: Any, context: Any) -> AsyncIterator[fleet_pb2.Confirmations]:
        self.asked.append(request)
        while self.says:
            said = self.says.pop(0)
            if said is None:
                await asyncio.Event().wait()
            if isinstance(said, Fail):
                status = said.status()
                details = (("grpc-status-details-bin", status.SerializeToString()),)
                await context.abort(said.code, said.message, details)
            yield said
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async def Summarize(self, request: Any, context: Any) -> fleet_pb2.SummarizeResponse:
        return fleet_pb2.SummarizeResponse(
            info=registry_pb2.ReplyInfo(revision=3), sites=[fleet_pb2.SiteSummary(workflow=NAME, site="eu-1", behind=2)]
        )

    async def ForgetAgent(self, request: Any, context: Any) -> fleet_pb2.ForgetAgentResponse:
        assert request.request_id
        assert request.principal == "ada"
        return fleet_pb2.ForgetAgentResponse(forgotten=2)


def said(confirmed: int, agents: int = 2, *, done: bool = False) -> fleet_pb2.Confirmations:
    behind = [registry_pb2.AgentRow(agent=f"edge-{n}", state="behind") for n in range(agents - confirmed)]
    return fleet_pb2.Confirmations(
        workflow=NAME, pointer="active", generation=4, agents=agents, confirmed=confirmed, behind=behind, done=done
    )


@pytest.fixture
async def serving() -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        async def serve(*members: Scripted) -> list[str]:
            for member in members:
                server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
                fleet_pb2_grpc.add_FleetServiceServicer_to_server(member, server)  # type: ignore[no-untyped-call]
                member.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
                await server.start()
                stack.push_async_callback(server.stop, None)
            return [member.address for member in members]

        yield serve


async def test_they_go_on_after_a_break_with_the_same_generation_and_the_time_that_is_left(serving: Any) -> None:
    member = Scripted(said(0), said(1), Fail(message="Socket closed"), said(1), said(2, done=True))
    async with Client(await serving(member)) as client:
        watch = client.confirmations(NAME, wait_s=60.0, min_revision=9)
        found = [(each.confirmed, each.complete, each.done) async for each in watch]
    assert found == [(0, False, False), (1, False, False), (1, False, False), (2, True, True)]
    first, again = member.asked
    assert (first.workflow, first.pointer, first.generation, first.min_revision) == (NAME, "active", 0, 9)
    assert (again.generation, again.min_revision) == (4, 9)
    assert again.wait_ms < first.wait_ms <= 60_000


async def test_a_wait_longer_than_a_member_follows_goes_on(serving: Any) -> None:
    member = Scripted(said(1, done=True), Fail(message="Socket closed"), said(2, done=True))
    async with Client(await serving(member)) as client:
        found = [(each.confirmed, each.done) async for each in client.confirmations(NAME, wait_s=5_000_000.0)]
    assert found == [(1, False), (2, True)]
    assert [each.wait_ms for each in member.asked] == [3_600_000, 3_600_000]


async def test_a_busy_member_is_left_for_another(serving: Any) -> None:
    busy = Scripted(Fail(grpc.StatusCode.UNAVAILABLE, Reason.BUSY))
    async with Client(await serving(busy, Scripted(said(2, done=True)))) as client:
        assert [each.complete async for each in client.confirmations(NAME, wait_s=60.0)] == [True]


async def test_what_the_registry_decides_ends_it(serving: Any) -> None:
    lost = Scripted(Fail(grpc.StatusCode.NOT_FOUND, Reason.POINTER_NOT_FOUND))
    async with Client(await serving(lost)) as client:
        with pytest.raises(NotFound):
            await anext(client.confirmations(NAME, wait_s=60.0))


OLD = Fail(grpc.StatusCode.UNIMPLEMENTED, message="Method not found!")


async def test_a_member_of_an_older_release_is_left_for_another(serving: Any) -> None:
    for _ in range(3):  # whoever is asked first
        members = Scripted(OLD), Scripted(OLD), Scripted(said(2, done=True))
        async with Client(await serving(*members)) as client:
            assert [each.complete async for each in client.confirmations(NAME, wait_s=60.0)] == [True]


async def test_members_of_an_older_release_say_so_at_once(serving: Any) -> None:
    async with Client(await serving(Scripted(OLD), Scripted(OLD))) as client:
        with pytest.raises(Invalid, match="the members' release cannot tell") as old:
            await anext(client.confirmations(NAME, wait_s=60.0))
    assert "regctl agents" in old.value.hint


async def test_a_member_that_may_know_better_is_waited_for(serving: Any) -> None:
    addresses = await serving(Scripted(*[OLD] * 99))
    async with Client([*addresses, "127.0.0.1:1"]) as client:
        with pytest.raises(Unavailable) as silent:
            await anext(client.confirmations(NAME, wait_s=60.0, timeout_s=0.05))
    assert "the member does not know this call" in silent.value.message


async def test_silence_of_all_members_ends_it() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(Unavailable) as silent:
            await anext(client.confirmations(NAME, wait_s=60.0, timeout_s=0.05))
    assert silent.value.reason is Reason.NO_MEMBER


async def test_whoever_leaves_takes_the_stream_along(serving: Any) -> None:
    member = Scripted(said(1), None)
    async with Client(await serving(member)) as client:
        async with aclosing(client.confirmations(NAME, generation=4, wait_s=60.0)) as watch:
            assert [row.agent for row in (await anext(watch)).behind] == ["edge-0"]


async def test_the_fleet_in_numbers_and_forgetting(serving: Any) -> None:
    async with Client(await serving(Scripted()), principal="ada") as client:
        (site,) = await client.fleet(NAME)
        assert (site.workflow, site.site, site.behind, site.silent) == (NAME, "eu-1", 2, 0)
        assert client.info is not None
        assert client.info.revision == 3
        assert await client.forget_agent("edge-1") == 2
