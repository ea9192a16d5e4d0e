"""Concurrent calls travel together; each has its own outcome, time and cancellation."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from registry.client import Client, limits
from registry.core.errors import Conflict, Reason, Unavailable
from registry.core.limits import BATCH_OPERATIONS
from tests.unit.client.member import NO_QUORUM, UNKNOWN, Fail


def batch_sizes(member) -> list[int]:
    return [len(request.operations) for rpc, request in member.calls if rpc == "Batch"]


async def test_a_lone_call_is_its_own_rpc(members):
    (member,) = await members(1)
    async with Client(member.address) as client:
        await client.switch("a/b", 1, reason="one")
        await client.pointer("a/b")
    assert [rpc for rpc, _ in member.calls if rpc != "GetStatus"] == ["Switch", "GetPointer"]


async def test_calls_started_together_travel_together(members):
    (member,) = await members(1)
    async with Client(member.address) as client:
        pointers = await asyncio.gather(*(client.switch(f"a/w{n}", n + 1, reason="go") for n in range(40)))
    assert [pointer.workflow for pointer in pointers] == [f"a/w{n}" for n in range(40)]
    assert [pointer.version for pointer in pointers] == [n + 1 for n in range(40)]
    assert batch_sizes(member) == [40]
    assert member.count("Switch") == 0


async def test_what_arrives_while_batches_are_in_flight_is_gathered(members):
    (member,) = await members(1)
    member.held |= {"Switch"}
    async with Client(member.address) as client:
        flying = []
        for n in range(limits.BATCHES_IN_FLIGHT):
            flying.append(asyncio.create_task(client.switch(f"a/f{n}", 1, reason="go")))
            await member.wait_for_calls("Switch", n + 1)
        gathered = [asyncio.create_task(client.switch(f"a/g{n}", 1, reason="go")) for n in range(30)]
        await client.status()  # a round trip of its own: the gathered ones had every chance to leave
        assert batch_sizes(member) == []
        member.gate.set()
        await asyncio.gather(*flying, *gathered)
    assert member.count("Switch") == limits.BATCHES_IN_FLIGHT
    assert batch_sizes(member) == [30]


async def test_batches_are_bounded_by_operations_and_bytes(members):
    (member,) = await members(1)
    async with Client(member.address) as client:
        await asyncio.gather(*(client.pointer(f"a/w{n}") for n in range(BATCH_OPERATIONS + 10)))
        assert sorted(batch_sizes(member)) == [10, BATCH_OPERATIONS]
        content = bytes(limits.COALESCED_BYTES)
        fit = limits.BATCH_BYTES // (len(content) + 1)
        await asyncio.gather(*(client.publish(f"a/w{n}", content) for n in range(fit + 2)))
    assert sorted(batch_sizes(member)[2:]) == [2, fit]


async def test_large_content_goes_alone(members):
    (member,) = await members(1)
    async with Client(member.address) as client:
        large = client.publish("a/large", bytes(limits.COALESCED_BYTES + 1))
        published, *_ = await asyncio.gather(large, *(client.publish(f"a/{n}", b"{}") for n in range(5)))
    assert published.size_bytes == limits.COALESCED_BYTES + 1
    assert member.count("Publish") == 1
    assert batch_sizes(member) == [5]


async def test_each_operation_fails_on_its_own(members):
    (member,) = await members(1)
    mismatch = Fail(grpc.StatusCode.FAILED_PRECONDITION, Reason.GENERATION_MISMATCH, metadata={"generation": "2"})
    member.script["Batch.Switch"].append(mismatch)
    async with Client(member.address) as client:
        outcomes = await asyncio.gather(
            *(client.switch(f"a/w{n}", 1, reason="go") for n in range(5)), return_exceptions=True
        )
    assert isinstance(outcomes[0], Conflict)
    assert outcomes[0].metadata == {"generation": "2"}
    assert all(not isinstance(outcome, BaseException) for outcome in outcomes[1:])


async def test_an_operation_of_a_batch_is_retried_alone_with_its_id(members):
    (member,) = await members(1)
    member.script["Batch.Switch"].extend([UNKNOWN, NO_QUORUM])
    async with Client(member.address) as client:
        await asyncio.gather(*(client.switch(f"a/w{n}", 1, reason="go") for n in range(5)))
    first = next(request for rpc, request in member.calls if rpc == "Batch")
    ids = [operation.switch.request_id for operation in first.operations]
    assert len(set(ids)) == 5
    again = [request.request_id for rpc, request in member.calls if rpc == "Switch"] + [
        operation.switch.request_id
        for rpc, request in member.calls
        if rpc == "Batch" and request is not first
        for operation in request.operations
    ]
    assert sorted(again) == sorted(ids[:2])
    assert member.world.revision == 5


async def test_a_broken_batch_is_a_failure_of_each_and_each_is_retried(members):
    (member,) = await members(1)
    member.script["Batch"].append(Fail(message="Socket closed"))
    async with Client(member.address) as client:
        pointers = await asyncio.gather(*(client.switch(f"a/w{n}", 1, reason="go") for n in range(20)))
    assert [pointer.generation for pointer in pointers] == [1] * 20
    assert member.world.revision == 20
    operations = sum(batch_sizes(member)) + member.count("Switch")
    assert operations == 40


async def test_cancelling_one_call_disturbs_no_other(members):
    (member,) = await members(1)
    member.held |= {"Batch", "Switch"}
    async with Client(member.address) as client:
        calls = [asyncio.create_task(client.switch(f"a/w{n}", 1, reason="go")) for n in range(6)]
        await member.wait_for_calls("Batch", 1)
        calls[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[2]
        member.gate.set()
        done = await asyncio.gather(*(call for n, call in enumerate(calls) if n != 2))
    assert [pointer.workflow for pointer in done] == ["a/w0", "a/w1", "a/w3", "a/w4", "a/w5"]


async def test_a_call_cancelled_while_it_waits_is_never_sent(members):
    (member,) = await members(1)
    member.held |= {"Switch"}
    async with Client(member.address) as client:
        flying = []
        for n in range(limits.BATCHES_IN_FLIGHT):
            flying.append(asyncio.create_task(client.switch(f"a/f{n}", 1, reason="go")))
            await member.wait_for_calls("Switch", n + 1)
        cancelled = asyncio.create_task(client.switch("a/never", 1, reason="go"))
        await client.status()
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        member.gate.set()
        await asyncio.gather(*flying)
        await client.switch("a/after", 1, reason="go")
    assert ("a/never", "active") not in member.world.pointers
    assert ("a/after", "active") in member.world.pointers


async def test_each_call_keeps_its_own_deadline(members):
    (member,) = await members(1)
    member.held |= {"Batch"}
    async with Client(member.address) as client:
        slow = asyncio.create_task(client.pointer("a/slow"))
        hasty = asyncio.create_task(client.pointer("a/hasty", timeout_s=0.05))
        with pytest.raises(Unavailable):
            await hasty
        assert not slow.done()
        member.gate.set()
        await slow
