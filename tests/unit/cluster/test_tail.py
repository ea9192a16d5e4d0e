"""Observers: what a source answers and when, whom an observer follows, and what it does with what it gets."""

from __future__ import annotations

import pytest
from msgspec import structs

from cluster import messages as m
from cluster.configuration import Configuration
from cluster.entries import NO_OP, pack, pack_configuration
from cluster.limits import TAIL_AGE_S, Flow
from tests.unit.cluster.engine_bench import TIMING
from tests.unit.cluster.replica_bench import ReplicaBench, Sent, configured, of_type, record

X, Y, Z = pack([b"x"]), pack([b"y"]), pack([b"z"])


def tailed(sent: list[Sent]) -> m.Tailed:
    ((_, answer),) = of_type(m.Tailed, sent)
    return answer


# ---- as a source
def source(observers: str = "d", **options: Flow) -> ReplicaBench:
    """A follower of b with entries 2 to 4; 3 is the last one applied."""
    bench = ReplicaBench("abc", observers, **options)  # type: ignore[arg-type]
    bench.follow(NO_OP, X, Y, commit_index=3)
    return bench


def test_what_is_there_is_answered_at_once_and_only_what_is_committed() -> None:
    answer = tailed(source().tick(("d", m.Tail(2))))
    assert answer == m.Tailed(1, "b", 0, 3, 1, 1, 0, [(1, NO_OP), (1, X)])


def test_when_there_is_nothing_the_answer_comes_with_the_next_entry() -> None:
    bench = source()
    assert bench.tick(("d", m.Tail(4))) == []
    bench.clock.now_s += 0.05
    bench.replica.receive("b", m.Append(2, 1, 4, 4, 1, []))
    assert tailed(bench.tick()) == m.Tailed(1, "b", 0, 4, 1, 3, 1, [(1, Y)])
    assert of_type(m.Tailed, bench.tick(after_s=TIMING.heartbeat_s)) == []  # one answer a question


def test_when_there_is_nothing_for_a_heartbeat_the_answer_says_how_old_that_is() -> None:
    bench = source()
    bench.tick(("d", m.Tail(4)))
    assert bench.replica.next_wakeup() <= bench.clock.now_s + TIMING.heartbeat_s
    assert of_type(m.Tailed, bench.tick(after_s=TIMING.heartbeat_s - 0.01)) == []
    answer = tailed(bench.tick(after_s=0.02))
    assert (answer.entries, answer.commit_index, answer.previous_index) == ([], 3, 3)
    assert answer.age_ms == pytest.approx(TIMING.heartbeat_s * 1000 + 10, abs=1)


def test_a_leader_is_always_fresh_and_who_knows_none_says_so() -> None:
    leader = ReplicaBench("abc", "d").lead()
    answer = tailed(leader.tick(("d", m.Tail(2)), after_s=0.05))
    assert (answer.leader, answer.age_ms) == ("a", 0)
    lost = ReplicaBench("abc", "d")
    lost.tick(("d", m.Tail(2)))
    answer = tailed(lost.tick(after_s=TIMING.heartbeat_s))
    assert (answer.leader, answer.age_ms) == ("", 10**12)


def test_a_long_tail_is_answered_in_pieces() -> None:
    bench = source(flow=Flow(append_bytes=3))
    answer = tailed(bench.tick(("d", m.Tail(2))))
    assert (answer.previous_index, answer.entries) == (1, [(1, NO_OP), (1, X)])
    bench = source(flow=Flow(append_bytes=1))
    assert tailed(bench.tick(("d", m.Tail(2)))).entries == [(1, NO_OP)]
    assert tailed(bench.tick(("d", m.Tail(3)))).entries == [(1, X)]


def test_who_asks_for_what_the_log_has_no_more_is_told_where_it_starts() -> None:
    bench = ReplicaBench("abc", "d", flow=Flow(log_entries=1)).lead()
    for command in b"123456":
        bench.propose(bytes([command]))
        bench.tick()
        bench.acknowledge("b")
    first = bench.replica.journal.first
    assert first == 7
    answer = tailed(bench.tick(("d", m.Tail(first)), after_s=0.01))
    assert (answer.first_index, answer.previous_index, answer.entries) == (first, first - 1, [])
    answer = tailed(bench.tick(("d", m.Tail(first + 1))))
    assert [entry for _, entry in answer.entries] == [pack([b"6"])]


def test_a_source_that_is_behind_answers_with_nothing() -> None:
    bench = source()
    bench.tick(("d", m.Tail(9)))
    answer = tailed(bench.tick(after_s=TIMING.heartbeat_s))
    assert (answer.commit_index, answer.entries) == (3, [])


def test_who_is_not_a_member_gets_nothing() -> None:
    bench = source()
    bench.replica.connected("x")
    bench.tick(("x", m.Tail(2)))
    assert of_type(m.Tailed, bench.tick(after_s=TIMING.heartbeat_s)) == []
    bench.tick(("d", m.Tail(9)))
    bench.replica.disconnected("d")
    bench.replica.connected("d")
    assert of_type(m.Tailed, bench.tick(after_s=TIMING.heartbeat_s)) == []


# ---- as an observer
def observer(voters: str = "bc", *, seed: int = 1, **options: object) -> ReplicaBench:
    return ReplicaBench(voters, "a", seed=seed, **options)  # type: ignore[arg-type]


def asked(sent: list[Sent]) -> tuple[str, m.Tail]:
    (question,) = of_type(m.Tail, sent)
    return question


def first_question(bench: ReplicaBench) -> str:
    """Whom it asked when it started."""
    return asked([event for event in bench.trace if not isinstance(event, str)])[0]


def answer(*entries: bytes, previous: int = 1, previous_term: int = 0, **changes: object) -> m.Tailed:
    """Of b, leader of term 1."""
    commit_index = previous + len(entries)
    batch = [(1, entry) for entry in entries]
    return structs.replace(
        m.Tailed(1, "b", 0, commit_index, 1, previous, previous_term, batch),
        **changes,
    )


def test_an_observer_applies_what_its_source_has_applied_and_asks_for_more() -> None:
    bench = observer()
    peer = first_question(bench)
    assert asked([event for event in bench.trace if not isinstance(event, str)])[1] == m.Tail(2)
    assert asked(bench.tick((peer, answer(NO_OP, X)))) == (peer, m.Tail(4))
    assert (bench.state(), bench.commit, bench.engine.leader(), bench.engine.term()) == (b"x", 3, "b", 1)
    assert asked(bench.tick((peer, answer(previous=3)))) == (peer, m.Tail(4))
    bench.disk.crash()
    again = ReplicaBench("bc", "a", disk=bench.disk)
    assert (again.state(), again.commit) == (b"x", 3)


def test_an_observer_acknowledges_nothing() -> None:
    bench = observer()
    peer = first_question(bench)
    sent = bench.tick((peer, answer(NO_OP, X)), (peer, answer(previous=3)))
    assert {type(message) for _, message in sent} == {m.Tail}


def test_it_waits_for_its_answer_and_leaves_a_source_that_is_silent() -> None:
    bench = observer()
    peer = first_question(bench)
    (other,) = {"b", "c"} - {peer}
    assert of_type(m.Tail, bench.tick(after_s=TIMING.silence_s - 0.01)) == []
    assert bench.replica.next_wakeup() <= bench.clock.now_s + 0.02
    assert asked(bench.tick(after_s=0.02)) == (other, m.Tail(2))
    bench.tick((peer, answer(NO_OP, X)))  # too late
    assert bench.state() == b""
    assert asked(bench.tick((other, answer(NO_OP, X)))) == (other, m.Tail(4))


def test_it_leaves_a_source_that_has_lost_the_leader() -> None:
    bench = observer()
    peer = first_question(bench)
    (other,) = {"b", "c"} - {peer}
    old = answer(previous=1, leader="", age_ms=int(TAIL_AGE_S * 1000) + 1)
    assert asked(bench.tick((peer, old)))[0] == other
    assert asked(bench.tick((other, old)))[0] in (peer, other)  # better one than none


def test_it_leaves_a_source_whose_connection_ended_and_asks_the_next() -> None:
    bench = observer()
    peer = first_question(bench)
    (other,) = {"b", "c"} - {peer}
    bench.replica.disconnected(peer)
    assert asked(bench.tick())[0] == other
    bench.replica.disconnected(other)
    assert bench.tick() == []
    assert bench.replica.next_wakeup() > bench.clock.now_s
    bench.replica.connected(peer)
    assert asked(bench.tick())[0] == peer


def test_ages_add_up_along_the_chain() -> None:
    bench = observer(voters="bc")
    peer = first_question(bench)
    bench.tick((peer, answer(NO_OP, age_ms=400)))
    assert bench.replica.leader_contact_s() == pytest.approx(0.4)
    bench.clock.now_s += 0.25
    assert bench.replica.leader_contact_s() == pytest.approx(0.65)
    bench.tick((peer, answer(previous=2, age_ms=900)))
    assert bench.replica.leader_contact_s() == pytest.approx(0.65)  # an older word makes nothing older
    bench.tick((peer, answer(previous=2, age_ms=100)))
    assert bench.replica.leader_contact_s() == pytest.approx(0.1)


def test_an_observer_is_a_source_too_and_passes_the_age_on() -> None:
    bench = ReplicaBench("bc", "ad")
    peer = first_question(bench)
    bench.tick((peer, answer(NO_OP, X, age_ms=300)))
    assert tailed(bench.tick(("d", m.Tail(2)), after_s=0.2)) == m.Tailed(1, "b", 500, 3, 1, 1, 0, [(1, NO_OP), (1, X)])


def test_voters_of_the_own_datacenter_are_preferred_and_an_observer_where_it_is_told_to() -> None:
    def members(preferred: tuple[str, ...]) -> set[str]:
        far = [record(id, datacenter="far") for id in "bc"]
        near = [record("d", datacenter="near"), record("e", "observer", datacenter="near")]
        configuration = Configuration(cluster="bench", members=(record("a", "observer"), *far, *near))
        return {
            first_question(ReplicaBench(founding=configuration, datacenter="near", preferred=preferred, seed=seed))
            for seed in range(20)
        }

    assert members(()) == {"d"}
    assert members(("e:1",)) == {"e"}
    assert members(("b:1", "c:1")) == {"b", "c"}


def test_another_observer_is_asked_where_no_voter_is_left() -> None:
    """All voters that it knows of may have been removed while it was away."""
    bench = ReplicaBench("bc", "ad", id="a")
    first = first_question(bench)
    bench.replica.disconnected(first)
    other = asked(bench.tick())[0]
    assert {first, other} == {"b", "c"}
    bench.replica.disconnected(other)
    assert asked(bench.tick()) == ("d", m.Tail(2))


def test_sources_are_chosen_at_random_among_equals() -> None:
    assert {first_question(observer("bcd", seed=seed)) for seed in range(30)} == {"b", "c", "d"}


def test_an_answer_of_another_or_that_nobody_asked_for_is_not_taken() -> None:
    bench = observer()
    peer = first_question(bench)
    (other,) = {"b", "c"} - {peer}
    assert bench.tick((other, answer(NO_OP, X))) == []
    voter = ReplicaBench()
    assert voter.tick(("b", answer(NO_OP, X))) == []
    assert (bench.last, voter.last) == (1, 1)


def test_an_answer_from_behind_the_start_of_the_sources_log_starts_a_fetch() -> None:
    bench = observer()
    peer = first_question(bench)
    sent = bench.tick((peer, answer(previous=1, first_index=7, commit_index=12)))
    ((_, fetch),) = of_type(m.Fetch, sent)
    assert fetch == m.Fetch(7)
    assert of_type(m.Tail, bench.tick(after_s=0.3)) == []  # not while it fetches


def test_a_question_that_is_not_answered_does_not_wake_it_up_again_and_again_while_it_fetches() -> None:
    bench = observer()
    bench.tick()
    bench.replica.recovery.fetcher.want(7)  # as a leader's append from beyond its log would
    bench.tick(after_s=TIMING.silence_s + 0.1)
    assert bench.replica.next_wakeup() > bench.clock.now_s


def test_a_former_voters_uncommitted_tail_is_replaced_by_what_is_committed() -> None:
    """It took a configuration that made it a voter, and entries behind it, of a leader that was deposed."""
    bench = observer()
    peer = first_question(bench)
    bench.tick((peer, answer(NO_OP)))
    voting = configured("abc")
    bench.answers(m.Append(1, 2, 2, 2, 1, [(2, pack_configuration(voting)), (2, X), (2, Y)]))
    assert (bench.replica.votes, bench.last) == (True, 5)
    bench.answers(m.Append(1, 3, 2, 2, 1, [(3, NO_OP)]), sender="c")
    assert (bench.replica.votes, bench.last) == (False, 3)
    peer, _ = asked(bench.tick(after_s=TIMING.silence_s))
    committed = m.Tailed(4, "c", 0, 4, 1, 2, 1, [(4, NO_OP), (4, Z)])
    assert {type(message) for _, message in bench.tick((peer, committed))} == {m.Tail}
    assert bench.log()[2:] == [(4, NO_OP), (4, Z)]
    assert (bench.state(), bench.commit, bench.engine.term()) == (b"z", 4, 4)


def test_one_that_holds_a_promotion_fetches_what_the_others_logs_have_no_more() -> None:
    """The promotion was undone, so no leader sends it anything, and its source cannot either."""
    bench = observer()
    peer = first_question(bench)
    bench.tick((peer, answer(NO_OP)))
    bench.answers(m.Append(1, 2, 2, 2, 1, [(2, pack_configuration(configured("abc")))]))
    assert bench.replica.votes
    peer, _ = asked(bench.tick(after_s=TIMING.silence_s))
    sent = bench.tick((peer, m.Tailed(2, "c", 0, 30, 20, 2, 0, [])))
    assert m.Fetch(20) in [message for _, message in sent]


def test_a_promoted_observer_takes_appends_and_campaigns() -> None:
    bench = observer()
    peer = first_question(bench)
    bench.tick((peer, answer(NO_OP, X, pack_configuration(configured("abc")))))
    assert (bench.replica.votes, bench.commit) == (True, 4)
    assert bench.answers(m.Append(1, 1, 4, 4, 1, [(1, Y)]), sender="b") == [m.AppendReply(1, 1, 6, True, False)]
    assert bench.replica.leader_contact_s() == 0.0
    assert of_type(m.Tail, bench.tick(after_s=TIMING.silence_s)) == []
    assert bench.tick((peer, answer(Z, previous=5, previous_term=1))) == []  # it follows the leader itself now
    assert [to for to, _ in of_type(m.PreVote, bench.tick(after_s=1.0))] == ["b", "c"]


def test_an_answer_that_comes_when_it_votes_already_is_not_taken() -> None:
    bench = observer()
    peer = first_question(bench)
    bench.answers(m.Append(1, 1, 2, 1, 0, [(1, pack_configuration(configured("abc")))]))
    assert bench.replica.votes
    bench.tick((peer, answer(X, Y, previous=2, previous_term=1)))
    assert bench.last == 2


def test_an_observer_in_a_higher_term_takes_committed_entries_of_a_lower_one() -> None:
    """What is committed is true in every term."""
    bench = observer()
    peer = first_question(bench)
    bench.tick(("c", m.RequestVote(9, 9, 9, False)))
    assert bench.engine.term() == 9
    bench.tick((peer, answer(NO_OP, X)))
    assert (bench.state(), bench.engine.term()) == (b"x", 9)


def test_an_observer_reads_and_proposes_through_the_leader_its_source_names() -> None:
    bench = observer()
    peer = first_question(bench)
    bench.tick((peer, answer(NO_OP, leader="c")))
    bench.propose(b"x")
    bench.read()
    sent = bench.tick()
    ((to, request),) = of_type(m.ReadRequest, sent)
    ((proposed_to, proposed),) = of_type(m.Propose, sent)
    assert (to, proposed_to, proposed.command) == ("c", "c", b"x")
    bench.tick(("c", m.ReadIndex(request.call, 3)))
    assert bench.reads == 0
    bench.tick((peer, answer(X, previous=2, previous_term=1, leader="c")))
    assert bench.reads == 1


def test_an_observer_that_hears_nothing_keeps_serving_what_it_has() -> None:
    bench = observer()
    peer = first_question(bench)
    bench.tick((peer, answer(NO_OP, X)))
    for other in "bc":
        bench.replica.disconnected(other)
    bench.pass_s(30)
    assert (bench.state(), bench.engine.term()) == (b"x", 1)
    assert bench.replica.leader_contact_s() == pytest.approx(30)
