"""What leaves before the disk has it, and what must not: the order of sends and commits inside a tick, and what the
disk holds at the moment a promise leaves."""

from __future__ import annotations

import pytest

from cluster import messages as m
from cluster.entries import NO_OP, pack
from tests.unit.cluster.replica_bench import Disk, ReplicaBench, Sent, of_type

X = pack([b"x"])


class Strict(ReplicaBench):
    """Looks at the disk whenever something leaves."""

    def _send(self, peer: str, message: m.Message) -> None:
        super()._send(peer, message)
        term, vote, last = self.durable()
        match message:
            case m.Vote():
                assert (term, vote) == (message.term, peer)
            case m.RequestVote():
                assert (term, vote) == (message.term, "a")
            case m.AppendReply(success=True):
                assert term >= message.term
                assert last >= message.next_index - 1
            case m.HigherTerm() | m.ReadConfirm() | m.PreVoteReply() | m.AppendReply():
                assert term >= message.term
            case m.Proposed(attempted=True):  # on this disk as an entry; what it did may be in the open transaction
                assert self.engine.commit_index() <= last


def after_commit(bench: ReplicaBench, kind: type[m.Message], *inbox: Sent) -> bool:
    """Whether everything of this kind leaves after the tick's commit; one tick."""
    del bench.trace[:]
    for peer, message in inbox:
        bench.replica.receive(peer, message)
    bench.replica.tick()
    places = [at for at, event in enumerate(bench.trace) if isinstance(event, tuple) and isinstance(event[1], kind)]
    assert places, f"no {kind.__name__} in {bench.trace}"
    return min(places) > bench.trace.index("commit")


@pytest.fixture
def bench() -> Strict:
    return Strict()


def test_a_vote_leaves_after_the_commit(bench: Strict) -> None:
    assert after_commit(bench, m.Vote, ("b", m.RequestVote(4, 9, 9, False)))


def test_a_vote_request_leaves_after_the_commit_of_the_own_vote(bench: Strict) -> None:
    bench.tick(after_s=1.0)
    assert after_commit(bench, m.RequestVote, ("b", m.PreVoteReply(1, True, 0)))


def test_an_append_is_acknowledged_after_the_commit(bench: Strict) -> None:
    assert after_commit(bench, m.AppendReply, ("b", m.Append(1, 1, 1, 1, 0, [(1, NO_OP), (1, X)])))


def test_many_appends_share_one_commit(bench: Strict) -> None:
    appends = [("b", m.Append(n, 1, 1, n, min(n - 1, 1), [(1, NO_OP)])) for n in (1, 2, 3)]
    assert after_commit(bench, m.AppendReply, *appends)
    assert bench.trace.count("commit") == 1
    assert bench.last == 4


def test_a_read_is_confirmed_after_the_commit_of_the_term(bench: Strict) -> None:
    assert after_commit(bench, m.ReadConfirm, ("b", m.ReadProbe(1, 5)))


def test_entries_leave_before_the_commit_and_that_they_are_committed_behind_the_callers() -> None:
    bench = ReplicaBench().lead()
    bench.propose(b"x")
    del bench.trace[:]
    bench.replica.advance()
    assert [message.entries for _, message in of_type(m.Append, bench.trace)] == [[(1, X)], [(1, X)]]
    assert not bench.replica.may_wait  # its own disk is to have it
    bench.replica.commit()

    del bench.trace[:]
    bench.replica.receive("b", m.AppendReply(1, 1, bench.last + 1, True, False))
    bench.replica.advance()
    assert (bench.results, bench.trace, bench.replica.may_wait) == ([b"applied x"], [], True)
    bench.replica.commit()
    *appends, last = bench.trace
    assert [message.commit_index for _, message in of_type(m.Append, appends)] == [bench.last] * 2
    assert last == "commit"


def test_a_reader_does_not_wait_for_the_replies_to_others() -> None:
    bench = ReplicaBench().lead()
    bench.propose(b"x")
    bench.tick()
    bench.read()
    (probe, *_) = of_type(m.ReadProbe, bench.tick())
    confirmed = m.ReadConfirm(probe[1].round, 1)
    for message in (confirmed, m.AppendReply(1, 1, bench.last + 1, True, False)):
        bench.replica.receive("b", message)
    bench.replica.advance()
    assert bench.results == [b"applied x"]
    assert not bench.replica.may_wait


def test_a_commit_that_others_wait_for_is_not_held_back() -> None:
    def told(bench: ReplicaBench) -> bool:
        bench.replica.receive("b", m.AppendReply(1, 1, bench.last + 1, True, False))
        bench.replica.advance()
        assert bench.results == [b"applied x"]
        return bench.replica.may_wait

    def leader() -> ReplicaBench:
        bench = ReplicaBench().lead()
        bench.propose(b"x")
        bench.tick()
        return bench

    assert told(leader())
    reads = leader()
    reads.read()
    assert not told(reads)  # it asks the others whether it leads
    appends = leader()
    for _ in range(2):
        appends.propose(b"y")
    appends.replica.receive("c", m.AppendReply(1, 1, appends.last + 1, True, False))
    assert not told(appends)  # its own copy of an entry


def test_a_result_is_told_before_the_commit_of_what_it_did() -> None:
    """Worth a disk's latency, and safe: its entry is synced on a majority, this disk among them."""
    bench = Strict().lead()
    bench.propose(b"x")
    bench.tick()
    bench.replica.receive("b", m.AppendReply(1, 1, bench.last + 1, True, False))
    bench.replica.advance()
    assert bench.results == [b"applied x"]
    assert bench.durable()[2] == bench.last
    assert bench.state() == b""
    bench.disk.crash()
    again = ReplicaBench(disk=bench.disk)
    again.follow(term=2, commit_index=bench.last)
    assert again.state() == b"x"


def test_a_result_is_not_told_before_a_majority_has_synced_its_entry() -> None:
    bench = Strict().lead()
    bench.propose(b"x")
    bench.tick(after_s=0.05)
    assert bench.results == []


def test_a_forwarded_result_leaves_before_the_commit_of_what_it_did() -> None:
    bench = Strict().lead()
    bench.tick(("c", m.Propose(77, b"x")))
    assert not after_commit(bench, m.Proposed, ("b", m.AppendReply(1, 1, bench.last + 1, True, False)))


def test_a_reader_is_told_after_the_commit_of_what_it_sees(bench: Strict) -> None:
    bench.follow(NO_OP, X)
    seen: list[bytes] = []
    bench.replica.read(lambda: seen.append(bench.state()))
    ((_, request),) = bench.tick()
    assert isinstance(request, m.ReadRequest)
    bench.tick(("b", m.ReadIndex(request.call, 3)))
    assert seen == []
    bench.follow(commit_index=3)
    assert seen == [b"x"]


def test_a_leader_sends_appends_before_its_own_commit() -> None:
    """Worth a disk's latency, and safe: its own copy is counted in a later tick."""
    bench = Strict().lead()
    bench.propose(b"x")
    assert not after_commit(bench, m.Append)


def test_a_lone_member_counts_its_copy_after_the_commit_only() -> None:
    bench = Strict("a").lead()
    bench.propose(b"x")
    bench.replica.tick()
    assert (bench.durable()[2], bench.commit, bench.results) == (3, 2, [])
    bench.tick()
    assert bench.results == [b"applied x"]


def test_messages_to_one_peer_keep_their_numbers_in_order() -> None:
    bench = Strict().lead()
    bench.propose(b"x")
    bench.tick(after_s=0.2)
    numbers = [event[1].number for event in bench.trace if event[0] == "b" and isinstance(event[1], m.Append)]
    assert numbers == sorted(numbers)


def test_a_crash_before_the_commit_sends_no_promise() -> None:
    class Power(Exception):
        pass

    class Failing(Disk):
        armed = False

        def commit(self, *, synced: bool = True) -> None:
            if self.armed:
                raise Power
            super().commit(synced=synced)

    disk = Failing()
    bench = ReplicaBench(disk=disk)
    disk.armed = True
    del bench.trace[:]
    for message in (m.Append(1, 1, 1, 1, 0, [(1, NO_OP)]), m.ReadProbe(1, 1)):
        bench.replica.receive("b", message)
    bench.replica.receive("c", m.RequestVote(2, 9, 9, True))
    with pytest.raises(Power):
        bench.replica.tick()
    assert bench.trace == []


def test_a_tick_that_changes_nothing_writes_nothing(bench: Strict) -> None:
    bench.follow(NO_OP, X, commit_index=3)
    wrote: list[str] = []
    put = type(bench.disk.transaction()).put
    bench.disk.commit()

    def spy(*arguments: object) -> None:
        wrote.append("put")
        put(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(bench.disk.transaction()), "put", spy)
        bench.follow(commit_index=3)
        bench.answers(m.Heartbeat(9, 1, 3, 1))
        bench.answers(m.ReadProbe(1, 1))
        assert wrote == []


def test_whatever_apply_raises_leaves_the_tick(bench: Strict) -> None:
    bench.follow(NO_OP, pack([b"fine", b"!"]))
    with pytest.raises(ZeroDivisionError):
        bench.follow(commit_index=3)
    assert bench.state() == b""  # nothing of the tick is kept
    assert bench.durable() == (1, "", 3)


def test_an_entry_of_a_newer_release_ends_the_member(bench: Strict) -> None:
    with pytest.raises(ValueError, match="kind 7f"):
        bench.follow(NO_OP, b"\x7f...", commit_index=3)


def test_a_restart_goes_on_from_the_disk() -> None:
    first = ReplicaBench()
    first.follow(NO_OP, X, pack([b"y"]), term=3, commit_index=3)
    first.replica.receive("c", m.RequestVote(4, 9, 9, True))
    first.tick()
    first.disk.crash()
    again = ReplicaBench(disk=first.disk)
    assert (again.engine.term(), again.commit, again.replica.journal.applied, again.last) == (4, 3, 3, 4)
    assert again.answers(m.RequestVote(4, 9, 9, True), sender="b") == []  # the vote of term 4 is c's
    again.follow(term=4, commit_index=4, leader="c")
    assert again.state() == b"xy"
