"""Hand-made schedules of messages: each shows one rule of cluster/guards.py at work. The engine alone does otherwise;
where that is dangerous, test_seams.py has the counterpart."""

from __future__ import annotations

from typing import Any

import pytest
from pysyncobj.node import Node

from cluster import messages as m
from cluster.entries import NO_OP, pack
from cluster.limits import Flow
from tests.unit.cluster.engine_bench import TIMING
from tests.unit.cluster.replica_bench import ReplicaBench, of_type, sent_to

NARROW = Flow(append_bytes=40, window_bytes=100)
X, Y, Z = pack([b"x"]), pack([b"y"]), pack([b"z"])


@pytest.fixture
def bench() -> ReplicaBench:
    return ReplicaBench()


def appended(answers: list[m.Message]) -> m.AppendReply:
    (reply,) = answers
    assert isinstance(reply, m.AppendReply)
    return reply


# ---- appends, as a follower
def test_entries_that_the_log_has_are_not_truncated(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X, Y)
    late = m.Append(7, 1, 1, 1, 0, [(1, NO_OP), (1, X)])
    assert appended(bench.answers(late)) == m.AppendReply(7, 1, 4, True, False)  # up to what this message verified
    assert [entry for _, entry in bench.log()] == [NO_OP, NO_OP, X, Y]


def test_of_a_longer_append_only_the_new_entries_are_added(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X)
    longer = m.Append(7, 1, 1, 1, 0, [(1, NO_OP), (1, X), (1, Y)])
    assert appended(bench.answers(longer)).next_index == 5
    assert [entry for _, entry in bench.log()] == [NO_OP, NO_OP, X, Y]


def test_a_conflicting_tail_is_replaced(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X, Y)
    newer = m.Append(7, 2, 1, 1, 0, [(1, NO_OP), (2, Z)])
    assert appended(bench.answers(newer, sender="c")) == m.AppendReply(7, 2, 4, True, False)
    assert bench.log() == [(0, NO_OP), (1, NO_OP), (2, Z)]


def test_the_commit_index_reaches_no_further_than_what_was_verified(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X, Y)  # X and Y: never committed, the leader of term 2 has others
    bench.answers(m.Append(1, 2, 9, 1, 0, [(1, NO_OP)]), sender="c")
    assert (bench.commit, bench.state()) == (2, b"")
    bench.answers(m.Append(2, 2, 9, 2, 1, [(2, Z)]), sender="c")
    assert (bench.commit, bench.state()) == (3, b"z")


def test_a_heartbeat_verifies_nothing(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X, commit_index=2)
    assert appended(bench.answers(m.Heartbeat(4, 1, 3, 1))) == m.AppendReply(4, 1, 3, True, False)
    assert (bench.commit, bench.last, bench.state()) == (2, 3, b"")


def test_an_append_of_a_lower_term_is_answered_with_the_term(bench: ReplicaBench) -> None:
    bench.follow(term=5)
    assert bench.answers(m.Append(1, 4, 1, 1, 0, []), sender="c") == [m.HigherTerm(5)]
    assert bench.answers(m.Heartbeat(1, 4, 1, 1), sender="c") == [m.HigherTerm(5)]
    assert bench.engine.leader() == "b"


def test_what_lies_below_the_commit_index_is_known_to_match(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X, Y, commit_index=4)
    bench.clock.now_s += TIMING.heartbeat_s  # else the same answer is not told again
    below = m.Append(7, 1, 4, 1, 0, [(1, NO_OP), (1, X)])
    assert appended(bench.answers(below)) == m.AppendReply(7, 1, 5, True, False)  # the commit index
    across = m.Append(8, 2, 4, 1, 99, [(1, NO_OP), (1, X), (1, Y), (2, Z)])  # its previous term is not looked at
    assert appended(bench.answers(across)) == m.AppendReply(8, 2, 6, True, False)
    assert bench.log()[-2:] == [(1, Y), (2, Z)]


def test_the_same_answer_is_told_once_in_a_moment_and_again_as_a_sign_of_life(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X)
    assert bench.answers(m.Append(2, 1, 3, 3, 1, [])) == []  # only the commit index moves
    assert bench.state() == b"x"
    bench.clock.now_s += TIMING.heartbeat_s
    assert appended(bench.answers(m.Append(3, 1, 3, 3, 1, []))) == m.AppendReply(3, 1, 4, True, False)
    assert appended(bench.answers(m.Append(4, 1, 3, 3, 1, [(1, Y)]))) == m.AppendReply(4, 1, 5, True, False)
    assert appended(bench.answers(m.Append(1, 2, 3, 4, 1, []), sender="c")) == m.AppendReply(1, 2, 5, True, False)


def test_the_hint_is_the_first_index_of_the_conflicting_term(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X)
    bench.follow(NO_OP, X, Y, term=3)
    assert bench.last == 6
    refused = bench.answers(m.Append(7, 4, 1, 5, 4, []), sender="c")
    assert appended(refused) == m.AppendReply(7, 4, 4, False, True)


def test_the_hint_stays_above_the_commit_index(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X, Y, Z, commit_index=4)
    assert appended(bench.answers(m.Append(7, 4, 1, 5, 4, []), sender="c")).next_index == 5


def test_a_conflict_at_the_commit_index_itself_moves_nothing_below_it(bench: ReplicaBench) -> None:
    """No leader of a correct cluster sends it."""
    bench.follow(NO_OP, X, commit_index=3)
    assert appended(bench.answers(m.Append(7, 4, 1, 3, 2, []), sender="c")) == m.AppendReply(7, 4, 4, False, True)


def test_the_engine_is_told_of_no_commit_beyond_what_was_verified(
    bench: ReplicaBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    guard = bench.replica.guard
    deliver = guard._onMessageReceived

    def spy(node: Node, message: dict[str, Any]) -> None:
        told.append(message["commit_index"])
        deliver(node, message)

    monkeypatch.setattr(guard, "_onMessageReceived", spy)
    bench.answers(m.Append(1, 1, 99, 1, 0, [(1, NO_OP), (1, X)]))
    bench.answers(m.Append(2, 1, 99, 1, 0, [(1, NO_OP)]))
    bench.answers(m.Heartbeat(3, 1, 99, 1))
    assert told == [3, 3, 3]


def test_a_gap_is_answered_with_the_end_of_the_log(bench: ReplicaBench) -> None:
    bench.follow(NO_OP)
    refused = bench.answers(m.Append(7, 1, 9, 8, 1, [(1, X)]))
    assert appended(refused) == m.AppendReply(7, 1, 3, False, True)
    assert bench.commit == 1


# ---- appends, as the leader
def test_a_stale_rejection_does_not_move_back_again() -> None:
    bench = ReplicaBench().lead()
    for command in (b"1", b"2", b"3"):
        bench.propose(command)
        bench.tick()
    bench.tick(("c", m.AppendReply(1, 1, 2, False, True)))
    barrier = bench.engine.next_index("c")
    assert barrier == 2
    sent = sent_to("c", bench.tick(after_s=0.2))  # everything from 2 on
    assert isinstance(sent[0], m.Append)
    assert (sent[0].previous_index, bench.engine.next_index("c")) == (1, 6)
    bench.tick(("c", m.AppendReply(2, 1, 2, False, True)))  # an answer to an older append
    assert bench.engine.next_index("c") == 6
    bench.tick(("c", m.AppendReply(sent[0].number, 1, 3, False, True)))  # an answer to this one
    assert bench.engine.next_index("c") == 3


def test_a_rejection_never_moves_below_what_is_matched() -> None:
    bench = ReplicaBench().lead()
    bench.propose(b"1")
    bench.tick()
    bench.acknowledge("b")
    bench.tick(("b", m.AppendReply(99, 1, 1, False, True)))
    assert bench.engine.next_index("b") == bench.engine.match_index("b") + 1 == 4


def test_a_rejection_that_does_not_count_is_a_sign_of_life() -> None:
    bench = ReplicaBench().lead()
    for _ in range(30):
        bench.tick(("c", m.AppendReply(0, 1, 2, False, True)), after_s=0.1)
    assert bench.engine.leads()


def test_only_an_answer_that_the_leader_does_not_wait_for_waits_for_the_next_tick() -> None:
    bench = ReplicaBench().lead()
    term, next_index = bench.engine.term(), bench.last + 1
    known = m.AppendReply(1, term, next_index, True, False)
    assert not bench.replica.receive("b", known)  # b has the whole log, as its first answer said
    assert not bench.replica.receive("c", known)  # its first one, but all of it is committed without c
    assert bench.replica.receive("b", m.AppendReply(1, term + 1, next_index, True, False))
    assert bench.replica.receive("b", m.AppendReply(1, term, next_index, False, True))


def test_an_answer_is_waited_for_while_something_is_not_committed() -> None:
    bench = ReplicaBench().lead()
    term, known = bench.engine.term(), bench.last + 1
    bench.propose(b"x")
    bench.replica.tick()
    assert bench.replica.receive("b", m.AppendReply(1, term, known, True, False))  # now it lags behind
    assert bench.replica.receive("b", m.AppendReply(2, term, known + 1, True, False))
    bench.replica.tick()
    assert bench.commit == bench.last
    assert not bench.replica.receive("c", m.AppendReply(2, term, known + 1, True, False))
    assert not bench.replica.has_more()
    bench.replica.tick()
    assert bench.engine.match_index("c") == bench.last


def test_a_follower_ticks_for_every_message(bench: ReplicaBench) -> None:
    assert bench.replica.receive("b", m.AppendReply(1, bench.engine.term(), bench.last + 1, True, False))


def test_a_reply_of_a_lower_term_is_dropped_and_of_a_higher_one_deposes() -> None:
    bench = ReplicaBench()
    bench.follow(term=4)
    bench.lead()
    assert bench.engine.term() == 5
    bench.tick(("c", m.AppendReply(1, 4, 99, True, False)))
    assert bench.engine.match_index("c") == 0
    bench.tick(("c", m.AppendReply(1, 6, 3, True, False)))
    assert (bench.engine.leads(), bench.engine.term()) == (False, 6)


def test_after_a_success_sending_goes_on_where_it_was() -> None:
    bench = ReplicaBench().lead()
    for command in (b"1", b"2", b"3"):
        bench.propose(command)
        bench.tick()
    assert bench.engine.next_index("b") == 6
    assert not any(message.entries for _, message in of_type(m.Append, bench.acknowledge("b", 3)))
    assert bench.engine.next_index("b") == 6


def fill_window() -> ReplicaBench:
    """Entries 3 to 6 of 43 bytes each, two in flight to each peer, two held back."""
    bench = ReplicaBench(flow=NARROW).lead()
    bench.acknowledge("c")
    for number in range(4):
        bench.propose(b"%d" % number * 40)
        bench.tick()
    return bench


def indexes(sent: list[m.Message]) -> list[int]:
    return [
        message.previous_index + 1 + at
        for message in sent
        if isinstance(message, m.Append)
        for at in range(len(message.entries))
    ]


def test_a_full_window_holds_and_acknowledgements_release() -> None:
    bench = fill_window()
    assert indexes(sent_to("b", [event for event in bench.trace if not isinstance(event, str)])) == [2, 3, 4]
    (held,) = sent_to("b", bench.tick(after_s=0.2))
    assert isinstance(held, m.Heartbeat)
    assert indexes(sent_to("b", bench.acknowledge("b", 3))) == [5]  # half of the window is open
    assert indexes(sent_to("b", bench.acknowledge("b", 4))) == [6]


def test_a_backlog_that_is_held_costs_one_message_a_heartbeat() -> None:
    bench = fill_window()
    for number in range(50):
        bench.propose(b"%2d" % number * 20)
        bench.tick()
    (probe, *_) = sent_to("c", bench.tick(after_s=0.2))
    assert isinstance(probe, m.Heartbeat)
    sent = sent_to("c", bench.tick(("c", m.AppendReply(probe.number, 1, 2, False, True)), after_s=0.2))
    assert (indexes(sent), [type(message) for message in sent[2:]]) == ([3, 4], [m.Heartbeat])


def test_a_new_term_starts_with_an_open_window() -> None:
    bench = fill_window()
    bench.tick(("c", m.HigherTerm(9)))
    bench.campaign()
    assert indexes(sent_to("b", bench.tick(("c", m.Vote(10))))) == [7]


def test_the_first_entry_goes_out_however_large() -> None:
    bench = ReplicaBench(flow=NARROW).lead()
    bench.acknowledge("c")
    bench.propose(b"x" * 1000)
    assert [peer for peer, message in of_type(m.Append, bench.tick()) if message.entries] == ["b", "c"]


def test_after_silence_a_held_peer_is_tried_again_from_what_it_has() -> None:
    bench = fill_window()
    silent_s = 0.0
    while silent_s < TIMING.silence_s - 0.15:  # c keeps the leader in office; b answers nothing
        sent = sent_to("b", bench.tick(("c", m.AppendReply(0, 1, 2, False, False)), after_s=0.11))
        assert [type(message) for message in sent] == [m.Heartbeat]
        silent_s += 0.11
    sent = sent_to("b", bench.tick(after_s=0.2))
    assert (type(sent[0]), indexes(sent)) == (m.Heartbeat, [3, 4])


def test_a_lost_connection_forgets_what_was_in_flight() -> None:
    bench = fill_window()
    assert indexes(sent_to("b", bench.tick(after_s=0.2))) == []
    bench.replica.disconnected("b")
    bench.replica.connected("b")
    (probe,) = sent_to("b", bench.tick(after_s=0.2))
    assert isinstance(probe, m.Append)  # at the log's end: b will say where its own ends
    sent = bench.tick(("b", m.AppendReply(probe.number, 1, 3, False, True)), after_s=0.2)
    assert indexes(sent_to("b", sent)) == [3, 4]


# ---- elections
def test_a_pre_vote_raises_no_term_and_needs_a_majority(bench: ReplicaBench) -> None:
    asked = of_type(m.PreVote, bench.tick(after_s=1.0))
    assert asked == [("b", m.PreVote(1, 0, 1)), ("c", m.PreVote(1, 0, 1))]
    assert bench.tick(("b", m.PreVoteReply(1, False, 0))) == []
    assert bench.durable() == (0, "", 1)
    assert bench.tick(("c", m.PreVoteReply(1, True, 0))) == [
        (peer, m.RequestVote(1, 0, 1, False)) for peer in ("b", "c")
    ]
    assert bench.durable() == (1, "a", 1)


def test_an_unanswered_pre_vote_is_asked_again_and_not_faster(bench: ReplicaBench) -> None:
    assert len(bench.tick(after_s=1.0)) == 2
    assert bench.replica.next_wakeup() <= bench.clock.now_s + TIMING.pre_vote_s
    assert bench.tick(after_s=TIMING.pre_vote_s / 2) == []
    assert len(of_type(m.PreVote, bench.tick(after_s=TIMING.pre_vote_s))) == 2


def test_a_pre_vote_is_refused_to_a_shorter_log_a_known_term_and_while_a_leader_is_heard(bench: ReplicaBench) -> None:
    bench.follow(NO_OP, X)
    good = m.PreVote(2, 1, 3)
    assert bench.answers(good, sender="c") == [m.PreVoteReply(2, False, 1)]
    bench.clock.now_s += TIMING.election_min_s - 0.02
    assert bench.answers(good, sender="c") == [m.PreVoteReply(2, False, 1)]
    bench.clock.now_s += 0.04
    assert bench.answers(m.PreVote(2, 1, 2), sender="c") == [m.PreVoteReply(2, False, 1)]
    assert bench.answers(m.PreVote(1, 1, 3), sender="c") == [m.PreVoteReply(1, False, 1)]
    assert bench.answers(good, sender="c") == [m.PreVoteReply(2, True, 1)]
    assert bench.durable()[:2] == (1, "")


def test_a_pre_vote_reply_of_a_higher_term_brings_the_term(bench: ReplicaBench) -> None:
    bench.tick(after_s=1.0)
    bench.tick(("b", m.PreVoteReply(1, False, 7)))
    assert bench.engine.term() == 7
    assert of_type(m.PreVote, bench.tick(after_s=0.4))[0][1].term == 8


def test_a_voter_that_hears_a_leader_refuses_and_keeps_its_term(bench: ReplicaBench) -> None:
    bench.follow()
    assert bench.answers(m.RequestVote(9, 9, 9, False), sender="c") == []
    assert (bench.engine.term(), bench.engine.leader()) == (1, "b")
    bench.clock.now_s += TIMING.election_min_s + 0.01
    assert bench.answers(m.RequestVote(9, 9, 9, False), sender="c") == [m.Vote(9)]


def test_a_leader_keeps_to_its_office_against_a_vote_request() -> None:
    bench = ReplicaBench().lead()
    assert bench.answers(m.RequestVote(9, 9, 9, False), sender="c") == []
    assert bench.engine.leads()


def test_a_transfer_overrides_stickiness(bench: ReplicaBench) -> None:
    bench.follow()
    assert bench.answers(m.RequestVote(2, 9, 9, True), sender="c") == [m.Vote(2)]


def test_whoever_is_told_to_take_over_campaigns_at_once_without_a_pre_vote(bench: ReplicaBench) -> None:
    bench.follow(NO_OP)
    assert bench.tick(("b", m.TimeoutNow(1))) == [(peer, m.RequestVote(2, 1, 2, True)) for peer in ("b", "c")]


def test_an_old_call_to_take_over_is_ignored(bench: ReplicaBench) -> None:
    bench.follow(term=3)
    bench.clock.now_s = bench.engine.next_timer() - 0.01
    assert bench.tick(("b", m.TimeoutNow(2))) == []
    assert of_type(m.RequestVote, bench.tick(after_s=0.02)) == []  # it asks for pre-votes as ever
    assert bench.engine.term() == 3


def test_a_vote_that_comes_again_behind_one_of_another_term_counts_once() -> None:
    bench = ReplicaBench("abcde")
    bench.campaign()
    vote = m.Vote(bench.engine.term())
    bench.tick(("b", vote), ("c", m.Vote(vote.term - 1)), ("b", vote))
    assert not bench.engine.leads()
    bench.tick(("c", vote))
    assert bench.engine.leads()


def test_a_voter_counts_once_a_term() -> None:
    bench = ReplicaBench("abcde")
    bench.campaign()
    bench.tick(("b", m.Vote(1)), ("b", m.Vote(1)), ("b", m.Vote(1)))
    assert not bench.engine.leads()
    bench.tick(("c", m.Vote(1)))
    assert bench.engine.leads()


def test_a_vote_of_another_term_does_not_count(bench: ReplicaBench) -> None:
    bench.campaign()
    bench.tick(("b", m.Vote(0)), ("c", m.Vote(2)))
    assert not bench.engine.leads()


def test_a_member_with_a_higher_term_is_let_back_in() -> None:
    """Stickiness alone would lock it out: it refuses the leader's term, the others refuse its votes."""
    bench = ReplicaBench().lead()
    bench.tick(("c", m.HigherTerm(9)))
    assert (bench.engine.leads(), bench.engine.term()) == (False, 9)
    assert of_type(m.PreVote, bench.tick(after_s=1.0))[0][1].term == 10


def test_a_leader_without_a_majority_steps_down() -> None:
    bench = ReplicaBench().lead()
    for _ in range(20):
        bench.tick(after_s=0.1)
    assert not bench.engine.leads()
