"""Changing who belongs to the cluster, and passing leadership on, on one replica whose peers the test plays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack, structs

from cluster import messages as m
from cluster.api import MemberRemoved, NotAttempted
from cluster.configuration import Configuration, founding
from cluster.entries import NO_OP, pack, pack_configuration, unpack_configuration
from cluster.limits import CANDIDATES, PROMOTE_LAG, REPORT_S, REPORTS_ALIVE
from cluster.membership import Add, Changed, Promote, Remove, Transfer, decode_changed, encode_change
from tests.unit.cluster.engine_bench import TIMING
from tests.unit.cluster.replica_bench import ReplicaBench, configured, of_type, record, sent_to

X = pack([b"x"])


def leader(voters: str = "abc", observers: str = "") -> ReplicaBench:
    """It leads, its no-op is committed, and everybody lives."""
    bench = ReplicaBench(voters, observers).lead()
    bench.hear(*bench.replica.others)
    return bench


def newest(bench: ReplicaBench) -> Configuration | None:
    """Of the last entry."""
    return unpack_configuration(bench.log()[-1][1])


def acknowledged(bench: ReplicaBench, *peers: str) -> ReplicaBench:
    for peer in peers:
        bench.acknowledge(peer)
    return bench


# ---- admission
def test_a_process_that_waits_is_admitted_once_the_change_is_committed() -> None:
    bench = leader()
    bench.introduce("d/1")
    assert [candidate.record.id for candidate in bench.replica.governor.waiting()] == ["d/1"]
    bench.change(Add("d"))
    assert (bench.roles()["d/1"], bench.results) == ("observer", [])
    bench.acknowledge("b")
    assert bench.changed == Changed(member="d/1")
    assert bench.replica.journal.applied_configuration == bench.configuration
    assert bench.replica.governor.waiting() == []


def test_only_who_is_connected_and_was_not_removed_waits() -> None:
    bench = leader("abc", "d")
    bench.introduce("e/1")
    bench.replica.disconnected("e/1")
    assert bench.replica.governor.waiting() == []
    acknowledged(bench, "b").change(Remove("d"))
    bench.acknowledge("b")
    bench.introduce("d")
    assert bench.replica.governor.waiting() == []
    bench.change(Add("d"))
    assert bench.changed.reason == "NOT_WAITING"


def test_no_more_processes_are_remembered_than_the_limit() -> None:
    bench = leader()
    for number in range(CANDIDATES + 5):
        bench.introduce(f"x{number}/1")
    waiting = [candidate.record.id for candidate in bench.replica.governor.waiting()]
    assert waiting == [f"x{number}/1" for number in range(5, CANDIDATES + 5)]


def test_a_member_that_is_introduced_again_and_again_waits_for_nothing() -> None:
    bench = leader()
    for _ in range(3):
        bench.introduce("b")
    assert (bench.replica.governor.waiting(), bench.last) == ([], 2)


def test_a_lost_member_is_replaced_step_by_step() -> None:
    bench = leader()
    bench.introduce("c/2")
    bench.change(Add("c"))
    bench.acknowledge("b")
    assert bench.changed == Changed(member="c/2")
    bench.hear("b", "c/2")
    bench.change(Promote("c/2"))
    assert bench.changed.reason == "NAME_TAKEN"
    bench.change(Remove("c"))  # the id of the old one, although both have the name
    acknowledged(bench, "b")
    assert (bench.roles(), bench.changed) == (
        {"a": "voter", "b": "voter", "c/2": "observer"},
        Changed(member="c"),
    )
    bench.change(Promote("c"))
    acknowledged(bench, "b")
    assert (bench.roles()["c/2"], bench.changed) == ("voter", Changed(member="c/2"))
    assert bench.configuration.removed == ("of c",)


# ---- when a change may be made
def test_nothing_is_changed_before_an_entry_of_the_own_term_is_committed() -> None:
    """Else two majorities may be disjoint (Ongaro's correction of July 2015)."""
    bench = ReplicaBench("abc", "d")
    bench.campaign()
    bench.tick(("b", m.Vote(1)))
    bench.hear("b", "c", "d", applied=1)
    bench.change(Promote("d"))
    assert (bench.engine.leads(), bench.last, bench.roles()["d"]) == (True, 2, "observer")
    bench.acknowledge("b")
    assert (bench.last, bench.roles()["d"]) == (3, "voter")


def test_one_change_at_a_time() -> None:
    bench = leader("abc", "de")
    bench.change(Promote("d"))
    bench.change(Promote("e"))
    assert (bench.roles()["d"], bench.roles()["e"]) == ("voter", "observer")
    acknowledged(bench, "b")
    assert bench.roles()["e"] == "observer"  # two of four are no majority
    acknowledged(bench, "c")
    assert (bench.roles()["e"], bench.results) == ("voter", [b"\x81\xa6member\xa1d"])


def test_a_change_of_before_is_waited_for_too() -> None:
    """A new leader has it in its log, and does not know whether it is committed."""
    bench = ReplicaBench("abc", "de")
    bench.follow(NO_OP, pack_configuration(configured("abcd", "e")), commit_index=2)
    bench.campaign()
    bench.tick(*[(peer, m.Vote(2)) for peer in "bcd"])
    bench.hear("b", "c", "d", "e", applied=2)
    bench.change(Promote("e"))
    assert (bench.last, bench.roles()["e"]) == (4, "observer")
    acknowledged(bench, "b", "c")
    assert bench.roles()["e"] == "voter"


def test_commands_go_on_while_a_change_is_on_its_way() -> None:
    bench = leader("abc", "d")
    bench.change(Promote("d"))
    bench.propose(b"x")
    bench.tick()
    assert bench.last == 4
    acknowledged(bench, "b", "c")
    assert (bench.state(), len(bench.results)) == (b"x", 2)


def test_what_is_so_already_is_answered_without_an_entry() -> None:
    bench = leader("abc", "d")
    for change, member in ((Add("d"), "d"), (Promote("b"), "b")):
        bench.change(change)
        assert (bench.changed, bench.last) == (Changed(member=member), 2)


@pytest.mark.parametrize("name", ["d", "d/1"])
def test_the_answer_names_the_member_that_was_meant(name: str) -> None:
    with_d = structs.replace(configured(), members=(*configured().members, record("d/1", "observer")))
    bench = ReplicaBench(founding=with_d).lead()
    bench.hear("b", "c", "d/1")
    bench.change(Promote(name))
    acknowledged(bench, "b", "c")
    assert bench.changed == Changed(member="d/1")
    bench.change(Remove(name))
    acknowledged(bench, "b", "c")
    assert bench.changed == Changed(member="d/1")
    bench.change(Remove("d/1"))
    assert bench.changed == Changed(member="d/1")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda bench: bench.tick(("d", m.Report(2, 1, 0, b""))), ""),
        (lambda bench: bench.pass_s(REPORT_S * REPORTS_ALIVE + 0.1, "b", "c"), "NOT_CAUGHT_UP"),  # it is dead
        (lambda bench: bench.replica.reports._heard.pop("d"), "NOT_CAUGHT_UP"),
    ],
)
def test_a_promotion_needs_an_observer_that_lives_and_is_near(
    spoil: Callable[[ReplicaBench], object], reason: str
) -> None:
    bench = leader("abc", "d")
    spoil(bench)
    bench.change(Promote("d", force=True))
    assert bench.roles()["d"] == ("observer" if reason else "voter")
    if reason:
        assert bench.changed.reason == reason


def test_an_observer_that_is_far_behind_is_not_promoted() -> None:
    bench = ReplicaBench("abc", "d").lead()
    for _ in range(PROMOTE_LAG + 3):
        bench.propose(b"x")
        bench.tick()
    bench.acknowledge("b")
    bench.hear("b", "c")
    bench.hear("d", applied=2)
    bench.change(Promote("d"))
    assert bench.changed.reason == "NOT_CAUGHT_UP"
    bench.hear("d", applied=bench.commit - PROMOTE_LAG)
    bench.change(Promote("d"))
    assert bench.roles()["d"] == "voter"


def test_a_change_that_would_stop_all_writes_needs_force() -> None:
    bench = leader("abc", "d")
    for _ in range(25):  # b answers, but does not say how far it is
        bench.tick(("b", m.AppendReply(0, 1, 2, False, False)), ("d", m.Report(2, 1, 0, b"")), after_s=0.1)
    assert bench.replica.reports.alive() == {"a", "d"}
    bench.change(Promote("d"))
    assert (bench.changed.reason, bench.changed.member) == ("QUORUM_AT_RISK", "d")
    bench.change(Promote("d", force=True))
    assert bench.roles()["d"] == "voter"


# ---- a configuration counts from its append on
def test_a_new_voter_counts_from_the_append_on() -> None:
    bench = leader("abc", "d")
    bench.change(Promote("d"))
    sent = sent_to("d", bench.tick(after_s=0.11))
    assert isinstance(sent[0], m.Append)
    bench.propose(b"x")
    bench.tick()
    acknowledged(bench, "b")
    assert bench.commit == 2
    acknowledged(bench, "d")
    assert bench.commit == 4


def test_a_removed_voter_counts_no_more_from_the_append_on() -> None:
    bench = leader("abcd")
    sent = bench.change(Remove("d"))
    assert {peer for peer, _ in of_type(m.Append, sent)} == {"b", "c"}  # d must go on campaigning until it is committed
    acknowledged(bench, "d")
    assert bench.commit == 2
    assert sent_to("d", bench.tick(after_s=0.11)) == []
    acknowledged(bench, "b")
    assert bench.commit == 3


@pytest.mark.parametrize("restart", ["", "restarted"])
def test_a_follower_takes_a_configuration_over_before_it_is_committed(restart: str) -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, pack_configuration(configured("ab")))
    if restart:
        bench.disk.crash()
        bench = ReplicaBench(disk=bench.disk)
    assert (bench.replica.voters, bench.replica.journal.configuration_index) == (frozenset("ab"), 3)
    assert bench.replica.journal.applied_configuration == configured()
    assert of_type(m.PreVote, bench.tick(after_s=1.0)) == [("b", m.PreVote(2, 1, 3))]


@pytest.mark.parametrize("restart", ["", "restarted"])
def test_an_applied_configuration_stays(restart: str) -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, pack_configuration(configured("ab")), pack_configuration(configured("abd")), commit_index=3)
    if restart:
        bench.disk.crash()
        bench = ReplicaBench(disk=bench.disk)
    assert bench.replica.journal.applied_configuration == configured("ab")
    assert (bench.configuration, bench.replica.journal.configuration_index) == (configured("abd"), 4)
    bench.answers(m.Append(1, 2, 4, 3, 1, [(2, NO_OP)]))
    assert (bench.configuration, bench.replica.journal.configuration_index) == (configured("ab"), 0)


@pytest.mark.parametrize("restart", ["", "restarted"])
def test_a_truncation_undoes_a_configuration(restart: str) -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, pack_configuration(configured("abd")), X, pack_configuration(configured("abde")))
    bench.answers(m.Append(1, 2, 1, 4, 1, [(2, NO_OP)]), sender="c")
    assert bench.replica.voters == frozenset("abd")
    bench.answers(m.Append(1, 3, 1, 2, 1, [(3, NO_OP)]), sender="c")
    if restart:
        bench.disk.crash()
        bench = ReplicaBench(disk=bench.disk)
    assert (bench.replica.voters, bench.configuration) == (frozenset("abc"), configured())


def test_a_deposed_leaders_change_is_undone_and_said_not_to_have_happened() -> None:
    bench = leader("abc", "d")
    bench.change(Promote("d"))
    bench.answers(m.Append(1, 2, 2, 2, 1, [(2, NO_OP)]), sender="b")
    assert (bench.roles()["d"], bench.results) == ("observer", [])
    bench.answers(m.Append(2, 2, 3, 3, 2, []), sender="b")
    assert [type(result) for result in bench.results] == [NotAttempted]


# ---- who counts, and who is answered
def test_votes_of_who_does_not_vote_are_not_counted() -> None:
    bench = ReplicaBench("abcde", "fg")
    bench.replica.connected("x")
    bench.tick(after_s=1.0)
    granted = m.PreVoteReply(1, True, 0)
    bench.tick(*[(peer, granted) for peer in ("f", "g", "x", "b")])
    assert bench.engine.term() == 0
    bench.tick(("c", granted))
    assert bench.engine.term() == 1
    bench.tick(*[(peer, m.Vote(1)) for peer in ("f", "g", "x", "b")])
    assert not bench.engine.leads()
    bench.tick(("e", m.Vote(1)))
    assert bench.engine.leads()


def test_acknowledgements_of_who_does_not_vote_are_not_counted() -> None:
    bench = leader("abcde", "fg")
    bench.propose(b"x")
    bench.tick()
    bench.replica.connected("y")
    acknowledged(bench, "f", "g", "y", "b")
    assert (bench.engine.leads(), bench.state()) == (True, b"")
    acknowledged(bench, "c")
    assert bench.state() == b"x"


def test_reads_are_confirmed_by_voters_only() -> None:
    bench = leader("abcde", "fg")
    bench.read()
    probes = of_type(m.ReadProbe, bench.tick())
    assert [peer for peer, _ in probes] == ["b", "c", "d", "e"]
    round_ = probes[0][1].round
    bench.tick(*[(peer, m.ReadConfirm(round_, 1)) for peer in "fgxb"])
    assert bench.reads == 0
    bench.tick(("c", m.ReadConfirm(round_, 1)))
    assert bench.reads == 1


@pytest.mark.parametrize("candidate", ["f", "d/7"])
def test_votes_are_answered_also_for_who_is_no_voter_here(candidate: str) -> None:
    """This member may not know the configuration yet in which the candidate votes: dropping its requests would lock
    the cluster out for ever."""
    bench = ReplicaBench("abc", "f")
    bench.replica.connected(candidate)
    assert bench.answers(m.PreVote(1, 1, 2), sender=candidate) == [m.PreVoteReply(1, True, 0)]
    assert bench.answers(m.RequestVote(1, 1, 2, False), sender=candidate) == [m.Vote(1)]
    assert bench.durable() == (1, candidate, 1)
    answer = bench.answers(m.Append(1, 1, 2, 1, 0, [(1, NO_OP)]), sender=candidate)
    assert answer == [m.AppendReply(1, 1, 3, True, False)]
    assert bench.engine.leader() == candidate


@pytest.mark.parametrize("how", ["an observer", "not a member", "nobody yet", "removed by an uncommitted entry"])
def test_who_has_no_vote_never_campaigns_and_does_not_spin(how: str) -> None:
    match how:
        case "an observer":
            bench = ReplicaBench("bc", "a")
        case "not a member":
            bench = ReplicaBench("bc")
        case "nobody yet":
            bench = ReplicaBench(id="d/1", founding=Configuration())
        case _:
            bench = ReplicaBench()
            bench.follow(NO_OP, pack_configuration(configured("bc")))
    for _ in range(40):
        bench.clock.now_s += TIMING.heartbeat_s
        sent = bench.tick()
        assert not of_type(m.PreVote, sent)
        assert not of_type(m.RequestVote, sent)
        assert bench.replica.next_wakeup() > bench.clock.now_s
    if how == "an observer":
        bench.tick(("b", m.Append(1, 1, 1, 1, 0, [])), ("b", m.TimeoutNow(1)))
        assert of_type(m.RequestVote, bench.tick(after_s=0.1)) == []
    assert bench.engine.term() <= 1


# ---- being removed
def test_a_removed_member_says_so_after_its_commit_and_never_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ReplicaBench()
    without = structs.replace(configured("bc"), removed=("of a",))
    bench.follow(NO_OP, pack_configuration(without))
    del bench.trace[:]
    bench.replica.receive("b", m.Append(2, 1, 3, 3, 1, []))
    bench.replica.advance()
    assert bench.trace == []
    with pytest.raises(MemberRemoved, match="a was removed from the cluster"):
        bench.replica.commit()
    assert "commit" in bench.trace
    bench.disk.crash()
    monkeypatch.setattr(ReplicaBench, "tick", lambda self: pytest.fail("it takes part"))
    with pytest.raises(MemberRemoved):
        ReplicaBench(disk=bench.disk)


def test_who_is_removed_is_let_in_until_that_is_committed() -> None:
    bench = leader("abcd")
    bench.change(Remove("d"))
    assert bench.roles().keys() == {"a", "b", "c"}
    assert (*bench.configuration.removed,) == ("of d",)
    assert bench.replica.reachable.ids == {"a", "b", "c", "d"}
    assert not bench.replica.reachable.removed
    acknowledged(bench, "b", "c")
    assert bench.replica.reachable == bench.configuration


def test_a_founder_that_was_never_heard_knows_its_removal_by_name() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, pack_configuration(structs.replace(configured("bc"), removed=("a",))))
    with pytest.raises(MemberRemoved):
        bench.follow(commit_index=3)


def test_a_leader_to_be_removed_hands_over_first_and_its_successor_removes_it() -> None:
    bench = leader()
    acknowledged(bench, "b")
    bench.change(Remove("a"))
    sent = bench.tick()
    assert of_type(m.TimeoutNow, sent) == [("b", m.TimeoutNow(1))]
    assert (bench.last, bench.results) == (2, [])
    bench.tick(("b", m.RequestVote(2, 1, 2, True)))
    sent = bench.tick(("b", m.Append(1, 2, 2, 2, 1, [(2, NO_OP)])))
    ((successor, proposed),) = of_type(m.Propose, sent)
    assert (successor, proposed.change, proposed.command) == ("b", True, encode_change(Remove("a")))


def test_a_leader_that_nobody_takes_over_from_is_not_removed() -> None:
    bench = leader()
    bench.change(Remove("a"))
    bench.pass_s(2 * TIMING.election_max_s + 0.2, "b", "c")
    assert bench.changed.reason == "TRANSFER_FAILED"
    assert (bench.engine.leads(), bench.last, bench.roles()["a"]) == (True, 2, "voter")
    bench.propose(b"x")
    bench.tick()
    assert bench.last == 3


def test_the_last_voter_is_not_removed() -> None:
    bench = ReplicaBench("a").lead()
    bench.change(Remove("a", force=True))
    assert (bench.changed.reason, bench.last) == ("LAST_VOTER", 2)


# ---- what members say of themselves
def test_a_leader_writes_down_what_founders_say_of_themselves_one_entry_at_a_time() -> None:
    met = founding("bench", {"a": "old:1", "b": "b:1", "c": "c:1"})
    bench = ReplicaBench(founding=met).lead()
    assert newest(bench) == structs.replace(met, members=(record("a"), *met.members[1:]))
    bench.introduce("b")
    bench.introduce("c")
    assert bench.last == 3
    acknowledged(bench, "b")
    acknowledged(bench, "b")
    assert (bench.last, bench.configuration) == (5, configured())
    acknowledged(bench, "b")
    bench.introduce("b")
    assert bench.last == 5


# ---- passing leadership on
def transferring(target: str = "c") -> ReplicaBench:
    bench = leader("abc", "d")
    acknowledged(bench, "b", "c")
    bench.change(Transfer(target))
    assert bench.replica.next_wakeup() <= bench.clock.now_s
    assert of_type(m.TimeoutNow, bench.tick()) == [(target or "c", m.TimeoutNow(1))]
    return bench


@pytest.mark.parametrize("target", ["b", "c", ""])
def test_a_transfer_is_answered_when_another_leads(target: str) -> None:
    bench = transferring(target)
    assert bench.results == []
    bench.tick(("c", m.Append(1, 2, 2, 2, 1, [(2, NO_OP)])))
    assert bench.changed == Changed(member="c")
    assert not bench.replica.governor.handing_over()


def test_a_transfer_is_asked_for_again_at_every_heartbeat_and_nothing_is_taken_meanwhile() -> None:
    bench = transferring()
    bench.propose(b"x")
    assert of_type(m.TimeoutNow, bench.tick(after_s=0.11)) == [("c", m.TimeoutNow(1))]
    assert bench.answers(m.Propose(5, b"y"), sender="b") == [m.Proposed(5, False, b"")]
    assert bench.last == 2


def test_a_transfer_fails_after_its_time_and_service_goes_on() -> None:
    bench = transferring()
    bench.propose(b"x")
    bench.pass_s(2 * TIMING.election_max_s - 0.2, "b", "c", "d")
    assert bench.results == []
    bench.pass_s(0.4, "b", "c", "d")
    assert bench.changed.reason == "TRANSFER_FAILED"
    assert "a leads on" in bench.changed.message
    assert (bench.engine.leads(), bench.last) == (True, 3)
    assert of_type(m.TimeoutNow, bench.tick(after_s=0.11)) == []


@pytest.mark.parametrize(
    ("target", "reason"),
    [("d", "TRANSFER_REFUSED"), ("x", "UNKNOWN_MEMBER"), ("a", ""), ("c", "TRANSFER_REFUSED")],
    ids=["an observer", "a stranger", "itself", "a dead one"],
)
def test_a_transfer_that_cannot_be(target: str, reason: str) -> None:
    bench = leader("abc", "d")
    bench.pass_s(REPORT_S * REPORTS_ALIVE + 0.1, "b", "d")
    acknowledged(bench, "b")
    bench.change(Transfer(target))
    assert of_type(m.TimeoutNow, bench.tick()) == []
    assert (bench.changed.reason, bool(bench.changed.message)) == (reason, bool(reason))
    assert not bench.replica.governor.handing_over()


def test_one_transfer_at_a_time_and_none_without_another_voter() -> None:
    bench = transferring()
    bench.change(Transfer("b"))
    assert bench.changed == Changed("TRANSFER_REFUSED", "another hand-over is going on")
    alone = ReplicaBench("a", "d").lead()
    alone.change(Transfer())
    assert alone.changed == Changed("TRANSFER_REFUSED", "there is no other voter")


def test_a_transfer_is_not_put_off_by_a_change_that_waits() -> None:
    bench = leader("abc", "d")
    bench.change(Promote("d"))
    acknowledged(bench, "c")  # two of four
    bench.change(Transfer("c"))
    assert of_type(m.TimeoutNow, bench.tick(after_s=0.11)) == [("c", m.TimeoutNow(1))]


def test_a_transfer_wakes_the_member_up_to_give_its_answer() -> None:
    bench = transferring()
    bench.replica.disconnected("c")
    while not bench.results:
        due_s = bench.replica.next_wakeup()
        assert bench.clock.now_s < due_s < bench.clock.now_s + 1.0
        bench.clock.now_s = due_s + 0.001
        bench.hear("b")
    assert bench.clock.now_s < 1003.0


# ---- through a follower
def asked_of(bench: ReplicaBench, change: Transfer | Promote) -> m.Proposed:
    sent = bench.tick(("b", m.Propose(5, encode_change(change), True)))
    assert of_type(m.Proposed, sent) == []
    return m.Proposed(5, True, b"")


def test_a_transfer_may_be_asked_for_through_a_follower() -> None:
    bench = leader()
    acknowledged(bench, "b", "c")
    asked_of(bench, Transfer("c"))
    sent = bench.tick(("c", m.Append(1, 2, 2, 2, 1, [(2, NO_OP)])))
    ((peer, answer),) = of_type(m.Proposed, sent)
    assert (peer, answer.call, decode_changed(answer.result)) == ("b", 5, Changed(member="c"))


def test_a_change_may_be_asked_for_through_a_follower() -> None:
    bench = leader("abc", "d")
    asked_of(bench, Promote("d"))
    sent = [*bench.acknowledge("b"), *bench.acknowledge("c")]
    ((peer, answer),) = of_type(m.Proposed, sent)
    assert (peer, answer.attempted, decode_changed(answer.result)) == ("b", True, Changed(member="d"))


def test_a_follower_passes_a_change_on_and_its_answer_back() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, commit_index=2)
    ((peer, proposed),) = of_type(m.Propose, bench.change(Transfer("c")))
    assert (peer, proposed.change, proposed.command) == ("b", True, encode_change(Transfer("c")))
    bench.tick(("b", m.Proposed(proposed.call, True, b"\x80")))
    assert bench.changed == Changed()


def test_a_change_that_was_refused_may_be_withdrawn_as_its_answer_arrives() -> None:
    bench = leader()
    bench.change(Remove("z"))
    assert bench.changed.reason == "UNKNOWN_MEMBER"
    assert not bench.replica.withdraw(bench.proposal)


def test_a_withdrawn_change_is_not_made() -> None:
    bench = ReplicaBench("abc", "d")
    bench.change(Remove("d"))
    assert bench.replica.withdraw(bench.proposal)
    bench.lead()
    assert bench.roles()["d"] == "observer"


_anything = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=8) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NONSENSE = {
    "nothing": b"",
    "a kind of later": b"\x81\xa4type\xa3nop",
    "bytes that are no text": b"\x82\xa4type\xa3add\xa6member\xa2\xff\xfe",
    "a kind that is no text": b"\x81\xa4type\xa2\xff\xfe",
    "nested deeper than the stack": b"\x83\xa4type\xa3add\xa6member\xa1d\xa1x" + b"\x91" * 200_000 + b"\xc0",
    "a number for a name": b"\x82\xa4type\xa6remove\xa6member\x01",
    "a command": X,
}


@pytest.mark.parametrize("command", NONSENSE.values(), ids=NONSENSE.keys())
def test_a_change_that_this_release_does_not_know_is_refused(command: bytes) -> None:
    bench = leader()
    assert bench.answers(m.Propose(5, command, True), sender="c") == [m.Proposed(5, False, b"")]
    assert (bench.last, bench.roles()) == (2, dict.fromkeys("abc", "voter"))


@given(st.binary(max_size=60) | _anything.map(msgpack.encode))
def test_no_bytes_of_a_change_raise_out_of_a_tick(command: bytes) -> None:
    bench = leader()
    bench.tick(("c", m.Propose(5, command, True)))
    bench.tick(("c", m.Propose(6, command, False)))
    assert bench.engine.leads()
