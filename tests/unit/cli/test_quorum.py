"""What a change of membership means, and what about a cluster should worry its operator."""

from __future__ import annotations

import msgspec
import pytest

from registry.cli import quorum
from registry.client import ClusterStatus, MemberStatus, ReplyInfo
from registry.core.errors import Conflict, NotFound, Reason

INFO = ReplyInfo(revision=9, served_by="n1", cluster_id="c1", epoch=1, leader="")


def a_member(id: str, role: str = "voter", *, alive: bool = True, lag: int = 0, level: int = 1) -> MemberStatus:
    return MemberStatus(
        id=id,
        name=id.partition("/")[0],
        role=role,
        address="10.0.0.1:7400",
        peer_address="10.0.0.1:7401",
        datacenter="",
        alive=alive,
        applied_index=5,
        lag=lag,
        incarnation="aa",
        feature_level=level,
    )


def a_status(*members: MemberStatus) -> ClusterStatus:
    return ClusterStatus(
        info=INFO, leader="n1", term=3, commit_index=9, members=members, version="0.1.0", feature_level=1
    )


N1, N2, N3 = a_member("n1", "leader"), a_member("n2"), a_member("n3")
OBSERVER = a_member("n4/aa", "observer")


@pytest.mark.parametrize(("voters", "allowed"), [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (7, 3)])
def test_how_many_may_fail(voters, allowed):
    assert quorum.may_fail(voters) == allowed


def test_an_even_number_of_voters_is_worth_a_word():
    assert quorum.even(3) == ""
    assert quorum.even(2) == "2 voters tolerate no more failures than 1: none may fail"
    assert quorum.even(4) == "4 voters tolerate no more failures than 3: 1 may fail"


def test_a_healthy_cluster_has_no_warnings():
    assert quorum.warnings(a_status(N1, N2, N3, OBSERVER)) == []


def test_an_answer_from_long_ago_says_so():
    cut_off = msgspec.structs.replace(INFO, served_by="edge", stale=True, age_ms=36_400)
    status = msgspec.structs.replace(a_status(N1, N2, N3), info=cut_off)
    assert quorum.warnings(status) == ["edge has not heard a leader for 36 s: this is what it knows since then"]
    heard = msgspec.structs.replace(status, info=msgspec.structs.replace(cut_off, age_ms=40))
    assert quorum.warnings(heard) == []


def test_nobody_is_asked_for_a_removal_that_will_be_refused():
    dead = a_member("n3", alive=False)
    refused = quorum.in_vain(a_status(N1, N2, dead), N2, force=False)
    assert refused is not None
    assert (refused.reason, "--force" in refused.hint) == (Reason.QUORUM_AT_RISK, True)
    assert quorum.in_vain(a_status(N1, N2, dead), N2, force=True) is None
    assert quorum.in_vain(a_status(N1, N2, dead), dead, force=False) is None
    assert quorum.in_vain(a_status(N1, N2, dead, OBSERVER), OBSERVER, force=False) is None
    last = quorum.in_vain(a_status(N1, OBSERVER), N1, force=True)
    assert last is not None
    assert last.reason is Reason.LAST_VOTER


def test_a_dead_voter_is_said_with_what_it_costs():
    dead = a_member("n3", alive=False)
    assert quorum.warnings(a_status(N1, N2, dead)) == [
        "no further voter may fail: 2 of 3 voters alive, 2 must be",
        "n3 is not heard",
    ]
    found = quorum.warnings(a_status(N1, a_member("n2", alive=False), dead))
    assert found[0] == "no majority: 1 of 3 voters alive, 2 must be; nothing can be written"


def test_a_dead_observer_costs_no_majority():
    assert quorum.warnings(a_status(N1, N2, N3, a_member("n4/aa", "observer", alive=False))) == ["n4 is not heard"]


def test_members_that_are_behind_or_of_an_older_release_are_named():
    found = quorum.warnings(a_status(N1, N2, a_member("n3", lag=2000), a_member("n4/aa", level=2)))
    assert "n3 is 2000 entries behind" in found
    assert [line for line in found if line.startswith("n1 runs an older release")]
    assert not [line for line in found if line.startswith("n4 runs")]


def test_two_of_one_name_are_told_apart_by_their_ids():
    two = a_status(N1, N2, a_member("n2/bb", "observer"))
    assert [quorum.label(member, two) for member in two.members] == ["n1", "n2", "n2/bb"]
    assert quorum.find(two, "n2") is two.members[1]
    assert quorum.find(two, "n2/bb") is two.members[2]


def test_a_member_is_found_by_id_by_directory_and_by_name():
    status = a_status(N1, N2, OBSERVER)
    assert quorum.find(status, "n4") is OBSERVER
    assert quorum.find(status, "n2/aa") is N2
    assert quorum.exact(N2) == "n2/aa"
    with pytest.raises(NotFound) as missing:
        quorum.find(status, "n9")
    assert missing.value.reason is Reason.UNKNOWN_MEMBER
    with pytest.raises(Conflict) as two:
        quorum.find(a_status(a_member("n4/aa"), a_member("n4/bb")), "n4")
    assert "n4/aa or n4/bb" in two.value.hint


def test_a_removal_says_what_it_leaves():
    said = "\n".join(quorum.removal(a_status(N1, N2, N3), N3))
    assert "voters: 3 -> 2; may fail: 1 -> 0" in said
    assert "2 voters tolerate no more failures than 1" in said
    assert "at risk" not in said
    assert "hands over first" in "\n".join(quorum.removal(a_status(N1, N2, N3), N1))
    assert "at risk: 1 of them alive, 2 needed" in "\n".join(
        quorum.removal(a_status(N1, N2, a_member("n3", alive=False)), N2)
    )
    assert "3 voters as before, 1 may fail" in "\n".join(quorum.removal(a_status(N1, N2, N3, OBSERVER), OBSERVER))
