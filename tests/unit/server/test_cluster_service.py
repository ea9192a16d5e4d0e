"""ClusterService: what members and waiting processes look like, and what a refused step says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cluster
from cluster.api import NotAttempted, OutcomeUnknown
from cluster.membership import Changed, Promote, Remove
from registry.core.errors import Ambiguous, Conflict, Invalid, NotFound, Reason, Refused, RegistryError, Unavailable
from registry.core.model import Registry
from registry.server.feed import Feed
from registry.server.replies import Replies
from registry.server.services.cluster import ClusterView, refusal
from registry.v1 import cluster_pb2
from tests.unit.server.decided_cluster import COMMIT_INDEX, DecidedCluster

SECONDS = 1.0


def view(of: DecidedCluster) -> ClusterView:
    feed = Feed(Registry(revision=7))
    return ClusterView(cluster=of, feed=feed, replies=Replies("n1", of, feed))  # type: ignore[arg-type]


async def status(of: DecidedCluster) -> cluster_pb2.GetStatusResponse:
    return await view(of).get_status(cluster_pb2.GetStatusRequest(), SECONDS)


async def refused(of: DecidedCluster, rpc: str, **fields: object) -> RegistryError:
    request = {
        "add_member": cluster_pb2.AddMemberRequest,
        "promote_member": cluster_pb2.PromoteMemberRequest,
        "remove_member": cluster_pb2.RemoveMemberRequest,
        "transfer_leadership": cluster_pb2.TransferLeadershipRequest,
    }[rpc](**fields)
    with pytest.raises(RegistryError) as caught:
        await getattr(view(of), rpc)(request, SECONDS)
    return caught.value


async def test_a_status_that_is_not_the_leaders_has_an_age() -> None:
    three = DecidedCluster("n1", "n2", "n3")
    assert not (await status(three)).info.stale
    three.leader = "n2"
    assert (await status(three)).info.stale


async def test_status_says_what_each_member_is_and_who_waits_with_the_command_that_admits_it() -> None:
    three = DecidedCluster("n1", "n2", "n3")
    three.demote("n3")
    three.without("n2")
    three.waits("n4", "aa", role="observer")
    three.waits("n2", "bb")
    three.fetching = "12 of 90 MiB from n2"
    reply = await status(three)
    assert [(each.id, each.role, each.alive) for each in reply.members] == [
        ("n1", "leader", True),
        ("n2", "voter", False),
        ("n3", "observer", True),
    ]
    assert [(each.id, each.role, each.command) for each in reply.waiting] == [
        ("n2/bb", "voter", "regctl cluster replace n2"),
        ("n4/aa", "observer", "regctl cluster add n4"),
    ]
    assert (reply.role, reply.leader_name, reply.leader_id) == ("leader", "n1", "n1")
    assert (reply.first_index, reply.last_index, reply.feature_level) == (500, COMMIT_INDEX, 1)
    assert reply.fetching == "12 of 90 MiB from n2"
    assert (reply.waiting[1].datacenter, reply.waiting[1].feature_level) == ("eu", 1)


async def test_a_member_that_is_not_admitted_says_so() -> None:
    alone = DecidedCluster("n1")
    alone.role, alone.leader = "waiting", None
    reply = await status(alone)
    assert (reply.role, reply.leader_name, reply.leader_id) == ("waiting", "", "")


async def test_a_step_returns_the_id_it_was_about_also_when_it_was_done_before() -> None:
    three = DecidedCluster("n1", "n2", "n3")
    three.waits("n4", "aa")
    service = view(three)
    for _ in range(2):
        added = await service.add_member(cluster_pb2.AddMemberRequest(member="n4"), SECONDS)
        assert (added.member_id, added.info.revision) == ("n4/aa", 7)
    for _ in range(2):
        promoted = await service.promote_member(cluster_pb2.PromoteMemberRequest(member="n4"), SECONDS)
        assert promoted.member_id == "n4/aa"
    removed = await service.remove_member(cluster_pb2.RemoveMemberRequest(member="n2"), SECONDS)
    assert removed.member_id == "n2"
    passed = await service.transfer_leadership(cluster_pb2.TransferLeadershipRequest(member="n3"), SECONDS)
    assert passed.member_id == "n3"
    assert three.roles() == {"n1": "voter", "n3": "voter", "n4/aa": "voter"}


async def test_refusals_have_their_class_and_say_what_to_type() -> None:
    two = DecidedCluster("n1", "n2")
    two.without("n2")
    error = await refused(two, "add_member", member="n4")
    assert (type(error), error.reason) == (NotFound, Reason.NOT_WAITING)
    assert "registryd --name n4 --data-dir EMPTY-DIR --join" in error.hint
    assert (type(await refused(two, "remove_member", member="n9")), two.roles()) == (
        NotFound,
        {"n1": "voter", "n2": "voter"},
    )
    error = await refused(two, "remove_member", member="n1")
    assert (type(error), error.reason) == (Refused, Reason.QUORUM_AT_RISK)
    assert "1 of them must agree, and 0 of them would be alive" in error.message
    assert "--force" in error.hint
    assert error.metadata == {"member": "n1"}
    two.waits("n2", "bb")
    await view(two).add_member(cluster_pb2.AddMemberRequest(member="n2/bb"), SECONDS)
    error = await refused(two, "promote_member", member="n2/bb")
    assert (type(error), error.reason) == (Conflict, Reason.NAME_TAKEN)
    assert "`regctl cluster replace n2`" in error.hint
    assert isinstance(await refused(two, "remove_member", member=""), Invalid)


async def test_a_repeated_removal_does_not_hit_the_successor_of_the_same_name() -> None:
    three = DecidedCluster("n1", "n2", "n3")
    three.describe("n2", "aa")
    three.waits("n2", "bb")
    service = view(three)
    await service.add_member(cluster_pb2.AddMemberRequest(member="n2/bb"), SECONDS)
    for _ in range(2):
        await service.remove_member(cluster_pb2.RemoveMemberRequest(member="n2/aa"), SECONDS)
        assert three.roles() == {"n1": "voter", "n3": "voter", "n2/bb": "observer"}


async def test_without_a_leader_nothing_was_changed_and_an_unknown_outcome_may_be_asked_again() -> None:
    three = DecidedCluster("n1", "n2", "n3")
    three.faults[Remove].append((NotAttempted("no leader within 1.0 s"), False))
    error = await refused(three, "remove_member", member="n3")
    assert (type(error), error.reason) == (Unavailable, Reason.NO_QUORUM)
    assert "nothing was changed" in error.message
    three.faults[Remove].append((OutcomeUnknown("no majority answered"), True))
    error = await refused(three, "remove_member", member="n3")
    assert (type(error), error.reason) == (Ambiguous, Reason.OUTCOME_UNKNOWN)
    assert "not taken twice" in error.hint


def test_every_reason_of_the_cluster_is_one_of_the_api() -> None:
    """A reason is the first argument of Changed, as text."""
    found = set()
    for file in Path(next(iter(cluster.__path__))).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                first = node.args[0] if name == "Changed" and node.args else None
                if isinstance(first, ast.Constant) and first.value:
                    found.add(first.value)
    assert len(found) >= 9
    for reason in found:
        error = refusal(Promote("n4"), Changed(reason, "why"))
        assert error.reason == reason
        assert error.hint != "look at `regctl cluster status`", f"{reason} has no hint of its own"


def test_a_reason_of_a_newer_release_is_a_refusal_with_its_words() -> None:
    error = refusal(Promote("n4"), Changed("MOON_PHASE", "not tonight"))
    assert (type(error), error.reason) == (Refused, Reason.MEMBERSHIP_REFUSED)
    assert error.message.startswith("not tonight")
