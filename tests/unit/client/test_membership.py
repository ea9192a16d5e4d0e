"""Steps of membership: retried until known to be done, and the status of the one who leads."""

from __future__ import annotations

import grpc
import pytest

from registry.client import Client
from registry.core.errors import Ambiguous, NotFound, Reason, Refused, Unavailable
from registry.v1 import cluster_pb2
from tests.unit.client.member import NO_QUORUM, UNKNOWN, Fail

UNKNOWN_MEMBER = Fail(grpc.StatusCode.NOT_FOUND, Reason.UNKNOWN_MEMBER)


def done(member):
    return lambda request: cluster_pb2.MembershipResponse(info=member.info(), member_id=request.member)


async def test_a_step_is_repeated_until_it_is_known_to_be_done(members):
    first, second = await members(2)
    for each in (first, second):
        each.answers["AddMember"] = done(each)
        each.script["AddMember"].extend([NO_QUORUM, UNKNOWN])
    async with Client([first.address, second.address]) as client:
        assert await client.members.add("n4") == "n4"
    assert first.count("AddMember") + second.count("AddMember") >= 3


async def test_force_and_names_travel(members):
    (member,) = await members(1)
    for rpc in ("PromoteMember", "RemoveMember", "TransferLeadership"):
        member.answers[rpc] = done(member)
    async with Client(member.address) as client:
        await client.members.promote("n4", force=True)
        await client.members.remove("n4/aa")
        await client.members.transfer()
    sent = {rpc: request for rpc, request in member.calls if rpc != "GetStatus"}
    assert (sent["PromoteMember"].member, sent["PromoteMember"].force) == ("n4", True)
    assert (sent["RemoveMember"].member, sent["RemoveMember"].force) == ("n4/aa", False)
    assert sent["TransferLeadership"].member == ""


async def test_who_is_gone_after_an_unknown_outcome_was_removed(members):
    (member,) = await members(1)
    member.script["RemoveMember"].extend([UNKNOWN, UNKNOWN_MEMBER])
    async with Client(member.address) as client:
        assert await client.members.remove("n3") == "n3"
        member.script["RemoveMember"].extend([NO_QUORUM, UNKNOWN_MEMBER])
        with pytest.raises(NotFound):
            await client.members.remove("n3")


async def test_a_refusal_is_not_repeated(members):
    (member,) = await members(1)
    member.always["RemoveMember"] = Fail(grpc.StatusCode.FAILED_PRECONDITION, Reason.QUORUM_AT_RISK)
    async with Client(member.address) as client:
        with pytest.raises(Refused):
            await client.members.remove("n3")
    assert member.count("RemoveMember") == 1


async def test_out_of_time_a_step_may_be_done_or_surely_is_not(members):
    (member,) = await members(1)
    member.always["AddMember"] = UNKNOWN
    member.always["PromoteMember"] = NO_QUORUM
    async with Client(member.address, timeout_s=0.3) as client:
        with pytest.raises(Ambiguous) as unknown:
            await client.members.add("n4")
        assert "repeat it: it takes effect at most once" in unknown.value.hint
        with pytest.raises(Unavailable) as nothing:
            await client.members.promote("n4")
        assert "nothing was changed" in nothing.value.hint


async def test_status_is_that_of_the_leader_once_somebody_names_it(members):
    leader, follower = await members(2)
    leader.world.leader = leader.address
    for each, role in ((leader, "leader"), (follower, "voter")):
        each.answers["GetStatus"] = lambda request, each=each, role=role: cluster_pb2.GetStatusResponse(
            info=each.info(), role=role, leader_id="n1", leader_name="n1"
        )
    async with Client(follower.address) as client:
        assert (await client.status()).role == "leader"
        assert (await client.status_of(follower.address)).role == "voter"
        await leader.stop()
        assert (await client.status()).role == "voter"
        with pytest.raises(Unavailable):
            await client.status_of(leader.address)
