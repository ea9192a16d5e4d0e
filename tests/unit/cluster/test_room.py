"""A disk that fills: the member says so, then takes no more entries, lives, and goes on by itself."""

from __future__ import annotations

from msgspec import Struct, msgpack

from cluster import messages as m
from cluster.api import NotAttempted
from cluster.entries import NO_OP, pack
from cluster.kv.memory_env import CAPACITY_BYTES
from cluster.limits import LOCAL, PROMOTE_LAG, RESERVE_BYTES, ROOM_LOOK_S
from cluster.room import Room
from tests.unit.cluster.engine_bench import Clock
from tests.unit.cluster.replica_bench import Disk, ReplicaBench, of_type
from tests.unit.cluster.test_catchup import State, behind

X = pack([b"x"])
FULL, LITTLE = 0, RESERVE_BYTES // 2


class Watched(Disk):
    """Counts how often it is looked at, and what is set aside."""

    def __init__(self) -> None:
        super().__init__()
        self.looks, self.asides = 0, list[int]()

    def headroom_bytes(self) -> int:
        self.looks += 1
        return super().headroom_bytes()

    def set_aside(self, size_bytes: int) -> None:
        self.asides.append(size_bytes)


def left(bench: ReplicaBench, capacity_bytes: int, *living: str) -> ReplicaBench:
    """So much is left on its disk, as it has noticed."""
    bench.disk.capacity_bytes = capacity_bytes
    bench.pass_s(ROOM_LOOK_S + 0.1, *living)
    return bench


# ---- looking
def test_it_is_looked_at_now_and_then_and_the_reserve_set_aside() -> None:
    disk, clock = Watched(), Clock()
    room = Room(disk, RESERVE_BYTES, clock)
    assert disk.asides == [RESERVE_BYTES]
    for _ in range(100):
        clock.now_s += ROOM_LOOK_S / 20
        room.look()
    assert 4 <= disk.looks - 1 <= 5
    assert disk.asides == disk.looks * [RESERVE_BYTES]


def test_below_the_reserve_there_is_no_room_and_below_a_quarter_of_it_no_entry_is_taken() -> None:
    disk, clock = Disk(), Clock()
    room = Room(disk, 1000, clock)
    for capacity_bytes, expected in ((1000, (True, True)), (999, (False, True)), (249, (False, False))):
        disk.capacity_bytes = capacity_bytes
        clock.now_s += ROOM_LOOK_S
        room.look()
        assert (room.has_room, room.takes_entries(), room.headroom_bytes) == (*expected, capacity_bytes)


# ---- what the others hear of it
def test_a_member_tells_at_once_that_it_has_no_room_and_that_it_has_again() -> None:
    bench = ReplicaBench()
    for capacity_bytes, has_room in ((LITTLE, False), (CAPACITY_BYTES, True)):
        bench.disk.capacity_bytes = capacity_bytes
        bench.tick(after_s=0.9 * ROOM_LOOK_S)  # reports, and looks at nothing
        bench.reported.clear()
        bench.tick(after_s=0.2 * ROOM_LOOK_S)
        assert {peer: report.has_room for peer, report in bench.reported.items()} == dict.fromkeys("bc", has_room)


def test_there_is_room_while_the_leader_and_a_majority_have_some() -> None:
    bench = ReplicaBench().lead()
    full, free = m.Report(2, 1, 0, b"", 0, False), m.Report(2, 1, 0, b"")
    for b, c, has_room in ((free, free, True), (full, free, True), (full, full, False), (free, full, True)):
        bench.tick(("b", b), ("c", c))
        assert bench.replica.has_room() == has_room
    left(bench, LITTLE, "b", "c")
    assert not bench.replica.has_room()


def test_a_follower_hears_that_its_leader_has_none_and_its_own_lack_alone_stops_nobody() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, commit_index=2)
    assert bench.replica.has_room()
    bench.tick(("b", m.Report(2, 1, 0, b"", 0, False)))
    assert not bench.replica.has_room()
    bench.tick(("b", m.Report(2, 1, 0, b"")))
    bench.tick(("c", m.Report(2, 1, 0, b"")))
    left(bench, LITTLE)
    bench.follow(commit_index=2)
    assert bench.replica.has_room()


def test_a_voter_that_is_away_has_no_room_for_anything() -> None:
    """The other one would have to take every write, until it takes no deletion any more."""
    bench = ReplicaBench().lead()
    full, free = m.Report(2, 1, 0, b"", 0, False), m.Report(2, 1, 0, b"")
    bench.tick(("b", full), ("c", free))
    bench.replica.disconnected("c")
    assert not bench.replica.has_room()
    bench.replica.connected("c")
    assert bench.replica.has_room()


def test_where_no_majority_lives_room_is_not_what_is_missing() -> None:
    bench = ReplicaBench().lead()
    bench.tick(("b", m.Report(2, 1, 0, b"", 0, False)))
    bench.replica.disconnected("b")
    assert bench.replica.has_room()


def test_a_report_of_a_release_that_does_not_know_of_room_says_that_there_is_some() -> None:
    assert m.decode_message(msgpack.encode(["report", 1, 1, 0, b"", 7])) == m.Report(1, 1, 0, b"", 7, True)


# ---- as a follower
def test_a_follower_without_room_takes_no_entries_and_answers_that_it_lives() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=3)
    left(bench, FULL)
    lives = m.AppendReply(9, 1, 1, False, False)
    assert bench.answers(m.Append(9, 1, 4, 3, 1, [(1, X)])) == [lives]
    assert bench.answers(m.Append(9, 1, 4, 4, 1, [(1, X)])) == [lives]
    assert bench.answers(m.Append(9, 1, 4, 4, 1, [])) == [lives]  # a rejection would bring all of it again
    assert (bench.last, bench.commit, bench.engine.leader()) == (3, 3, "b")


def test_a_follower_without_room_takes_the_start_of_a_term() -> None:
    """Else nothing would be read under a leader that was elected now."""
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=3)
    left(bench, FULL)
    assert bench.answers(m.Append(9, 2, 3, 3, 1, [(2, NO_OP)])) == [m.AppendReply(9, 2, 5, True, False)]
    bench.answers(m.Append(10, 2, 4, 4, 2, []))
    assert (bench.last, bench.commit, bench.replica.journal.applied) == (4, 4, 4)
    assert bench.answers(m.Append(11, 2, 4, 4, 2, [(2, NO_OP), (2, X)])) == [m.AppendReply(11, 2, 1, False, False)]


def test_it_goes_on_by_itself_when_there_is_room_again() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=3)
    left(bench, FULL)
    bench.answers(m.Append(9, 1, 4, 3, 1, [(1, X)]))
    left(bench, CAPACITY_BYTES)
    assert bench.answers(m.Append(10, 1, 4, 4, 1, [])) == [m.AppendReply(10, 1, 4, False, True)]
    assert bench.answers(m.Append(11, 1, 4, 3, 1, [(1, X)])) == [m.AppendReply(11, 1, 5, True, False)]
    assert bench.state() == b"xx"


def test_with_little_room_entries_are_taken_still() -> None:
    """The product refuses what takes room; what it lets pass gives some back."""
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=3)
    left(bench, LITTLE)
    assert bench.answers(m.Append(9, 1, 4, 3, 1, [(1, X)])) == [m.AppendReply(9, 1, 5, True, False)]


def test_a_follower_without_room_applies_what_it_has_and_votes() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, X, commit_index=3)
    left(bench, FULL)
    bench.answers(m.Append(9, 1, 4, 4, 1, []))
    assert bench.state() == b"xx"
    bench.clock.now_s += 2.0
    assert m.Vote(7) in bench.answers(m.RequestVote(7, 9, 99, True), sender="c")


def test_an_observer_without_room_asks_for_nothing() -> None:
    bench = ReplicaBench("abc", "d", id="d")
    bench.tick(after_s=0.1)
    (source,) = {bench.replica.recovery.source.id}
    assert source
    bench.tick((source, m.Tailed(1, "b", 0, 2, 1, 1, 0, [(1, NO_OP)])))
    left(bench, FULL)
    assert bench.tick((source, m.Tailed(1, "b", 0, 3, 1, 2, 1, [(1, X)]))) == []
    for _ in range(10):
        assert of_type(m.Tail, bench.tick(after_s=0.3)) == []
        assert bench.replica.next_wakeup() > bench.clock.now_s
    assert bench.last == 2
    assert of_type(m.Tail, [event for _ in range(20) for event in _again(bench)]) != []


def _again(bench: ReplicaBench) -> list[tuple[str, m.Message]]:
    bench.disk.capacity_bytes = CAPACITY_BYTES
    return bench.tick(after_s=0.1)


def test_no_state_is_fetched_where_there_is_no_room_for_it() -> None:
    bench, state = ReplicaBench(), State()
    behind(bench)
    bench.tick(("b", state.fetched()))
    assert bench.replica.recovery.fetcher.coming == 10
    left(bench, FULL)
    assert bench.replica.recovery.fetcher.coming == 0
    assert of_type(m.Fetch, bench.pass_s(3.0)) == []
    assert bench.replica.next_wakeup() > bench.clock.now_s
    left(bench, CAPACITY_BYTES)
    state.give(bench)
    assert bench.state() == b"fetched"


# ---- as the leader
def full_leader(*without_room: str) -> ReplicaBench:
    """Leader a of a, b and c, which have the whole log."""
    bench = ReplicaBench().lead()
    bench.acknowledge("c")
    for peer in "bc":
        bench.tick((peer, m.Report(2, 1, 0, b"", 0, peer not in without_room)))
    bench.disk.capacity_bytes = FULL
    bench.clock.now_s += ROOM_LOOK_S + 0.05
    return bench


def test_a_leader_without_room_hands_over_to_a_voter_with_room() -> None:
    bench = full_leader("b")
    bench.tick()
    assert bench.replica.next_wakeup() <= bench.clock.now_s
    assert [peer for peer, _ in of_type(m.TimeoutNow, bench.tick())] == ["c"]


def test_a_leader_without_room_appends_nothing_where_nobody_has_any() -> None:
    bench = full_leader("b", "c")
    bench.propose(b"x")
    assert of_type(m.TimeoutNow, bench.tick()) == []
    assert bench.answers(m.Propose(7, b"y")) == [m.Proposed(7, False, b"")]
    assert (bench.last, bench.results, bench.engine.leads()) == (2, [], True)
    assert bench.replica.next_wakeup() > bench.clock.now_s
    assert bench.replica.withdraw(bench.proposal)


def test_a_leader_that_has_room_again_appends_what_has_waited() -> None:
    bench = full_leader("b", "c")
    bench.propose(b"x")
    bench.tick()
    bench.disk.capacity_bytes = CAPACITY_BYTES
    for _ in range(11):
        bench.tick(*[(peer, m.AppendReply(0, 1, 2, False, False)) for peer in "bc"], after_s=0.1)
    bench.acknowledge("b")
    assert bench.results == [b"applied x"]


def test_what_waits_for_a_successor_that_does_not_come_is_not_lost() -> None:
    bench = full_leader("b")
    bench.propose(b"x")
    bench.tick()
    bench.pass_s(3 * LOCAL.election_max_s, "b", "c")
    bench.disk.capacity_bytes = CAPACITY_BYTES
    bench.pass_s(ROOM_LOOK_S + 3 * LOCAL.election_max_s, "b", "c")
    bench.acknowledge("b")
    assert bench.results == [b"applied x"]
    assert not any(isinstance(result, NotAttempted) for result in bench.results)


def lives(bench: ReplicaBench, peer: str, *, has_room: bool) -> list[tuple[str, m.Message]]:
    """Alive, and it acknowledges nothing."""
    answer = m.AppendReply(0, bench.engine.term(), 1, False, False)
    return bench.tick((peer, m.Report(2, 1, 0, b"", 0, has_room)), (peer, answer))


def test_who_has_room_and_is_far_behind_keeps_nobody_from_deleting() -> None:
    bench = ReplicaBench("abcd").lead()
    bench.acknowledge("d")
    for _ in range(PROMOTE_LAG):
        bench.propose(b"x")
        bench.tick()
    lives(bench, "c", has_room=False)
    lives(bench, "d", has_room=False)
    bench.disk.capacity_bytes = LITTLE
    for _ in range(20):
        bench.clock.now_s += LOCAL.heartbeat_s
        assert of_type(m.TimeoutNow, lives(bench, "b", has_room=True)) == []  # it has the no-op only
        for peer in "cd":
            lives(bench, peer, has_room=False)
        assert m.Proposed(7, False, b"") not in bench.answers(m.Propose(7, b"delete"))


def test_a_leader_without_room_takes_deletions_between_two_attempts_to_hand_over() -> None:
    bench = full_leader("c")
    bench.disk.capacity_bytes = LITTLE
    refused, asked = [], 0
    for _ in range(round(4 * LOCAL.election_max_s / LOCAL.heartbeat_s)):
        asked += len(of_type(m.TimeoutNow, lives(bench, "b", has_room=True)))
        lives(bench, "c", has_room=False)
        answers = bench.answers(m.Propose(7, b"delete"), sender="c")
        refused.append(m.Proposed(7, False, b"") in answers)
        bench.acknowledge("c")
        bench.acknowledge("b")
        bench.clock.now_s += LOCAL.heartbeat_s
    assert asked > 1
    assert {False, True} == set(refused)


class OlderReport(Struct, frozen=True, array_like=True, tag="report"):
    applied_index: int
    level: int
    digest_index: int
    digest: bytes
    fetching: int = 0


def test_a_release_that_does_not_know_of_room_reads_the_rest_of_a_report() -> None:
    report = m.frame(m.Report(5, 1, 4, b"digest", 7, False))[4:]
    assert msgpack.decode(report, type=OlderReport) == OlderReport(5, 1, 4, b"digest", 7)
