"""Attempts, members and deadlines: one request id, and plain words about what is known."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest

from registry.client import Client, Follow, PollRequest
from registry.core import commands
from registry.core.errors import Ambiguous, Conflict, Invalid, Reason, Refused, Unavailable
from registry.v1 import agent_pb2
from tests.unit.client.member import NO_QUORUM, UNKNOWN, Fail

GONE = "127.0.0.1:1"  # nothing listens on tcpmux here


async def test_a_write_is_retried_with_one_request_id(members):
    first, second, third = await members(3)
    for member in (first, second, third):
        member.script["Switch"].extend([NO_QUORUM, Fail(first_do=True), UNKNOWN])
    async with Client([first.address, second.address, third.address]) as client:
        pointer = await client.switch("a/b", 3, reason="go live")
    ids = [request.request_id for member in (first, second, third) for rpc, request in member.calls if rpc == "Switch"]
    assert len(ids) == 10
    assert len(set(ids)) == 1
    assert (pointer.version, pointer.generation) == (3, 1)
    assert first.world.revision == 1  # done three times over, effective once


async def test_two_calls_have_two_request_ids(members):
    (member,) = await members(1)
    async with Client(member.address) as client:
        await client.switch("a/b", 1, reason="one")
        await client.switch("a/b", 2, reason="two")
    ids = {request.request_id for rpc, request in member.calls if rpc == "Switch"}
    assert len(ids) == 2


async def test_a_given_request_id_is_used(members):
    (member,) = await members(1)
    async with Client(member.address) as client:
        one = await client.switch("a/b", 1, reason="x", request_id="0190f0a0-0000-7000-8000-000000000001")
        again = await client.switch("a/b", 1, reason="x", request_id="0190f0a0-0000-7000-8000-000000000001")
    assert one.generation == again.generation == 1


async def test_a_rejection_is_final_and_keeps_its_metadata(members):
    first, second = await members(2)
    mismatch = Fail(
        grpc.StatusCode.FAILED_PRECONDITION,
        Reason.GENERATION_MISMATCH,
        "a/b active is at generation 7, expected 5",
        {"generation": "7", "hint": "read it again"},
    )
    first.always["Switch"] = second.always["Switch"] = mismatch
    async with Client([first.address, second.address]) as client:
        with pytest.raises(Conflict) as caught:
            await client.switch("a/b", 3, expected_generation=5, reason="go")
    assert caught.value.reason is Reason.GENERATION_MISMATCH
    assert caught.value.metadata == {"generation": "7"}
    assert str(caught.value) == "a/b active is at generation 7, expected 5; read it again"
    assert first.count("Switch") + second.count("Switch") == 1


async def test_unavailable_when_surely_nothing_was_done(members):
    first, second = await members(2)
    first.always["Switch"] = second.always["Switch"] = NO_QUORUM
    async with Client([first.address, second.address]) as client:
        with pytest.raises(Unavailable) as caught:
            await client.switch("a/b", 3, reason="go", timeout_s=0.2)
    assert caught.value.reason is Reason.NO_QUORUM
    assert "nothing was changed" in caught.value.hint
    assert first.address in caught.value.message
    assert second.address in caught.value.message


async def test_unavailable_when_nobody_listens():
    async with Client(GONE) as client:
        with pytest.raises(Unavailable) as caught:
            await client.switch("a/b", 3, reason="go", timeout_s=0.2)
    assert caught.value.reason is Reason.NO_MEMBER
    assert "cannot connect" in caught.value.message
    assert "refused" in caught.value.message


async def test_unavailable_when_the_host_has_no_address():
    async with Client("nowhere.invalid:7400") as client:
        with pytest.raises(Unavailable, match=r"nowhere\.invalid"):
            await client.switch("a/b", 3, reason="go", timeout_s=0.5)


async def test_unavailable_when_the_connection_is_never_made():
    """A host that swallows packets, or a stopped process: the kernel takes the connection, nobody answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with Client(f"127.0.0.1:{silent.getsockname()[1]}") as client:
            calls = [
                client.switch("a/b", 3, reason="go", timeout_s=0.1),
                client.publish("a/b", bytes(100_000), timeout_s=0.1),
            ]
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(outcome, Unavailable)
                assert "no connection" in outcome.message


@pytest.mark.parametrize(
    "fault", [UNKNOWN, Fail(message="Socket closed"), Fail(grpc.StatusCode.INTERNAL), Fail(grpc.StatusCode.CANCELLED)]
)
async def test_ambiguous_when_one_attempt_may_have_been_executed(members, fault):
    (member,) = await members(1)
    member.script["Switch"].append(fault)
    member.always["Switch"] = NO_QUORUM
    async with Client(member.address) as client:
        with pytest.raises(Ambiguous) as caught:
            await client.switch("a/b", 3, reason="go", timeout_s=0.2)
    assert caught.value.reason is Reason.OUTCOME_UNKNOWN
    assert caught.value.metadata["request_id"] == member.calls[0][1].request_id


async def test_a_read_is_never_ambiguous(members):
    (member,) = await members(1)
    member.always["GetPointer"] = Fail(message="Socket closed")
    async with Client(member.address) as client:
        with pytest.raises(Unavailable) as caught:
            await client.pointer("a/b", timeout_s=0.2)
    assert "nothing was changed" not in caught.value.hint


async def test_an_expired_request_id_after_an_unknown_outcome_stays_unknown(members):
    (member,) = await members(1)
    expired = Fail(grpc.StatusCode.FAILED_PRECONDITION, Reason.REQUEST_EXPIRED)
    member.script["Switch"].extend([UNKNOWN, expired])
    async with Client(member.address) as client:
        with pytest.raises(Ambiguous):
            await client.switch("a/b", 3, reason="go")
        member.script["Switch"].append(expired)
        with pytest.raises(Refused) as caught:
            await client.switch("a/b", 3, reason="go")
    assert caught.value.reason is Reason.REQUEST_EXPIRED


async def test_a_hung_member_does_not_eat_the_deadline(members, monkeypatch):
    monkeypatch.setattr("registry.client.calls.Plan.attempt_timeout_s", lambda plan, left_s: min(left_s, 0.1))
    hung, well = await members(2)
    hung.held.add("Switch")
    hung.world.leader = hung.address
    async with Client([hung.address, well.address]) as client:
        await client.pointer("a/b")  # learns who leads
        pointer = await client.switch("a/b", 3, reason="go")
    assert pointer.generation == 1
    assert (hung.count("Switch"), well.count("Switch")) == (1, 1)


async def test_a_call_that_hangs_everywhere_ends_at_its_deadline_as_ambiguous(members):
    (member,) = await members(1)
    member.held.add("Switch")
    async with Client(member.address) as client:
        with pytest.raises(Ambiguous) as caught:
            await client.switch("a/b", 3, reason="go", timeout_s=0.1)
    assert "no answer" in caught.value.message


async def test_writes_go_to_the_leader_once_known_and_leave_it_when_it_dies(members):
    follower, leader = await members(2)
    follower.world.leader = leader.address
    async with Client(follower.address) as client:
        await client.switch("a/b", 1, reason="through the follower")
        await client.switch("a/b", 2, reason="to the leader, though only the follower was named")
        assert (follower.count("Switch"), leader.count("Switch")) == (1, 1)
        await leader.stop()
        pointer = await client.switch("a/b", 3, reason="the leader is gone")
    assert (pointer.version, pointer.generation) == (3, 3)
    assert follower.count("Switch") == 2


async def test_one_living_endpoint_suffices(members):
    first, second, third = await members(3)
    first.addresses = [first.address, second.address, third.address]
    async with Client([GONE, first.address]) as client:
        await client.switch("a/b", 1, reason="learn")
        await first.wait_for_calls("GetStatus", 1)
        while second.address not in client.endpoints:
            await asyncio.sleep(0)
        await first.stop()
        pointer = await client.switch("a/b", 2, reason="the only living one of those given died")
    assert pointer.generation == 2
    assert second.count("Switch") + third.count("Switch") == 1


async def test_a_member_that_comes_back_is_used_again(members):
    (member,) = await members(1)
    address = member.address
    async with Client(address) as client:
        await client.switch("a/b", 1, reason="one")
        await member.stop()
        waiting = asyncio.create_task(client.switch("a/b", 2, reason="two"))
        with pytest.raises(Unavailable):
            await client.pointer("a/b", timeout_s=0.1)
        await member.start(address)
        assert (await waiting).generation == 2


async def test_failed_attempts_are_told(members):
    first, second = await members(2)
    first.always["Switch"] = NO_QUORUM
    told: list[tuple[str, Reason]] = []
    client = Client([first.address, second.address], on_failed_attempt=lambda who, why: told.append((who, why.reason)))
    async with client:
        for number in range(4):
            first.world.leader = first.address
            await client.switch("a/b", number + 1, reason="go")
    assert (first.address, Reason.NO_QUORUM) in told
    assert all(who == first.address for who, _ in told)


async def test_a_closed_client_says_so(members):
    (member,) = await members(1)
    member.held.add("GetPointer")
    async with Client(member.address) as client:
        running = asyncio.create_task(client.pointer("a/b"))
        await member.wait_for_calls("GetPointer", 1)
    with pytest.raises(Unavailable, match="closed"):
        await running
    with pytest.raises(Unavailable, match="closed"):
        await client.pointer("a/b")


@pytest.mark.parametrize("endpoints", ["", "localhost", "http://127.0.0.1:7400", "127.0.0.1:0", "127.0.0.1:x", []])
def test_odd_endpoints_are_refused(endpoints):
    with pytest.raises(Invalid) as caught:
        Client(endpoints)
    assert caught.value.reason is Reason.INVALID_REQUEST


async def test_a_poll_may_wait_longer_than_a_call_takes(members):
    (member,) = await members(1)
    member.held.add("Poll")
    async with Client(member.address, timeout_s=0.05) as client:
        request = PollRequest(agent="e1", site="s1", follows=(Follow(workflow="a/b"),), wait_ms=30_000)
        polling = asyncio.create_task(client.poll(request))
        await member.wait_for_calls("Poll", 1)
        with pytest.raises(Unavailable):  # longer than the client's own timeout
            await Client(GONE, timeout_s=0.1).pointer("a/b")
        member.gate.set()
        assert (await polling).instructions == ()
    sent = member.calls[0][1]
    assert (sent.agent, sent.wait_ms, sent.follows[0].pointer) == ("e1", 30_000, "active")


async def test_a_poll_in_vain_at_a_member_that_is_cut_off_is_the_last_one_there(members):
    cut_off, other = both = await members(2)

    def old(_):
        info = cut_off.info()
        info.stale, info.age_ms = True, 60_000
        return agent_pb2.PollResponse(info=info)

    cut_off.answers["Poll"] = old
    request = PollRequest(agent="e1", site="s1", follows=(Follow(workflow="a/b"),))
    async with Client([member.address for member in both]) as client:
        for _ in range(5):
            await client.poll(request)
        assert cut_off.count("Poll") <= 1
        assert other.count("Poll") >= 4
        other.answers["Poll"] = old
        for _ in range(4):
            await client.poll(request)
        assert cut_off.count("Poll") >= 2, "where all are, they are asked in turn"


async def test_acknowledgements_are_retried_with_one_request_id(members):
    (member,) = await members(1)
    member.script["Acknowledge"].append(UNKNOWN)
    ack = commands.Ack(
        agent="e1", incarnation="i", sequence=4, workflow="a/b", pointer="active", generation=2, phase="confirmed"
    )
    async with Client(member.address) as client:
        await client.acknowledge([ack])
    requests = [request for rpc, request in member.calls if rpc == "Acknowledge"]
    assert len(requests) == 2
    assert requests[0] == requests[1]
    assert (requests[0].acks[0].sequence, requests[0].acks[0].phase) == (4, "confirmed")


async def test_the_rest_of_a_deadline_does_not_make_a_sure_no_unknown(members):
    """A member says NO_QUORUM just before the deadline; an attempt in what is left could only end unheard."""
    (member,) = await members(1)
    member.script["Switch"].append(NO_QUORUM)
    member.held.add("Switch")
    async with Client(member.address) as client:
        await client.status()
        loop = asyncio.get_running_loop()
        ends = loop.time() + 1.0
        call = asyncio.create_task(client.switch("a/b", 3, reason="go", timeout_s=1.0))
        await member.wait_for_calls("Switch", 1)
        await asyncio.sleep(ends - 0.07 - loop.time())
        member.gate.set()
        member.gate = asyncio.Event()  # a second attempt would wait for ever
        with pytest.raises(Unavailable) as caught:
            await call
    assert caught.value.reason is Reason.NO_QUORUM
