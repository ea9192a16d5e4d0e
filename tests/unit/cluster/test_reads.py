"""Linearizable reads: the rounds alone, then the replica around them."""

from __future__ import annotations

import pytest

from cluster import messages as m
from cluster.entries import NO_OP, pack
from cluster.reads import Rounds
from tests.unit.cluster.replica_bench import ReplicaBench, of_type

X = pack([b"x"])


def rounds_of(voters: str) -> Rounds:
    return Rounds("a", lambda who: len(who & set(voters)) * 2 > len(voters))


# ---- rounds
def test_a_majority_of_voters_confirms() -> None:
    rounds, served = rounds_of("abcde"), list[int]()
    rounds.add(served.append)
    number = rounds.start(commit_index=7, term=3)
    assert number is not None
    rounds.confirm(number, 3, "b")
    rounds.confirm(number, 3, "b")
    rounds.confirm(number, 3, "stranger")
    assert served == []
    rounds.confirm(number, 3, "c")
    rounds.confirm(number, 3, "d")
    assert served == [7]


def test_a_confirmation_of_another_term_does_not_count() -> None:
    rounds, served = rounds_of("abc"), list[int]()
    rounds.add(served.append)
    rounds.confirm(rounds.start(7, 3) or 0, 4, "b")
    assert served == []


def test_a_read_waits_for_the_next_round_and_does_not_join_an_open_one() -> None:
    rounds, served = rounds_of("abc"), list[int]()
    rounds.add(served.append)
    first = rounds.start(7, 3) or 0
    rounds.add(served.append)
    assert rounds.waiting
    rounds.confirm(first, 3, "b")
    assert served == [7]
    second = rounds.start(9, 3) or 0
    assert not rounds.waiting
    rounds.confirm(second, 3, "c")
    assert served == [7, 9]


def test_a_confirmed_round_confirms_the_older_ones_at_their_own_index() -> None:
    rounds, served = rounds_of("abc"), list[int]()
    for index in (7, 9):
        rounds.add(served.append)
        number = rounds.start(index, 3) or 0
    rounds.confirm(number, 3, "b")
    assert served == [7, 9]


def test_reads_that_wait_together_share_a_round() -> None:
    rounds, served = rounds_of("abc"), list[int]()
    for _ in range(3):
        rounds.add(served.append)
    rounds.confirm(rounds.start(7, 3) or 0, 3, "b")
    assert served == [7, 7, 7]


def test_abandoned_reads_have_to_be_asked_again() -> None:
    rounds, served = rounds_of("abc"), list[int]()
    rounds.add(served.append)
    number = rounds.start(7, 3) or 0
    rounds.add(served.append)
    rounds.abandon()
    assert served == [0, 0]
    rounds.confirm(number, 3, "b")
    assert served == [0, 0]


def test_an_open_round_ends_when_those_who_confirmed_are_a_majority_of_the_new_voters() -> None:
    voters, served = {"a", "b", "c", "d"}, list[int]()
    rounds = Rounds("a", lambda who: 2 * len(who & voters) > len(voters))
    rounds.add(served.append)
    number = rounds.start(7, term=1)
    assert number
    rounds.confirm(number, 1, "b")
    rounds.voters_changed()
    assert served == []
    voters.remove("d")
    rounds.voters_changed()
    assert served == [7]


def test_a_lone_member_needs_no_round() -> None:
    rounds, served = rounds_of("a"), list[int]()
    rounds.add(served.append)
    assert rounds.start(7, 3) is None
    assert served == [7]


# ---- the replica
@pytest.fixture
def leader() -> ReplicaBench:
    return ReplicaBench().lead()


@pytest.fixture
def follower() -> ReplicaBench:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=2)
    return bench


def probe(bench: ReplicaBench) -> m.ReadProbe:
    probes = of_type(m.ReadProbe, bench.tick())
    assert [peer for peer, _ in probes] == ["b", "c"]
    return probes[0][1]


def test_a_leader_serves_after_a_majority_confirmed_its_term(leader: ReplicaBench) -> None:
    leader.read()
    round_ = probe(leader)
    assert leader.reads == 0
    leader.tick(("c", m.ReadConfirm(round_.round, 1)))
    assert leader.reads == 1


def test_no_tick_is_made_for_who_confirms_a_round_behind_a_majority(leader: ReplicaBench) -> None:
    leader.read()
    confirmed = m.ReadConfirm(probe(leader).round, 1)
    assert leader.replica.receive("c", confirmed)
    leader.replica.tick()
    assert leader.reads == 1
    assert not leader.replica.receive("b", confirmed)
    assert not leader.replica.has_more()


def test_a_new_leader_waits_for_an_entry_of_its_own_term() -> None:
    """Its commit index may lie below what its predecessor had acknowledged."""
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=2)
    bench.campaign()
    bench.tick(("b", m.Vote(2)))
    bench.read()
    assert of_type(m.ReadProbe, bench.tick()) == []
    bench.acknowledge("b", 3)
    assert (bench.commit, bench.reads) == (2, 0)
    ((_, probe), *_) = of_type(m.ReadProbe, bench.acknowledge("b", 4))
    bench.tick(("b", m.ReadConfirm(probe.round, 2)))
    assert (bench.reads, bench.state()) == (1, b"x")


def test_a_deposed_leader_does_not_serve_but_asks_its_successor(leader: ReplicaBench) -> None:
    leader.read()
    round_ = probe(leader)
    leader.follow(NO_OP, term=2, leader="c")
    leader.tick(("b", m.ReadConfirm(round_.round, 1)))
    assert leader.reads == 0
    sent = [event for event in leader.trace if not isinstance(event, str)]
    ((peer, request),) = of_type(m.ReadRequest, sent)
    assert peer == "c"
    leader.tick(("c", m.ReadIndex(request.call, 2)))
    assert leader.reads == 1


def test_a_voter_confirms_the_term_of_the_leader_only(follower: ReplicaBench) -> None:
    assert follower.answers(m.ReadProbe(4, 1)) == [m.ReadConfirm(4, 1)]
    follower.follow(term=3, leader="c")
    assert follower.answers(m.ReadProbe(5, 1)) == [m.HigherTerm(3)]


def test_a_voter_adopts_a_higher_term_with_the_confirmation(follower: ReplicaBench) -> None:
    assert follower.answers(m.ReadProbe(4, 6), sender="c") == [m.ReadConfirm(4, 6)]
    assert follower.durable()[0] == 6


def test_a_follower_asks_the_leader_and_waits_until_it_has_applied_the_index(follower: ReplicaBench) -> None:
    follower.read()
    ((leader, request),) = of_type(m.ReadRequest, follower.tick())
    assert leader == "b"
    follower.tick(("b", m.ReadIndex(request.call, 3)))
    assert follower.reads == 0
    follower.follow(commit_index=3)
    assert (follower.reads, follower.state()) == (1, b"x")


def test_a_leader_answers_a_follower_after_a_round_of_its_own(leader: ReplicaBench) -> None:
    sent = leader.tick(("c", m.ReadRequest(31)))
    ((_, round_), _) = of_type(m.ReadProbe, sent)
    assert of_type(m.ReadIndex, leader.tick(("b", m.ReadConfirm(round_.round, 1)))) == [("c", m.ReadIndex(31, 2))]


def test_who_does_not_lead_says_so_and_the_read_is_asked_again_a_little_later(follower: ReplicaBench) -> None:
    assert follower.answers(m.ReadRequest(31), sender="c") == [m.ReadIndex(31, 0)]
    follower.read()
    ((_, request),) = of_type(m.ReadRequest, follower.tick())
    assert of_type(m.ReadRequest, follower.tick(("b", m.ReadIndex(request.call, 0)))) == []
    assert len(of_type(m.ReadRequest, follower.tick(after_s=0.11))) == 1


def test_a_lost_connection_asks_again(follower: ReplicaBench) -> None:
    follower.read()
    follower.tick()
    follower.replica.disconnected("b")
    follower.follow(term=2, leader="c")
    sent = [event for event in follower.trace if not isinstance(event, str)]
    assert [peer for peer, _ in of_type(m.ReadRequest, sent)] == ["b", "c"]


def test_a_leader_probes_again_over_a_new_connection(leader: ReplicaBench) -> None:
    """The probe, or its confirmation, may have been lost with the old one."""
    leader.read()
    round_ = probe(leader)
    leader.replica.disconnected("b")
    leader.replica.connected("b")
    assert of_type(m.ReadProbe, leader.tick()) == [("b", round_)]
    leader.tick(("b", m.ReadConfirm(round_.round, 1)))
    leader.replica.disconnected("b")
    leader.replica.connected("b")
    assert of_type(m.ReadProbe, leader.tick()) == []
    assert leader.reads == 1


def test_reads_that_wait_together_ask_once(follower: ReplicaBench) -> None:
    for _ in range(3):
        follower.read()
    ((_, request),) = of_type(m.ReadRequest, follower.tick())
    follower.tick(("b", m.ReadIndex(request.call, 2)))
    assert follower.reads == 3


def test_a_lone_member_serves_at_once() -> None:
    bench = ReplicaBench("a").lead()
    bench.read()
    bench.tick()
    assert bench.reads == 1


def test_a_reader_that_gave_up_is_forgotten_wherever_it_waits(follower: ReplicaBench) -> None:
    """Without a leader, or when an answer is lost, nothing else would ever forget it."""

    def reader() -> None:
        follower.reads += 1

    follower.replica.read(reader)
    ((_, request),) = of_type(m.ReadRequest, follower.tick())
    follower.replica.withdraw_read(reader)
    follower.tick(("b", m.ReadIndex(request.call, 2)))
    follower.replica.disconnected("b")
    follower.replica.read(reader)
    follower.replica.withdraw_read(reader)
    follower.follow(term=2, leader="c")
    sent = [event for event in follower.trace if not isinstance(event, str)]
    assert [peer for peer, _ in of_type(m.ReadRequest, sent)] == ["b"]
    assert follower.reads == 0
