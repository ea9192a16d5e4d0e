"""When agents may install a switch: looked at by the member's clock, once."""

from __future__ import annotations

from typing import Any

import pytest

from registry.core.errors import Invalid, Reason
from registry.server.replies import Replies
from registry.server.services.writes import Writes
from registry.v1 import registry_pb2
from tests.unit.server.lone_cluster import Member

WORKFLOW = "support/triage"


@pytest.fixture
def member() -> Member:
    return Member()


def writes_of(member: Member) -> Writes:
    cluster: Any = member.cluster
    nobody: Any = None
    replies = Replies("n1", cluster, member.cluster.feed)
    return Writes(proposer=member.proposer, reads=member.reads, replies=replies, inspector=nobody)


def request(member: Member, deadline_ms: int) -> registry_pb2.SwitchRequest:
    moves = [registry_pb2.Move(workflow=WORKFLOW, target="1")]
    return registry_pb2.SwitchRequest(
        request_id=member.proposer.new_request_id(), moves=moves, reason="tonight", deadline_ms=deadline_ms, force=True
    )


async def test_a_retry_after_the_deadline_gets_the_first_outcome(member: Member) -> None:
    await member.publish(WORKFLOW, b"1")
    writes = writes_of(member)
    tonight = request(member, member.clock.ms() + 1000)
    moved = await writes.switch(tonight, 5.0)
    assert moved.pointers[0].deadline_ms == tonight.deadline_ms
    member.clock.s += 2.5
    assert (await writes.switch(tonight, 5.0)).pointers == moved.pointers
    with pytest.raises(Invalid) as refused:
        await writes.switch(request(member, tonight.deadline_ms), 5.0)
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert "passed 1.5 s ago" in refused.value.message
    pointer = member.cluster.rows.pointer(WORKFLOW, "active")
    assert pointer is not None
    assert pointer.generation == 1


async def test_so_does_one_through_a_member_that_hears_of_it_late(member: Member) -> None:
    await member.publish(WORKFLOW, b"1")
    writes, tonight, barrier = writes_of(member), request(member, member.clock.ms() + 1000), member.cluster.barrier

    async def caught_up(*, timeout_s: float) -> None:
        member.cluster.barrier = barrier  # type: ignore[method-assign]
        late = member.proposer.clock_ms
        member.proposer.clock_ms = lambda: tonight.deadline_ms - 1
        await writes.switch(tonight, 5.0)
        member.proposer.clock_ms = late

    member.clock.s += 2.5
    member.cluster.barrier = caught_up  # type: ignore[method-assign]
    assert (await writes.switch(tonight, 5.0)).pointers[0].generation == 1


async def test_a_deadline_of_this_moment_is_over(member: Member) -> None:
    await member.publish(WORKFLOW, b"1")
    with pytest.raises(Invalid):
        await writes_of(member).switch(request(member, member.clock.ms()), 5.0)
