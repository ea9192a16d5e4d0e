"""Linearizable means linearizable: through followers, and through a leader that slept."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import grpc
import pytest

from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.core.errors import Conflict, Reason
from registry.v1 import registry_pb2, registry_pb2_grpc

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
TRIES = 1000 if FULL else 150
WORKFLOW = "faults/target"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


async def _publish_two(client: Client) -> None:
    for number in range(2):
        await client.publish(WORKFLOW, b'{"value": %d}' % number)


async def _two_versions_live(client: Client) -> int:
    """The generation of the first switch."""
    await _publish_two(client)
    return (await client.switch(WORKFLOW, 1, reason="first")).generation


async def _members(cluster: LocalCluster, client: Client) -> tuple[str, list[str]]:
    leader = (await client.status()).leader
    return leader, [name for name in cluster.members if name != leader]


async def test_a_follower_never_shows_the_old_target_after_a_switch(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, Client(cluster.endpoints) as client:
        await _two_versions_live(client)
        leader, followers = await _members(cluster, client)
        async with contextlib.AsyncExitStack() as stack:
            write = await _stub(stack, cluster[leader].address)
            reads = [await _stub(stack, cluster[name].address) for name in followers]
            for number in range(TRIES):
                move = registry_pb2.Move(workflow=WORKFLOW, target=str(1 + number % 2), pointer="active")
                switched = await write.Switch(registry_pb2.SwitchRequest(moves=[move], reason=f"try {number}"))
                request = registry_pb2.GetPointerRequest(workflow=WORKFLOW)
                for reply in await asyncio.gather(*(read.GetPointer(request) for read in reads)):
                    assert reply.pointer.generation >= switched.pointers[0].generation


async def test_a_leader_that_slept_never_answers_a_read_with_old_data(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, Client(cluster.endpoints) as client:
        await _two_versions_live(client)
        old_leader, followers = await _members(cluster, client)
        async with contextlib.AsyncExitStack() as stack:
            sleeper = await _stub(stack, cluster[old_leader].address)
            request = registry_pb2.GetPointerRequest(workflow=WORKFLOW)
            await sleeper.GetPointer(request)  # the connection is open
            cluster[old_leader].pause()
            others = await stack.enter_async_context(Client([cluster[name].address for name in followers]))
            pointer = await others.switch(WORKFLOW, 2, reason="without the sleeper", timeout_s=20)
            waiting = [asyncio.ensure_future(sleeper.GetPointer(request, timeout=15)) for _ in range(20)]
            cluster[old_leader].resume()
            waiting += [asyncio.ensure_future(sleeper.GetPointer(request, timeout=15)) for _ in range(20)]
            for reply in await asyncio.gather(*waiting, return_exceptions=True):
                if isinstance(reply, grpc.aio.AioRpcError):
                    assert reply.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                else:
                    assert not isinstance(reply, BaseException), reply
                    assert reply.pointer.generation >= pointer.generation, "the old leader answered with old data"
            reply = await sleeper.GetPointer(request, timeout=15)
            assert reply.pointer.generation == pointer.generation


async def test_of_two_switchers_with_the_same_expectation_exactly_one_wins(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, 3) as cluster, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(Client(cluster.endpoints, principal="one"))
        two = await stack.enter_async_context(Client(cluster.endpoints[::-1], principal="two"))
        generation = await _two_versions_live(one)
        for number in range(TRIES):
            results = await asyncio.gather(
                *(
                    client.switch(WORKFLOW, 1 + number % 2, expected_generation=generation, reason=client.principal)
                    for client in (one, two)
                ),
                return_exceptions=True,
            )
            won = [result for result in results if not isinstance(result, BaseException)]
            lost = [result for result in results if isinstance(result, Conflict)]
            assert len(won) == len(lost) == 1, results
            assert lost[0].reason == Reason.GENERATION_MISMATCH
            # The refusal carries the record that won: nobody needs a second read.
            assert int(lost[0].metadata["generation"]) == won[0].generation == generation + 1
            assert lost[0].metadata["principal"] == won[0].principal
            generation = won[0].generation


async def _stub(stack: contextlib.AsyncExitStack, address: str) -> registry_pb2_grpc.RegistryServiceStub:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
    return registry_pb2_grpc.RegistryServiceStub(channel)
