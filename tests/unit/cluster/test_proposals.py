"""What a proposer is told: the result, that it has not happened, or that nobody knows."""

from __future__ import annotations

import pytest

from cluster import messages as m
from cluster.api import NotAttempted, OutcomeUnknown
from cluster.entries import NO_OP, pack
from cluster.limits import COMMAND_BYTES, GATHER_BYTES, GATHER_QUIET_S, GATHER_S
from tests.unit.cluster.engine_bench import TIMING
from tests.unit.cluster.replica_bench import ReplicaBench, of_type


@pytest.fixture
def leader() -> ReplicaBench:
    return ReplicaBench().lead()


@pytest.fixture
def follower() -> ReplicaBench:
    bench = ReplicaBench()
    bench.follow(NO_OP, commit_index=2)
    return bench


def forwarded(bench: ReplicaBench) -> m.Propose:
    ((peer, message),) = of_type(m.Propose, bench.tick())
    assert peer == bench.engine.leader()
    return message


def outcome(bench: ReplicaBench) -> type[object]:
    (result,) = bench.results
    return type(result)


# ---- at the leader
def test_what_arrives_together_shares_an_entry_and_each_gets_its_own_result(leader: ReplicaBench) -> None:
    for command in (b"x", b"y", b"z"):
        leader.propose(command)
    leader.tick()
    assert leader.log()[2:] == [(1, pack([b"x", b"y", b"z"]))]
    assert leader.results == []
    leader.acknowledge("b")
    assert leader.results == [b"applied x", b"applied y", b"applied z"]


def test_an_entry_gathers_so_much_or_one_larger_command(leader: ReplicaBench) -> None:
    for size_bytes in (GATHER_BYTES // 2, GATHER_BYTES // 2, 1, COMMAND_BYTES, 1):
        leader.propose(bytes(size_bytes))
    leader.tick()
    sizes = [len(entry) for _, entry in leader.log()[2:]]
    assert [size_bytes // 1000 for size_bytes in sizes] == [GATHER_BYTES // 1000, 0, COMMAND_BYTES // 1000, 0]


def told(*, count: int) -> ReplicaBench:
    """A leader that told so many callers a moment ago what became of their commands."""
    leader = ReplicaBench().lead()
    leader.tick(after_s=1.0)
    for _ in range(count):
        leader.propose(b"x")
    leader.tick()
    leader.acknowledge("b")
    assert len(leader.results) == count
    return leader


def test_an_entry_waits_for_the_callers_that_were_told_a_moment_ago() -> None:
    leader = told(count=3)
    before = leader.last
    for command in (b"x", b"y", b"z"):
        assert leader.last == before
        leader.propose(command)
        assert bool(leader.replica.gathers_until) == (command != b"z")
        leader.tick(after_s=GATHER_QUIET_S / 2)
    assert leader.log()[before:] == [(1, pack([b"x", b"y", b"z"]))]


def test_a_caller_alone_is_never_waited_for() -> None:
    leader = told(count=1)
    leader.propose(b"x")
    assert not leader.replica.gathers_until
    assert of_type(m.Append, leader.tick())


def test_callers_that_stay_away_are_waited_for_a_moment() -> None:
    leader = told(count=3)
    leader.propose(b"x")
    assert not of_type(m.Append, leader.tick())
    assert leader.replica.next_wakeup() == pytest.approx(leader.clock.now_s + GATHER_QUIET_S)
    assert of_type(m.Append, leader.tick(after_s=GATHER_QUIET_S))
    leader.propose(b"y")  # and then no more
    assert of_type(m.Append, leader.tick())


def test_what_is_due_by_the_time_that_it_is_asked_for_is_not_forgotten() -> None:
    leader = told(count=3)
    leader.propose(b"x")
    leader.tick(after_s=GATHER_QUIET_S / 2)
    assert not leader.replica.has_more()
    leader.clock.now_s += GATHER_QUIET_S
    assert leader.replica.next_wakeup() == leader.clock.now_s


def test_callers_that_come_late_are_not_waited_for_at_all() -> None:
    leader = told(count=3)
    leader.tick(after_s=GATHER_S)
    leader.propose(b"x")
    assert of_type(m.Append, leader.tick())


def test_a_change_of_members_waits_for_no_callers() -> None:
    leader = told(count=3)
    leader.propose(b"x")
    leader.replica.propose(b"", leader.results.append, change=True)
    assert not leader.replica.gathers_until


def test_another_leaders_entry_in_its_place_means_not_attempted(leader: ReplicaBench) -> None:
    leader.propose(b"x")
    leader.tick()
    leader.tick(("b", m.Append(1, 2, 2, 2, 1, [(2, NO_OP)])))
    assert leader.results == []
    leader.follow(term=2, commit_index=3)
    assert outcome(leader) is NotAttempted


def test_what_stands_behind_another_leaders_entry_has_no_place_either() -> None:
    leader = ReplicaBench().lead()
    for command in (b"x", b"y"):  # one entry each
        leader.propose(command)
        leader.tick()
    leader.tick(("b", m.Append(1, 2, 3, 2, 1, [(2, NO_OP)])))  # and nothing else for a long time
    assert [type(result) for result in leader.results] == [NotAttempted, NotAttempted]


def test_the_own_entry_committed_by_the_next_leader_is_a_result(leader: ReplicaBench) -> None:
    leader.propose(b"x")
    leader.tick()
    leader.follow(NO_OP, term=2, commit_index=4)
    assert leader.results == [b"applied x"]


def test_leading_again_over_an_uncommitted_entry_is_unknown(leader: ReplicaBench) -> None:
    """Another member may hold the old entry and still be elected with it."""
    for command in (b"x", b"y", b"z"):  # at 3, 4 and 5
        leader.propose(command)
        leader.tick()
    leader.tick(("b", m.Append(1, 2, 2, 2, 1, [(2, NO_OP)])))  # at 3: truncates the rest
    leader.campaign()
    leader.tick(("b", m.Vote(3)))
    assert leader.log()[2:] == [(2, NO_OP), (3, NO_OP)]
    assert leader.results == []
    leader.propose(b"w")
    leader.tick()
    assert outcome(leader) is OutcomeUnknown  # z
    leader.acknowledge("c")
    assert [type(result) for result in leader.results[1:]] == [NotAttempted, NotAttempted, bytes]


def test_withdrawn_before_it_was_taken_it_has_not_happened() -> None:
    bench = ReplicaBench()
    bench.propose(b"x")
    bench.tick()
    assert bench.replica.withdraw(bench.proposal)
    bench.lead()
    assert bench.last == 2


def test_withdrawn_after_it_was_taken_it_may_happen(leader: ReplicaBench) -> None:
    leader.propose(b"x")
    leader.tick()
    assert not leader.replica.withdraw(leader.proposal)
    leader.acknowledge("b")
    assert leader.state() == b"x"


def test_a_lone_member_is_its_own_majority() -> None:
    bench = ReplicaBench("a").lead()
    bench.propose(b"x")
    bench.tick()
    assert bench.results == [b"applied x"]


# ---- handing over
def test_while_handing_over_nothing_is_taken_and_what_waits_goes_to_the_successor(leader: ReplicaBench) -> None:
    leader.acknowledge("b")
    leader.replica.hand_over(leader.clock.now_s + 1)
    leader.propose(b"x")
    assert of_type(m.TimeoutNow, leader.tick()) == [("b", m.TimeoutNow(1))]
    assert leader.last == 2
    assert leader.answers(m.Propose(5, b"y"), sender="c") == [m.Proposed(5, False, b"")]
    leader.tick(("b", m.RequestVote(2, 1, 2, True)))
    sent = leader.tick(("b", m.Append(1, 2, 2, 2, 1, [(2, NO_OP)])))
    assert [(peer, message.command) for peer, message in of_type(m.Propose, sent)] == [("b", b"x")]


def test_a_hand_over_that_fails_ends_and_service_goes_on(leader: ReplicaBench) -> None:
    leader.replica.disconnected("b")
    leader.replica.hand_over(leader.clock.now_s + 0.5)
    leader.propose(b"x")
    assert of_type(m.TimeoutNow, leader.tick()) == []  # c does not have the whole log
    leader.tick(("c", m.AppendReply(0, 1, 2, False, False)), after_s=0.6)
    assert leader.last == 3


def test_nobody_is_handed_leadership_who_is_connected_and_says_nothing(leader: ReplicaBench) -> None:
    """As a member in repair: it has the whole log, as far as was heard before, and takes nothing over."""
    leader.acknowledge("b")
    leader.acknowledge("c")
    leader.hear("b")
    leader.replica.hand_over(leader.clock.now_s + 1)
    assert of_type(m.TimeoutNow, leader.tick()) == [("b", m.TimeoutNow(1))]


# ---- forwarded to the leader
def test_a_follower_forwards_to_the_leader_and_gives_its_result(follower: ReplicaBench) -> None:
    follower.propose(b"x")
    call = forwarded(follower).call
    follower.tick(("b", m.Proposed(call, True, b"done")))
    assert follower.results == [b"done"]


def test_a_leader_answers_a_forwarded_proposal_with_its_result(leader: ReplicaBench) -> None:
    leader.tick(("c", m.Propose(5, b"x")))
    sent = leader.acknowledge("b")
    assert of_type(m.Proposed, sent) == [("c", m.Proposed(5, True, b"applied x"))]


def test_a_member_that_does_not_lead_refuses_a_forwarded_proposal(follower: ReplicaBench) -> None:
    assert follower.answers(m.Propose(5, b"x"), sender="c") == [m.Proposed(5, False, b"")]


def test_a_deposed_leader_refuses_what_it_had_not_taken(leader: ReplicaBench) -> None:
    leader.replica.receive("c", m.Propose(5, b"x"))
    leader.replica.receive("b", m.HigherTerm(9))
    assert of_type(m.Proposed, leader.tick()) == [("c", m.Proposed(5, False, b""))]


def test_what_the_leader_refused_is_tried_again_a_little_later(follower: ReplicaBench) -> None:
    follower.propose(b"x")
    first = forwarded(follower)
    assert of_type(m.Propose, follower.tick(("b", m.Proposed(first.call, False, b"")))) == []
    assert follower.replica.next_wakeup() <= follower.clock.now_s + 0.1
    ((_, again),) = of_type(m.Propose, follower.tick(after_s=0.11))
    assert (again.command, again.call != first.call) == (b"x", True)


@pytest.mark.parametrize("lost", ["connection", "leadership"])
def test_a_leader_lost_before_it_answered_means_unknown(follower: ReplicaBench, lost: str) -> None:
    follower.propose(b"x")
    call = forwarded(follower).call
    if lost == "connection":
        follower.replica.disconnected("b")
        follower.tick()
    else:
        follower.follow(NO_OP, term=2, leader="c")
        assert follower.replica.next_wakeup() <= follower.clock.now_s + TIMING.step_down_s
        follower.tick(after_s=TIMING.step_down_s)
    assert outcome(follower) is OutcomeUnknown
    follower.tick(("b", m.Proposed(call, True, b"late")))
    assert len(follower.results) == 1


def test_leading_again_over_an_uncommitted_entry_is_unknown_to_whoever_forwarded_it(leader: ReplicaBench) -> None:
    """It does not give up by itself: its leader leads."""
    for call in (3, 4, 5):  # as their indexes
        leader.tick(("c", m.Propose(call, b"x")))
    leader.tick(("b", m.Append(1, 2, 2, 2, 1, [(2, NO_OP)])))  # at 3: truncates the rest
    leader.campaign()
    leader.tick(("b", m.Vote(3)))
    leader.propose(b"w")
    assert of_type(m.Proposed, leader.tick()) == [("c", m.Proposed(5, True, b"", unknown=True))]


def test_what_the_leader_does_not_know_is_unknown(follower: ReplicaBench) -> None:
    follower.propose(b"x")
    follower.tick(("b", m.Proposed(forwarded(follower).call, True, b"", unknown=True)))
    assert outcome(follower) is OutcomeUnknown


@pytest.mark.parametrize("attempted", [True, False])
def test_a_deposed_leader_is_given_time_to_answer(follower: ReplicaBench, attempted: bool) -> None:
    """After a hand-over it knows what became of each."""
    follower.propose(b"x")
    call = forwarded(follower).call
    follower.follow(NO_OP, term=2, leader="c")
    sent = follower.tick(("b", m.Proposed(call, attempted, b"done")))
    sent += follower.tick(after_s=0.11)
    assert follower.results == ([b"done"] if attempted else [])
    assert [peer for peer, _ in of_type(m.Propose, sent)] == ([] if attempted else ["c"])


def test_a_leader_that_leads_again_is_waited_for(follower: ReplicaBench) -> None:
    follower.propose(b"x")
    call = forwarded(follower).call
    follower.follow(NO_OP, term=2, leader="c")
    follower.follow(NO_OP, term=3, leader="b")
    follower.tick(after_s=TIMING.step_down_s + 0.1)
    assert follower.results == []
    follower.tick(("b", m.Proposed(call, True, b"done")))
    assert follower.results == [b"done"]


def test_what_waits_for_a_leader_is_not_lost_with_one(follower: ReplicaBench) -> None:
    follower.replica.disconnected("b")
    follower.propose(b"x")
    assert of_type(m.Propose, follower.tick()) == []
    follower.follow(NO_OP, term=2, leader="c")
    sent = [event for event in follower.trace if not isinstance(event, str)]
    assert [(peer, message.command) for peer, message in of_type(m.Propose, sent)] == [("c", b"x")]


def test_a_withdrawn_proposal_is_not_forwarded_again(follower: ReplicaBench) -> None:
    """The caller was told that nobody knows, and has gone."""
    follower.propose(b"x")
    call = forwarded(follower).call
    assert not follower.replica.withdraw(follower.proposal)
    follower.tick(("b", m.Proposed(call, False, b"")))
    assert of_type(m.Propose, follower.tick(after_s=0.2)) == []


def test_an_answer_to_a_previous_life_meets_no_call_of_this_one() -> None:
    calls = set()
    for seed in range(20):
        bench = ReplicaBench(seed=seed)
        bench.follow(NO_OP)
        bench.propose(b"x")
        calls.add(forwarded(bench).call)
    assert len(calls) == 20
    assert min(calls) > 1000
