"""A member that needs what the others' logs no longer have: how the leader treats it, how a state is given, fetched and
swapped in. The test plays the other side."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from msgspec import structs

from cluster import configuration as configurations
from cluster import messages as m
from cluster import snapshot
from cluster.api import MemberRemoved, OutcomeUnknown, ReleaseTooOld
from cluster.configuration import NOBODY, Configuration
from cluster.entries import NO_OP, pack, pack_configuration
from cluster.journal import APPLIED, LOG, META, OWN, TABLES
from cluster.kv.memory_env import MemoryEnvironment
from cluster.limits import FETCH_LOST_S, FETCH_RETRY_S, FETCH_SILENCE_S, SNAPSHOT_IDLE_S, Flow
from tests.unit.cluster.engine_bench import TIMING
from tests.unit.cluster.replica_bench import STATE, Disk, ReplicaBench, Sent, configured, of_type, sent_to

SHORT = Flow(log_entries=2, chunk_bytes=60)
STREAMED = tuple(table for table in (*TABLES, STATE) if table not in OWN)
X = pack([b"x"])


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


@dataclass
class State:
    """A state that some member has, applied up to (index, term)."""

    index: int = 10
    index_term: int = 1
    rows: bytes = b"fetched"
    configuration: Configuration = field(default_factory=configured)
    number: int = 77
    chunk_bytes: int = 40

    def __post_init__(self) -> None:
        self.environment = MemoryEnvironment([*TABLES, STATE])
        transaction = self.environment.transaction()
        transaction.put(STATE, b"rows", self.rows)
        transaction.put(STATE, b"more", b"of it")
        transaction.put(APPLIED, b"index", u64(self.index))
        transaction.put(APPLIED, b"digest", b"d" * 16)
        transaction.put(APPLIED, b"configuration", configurations.encode(self.configuration))
        self.environment.commit()

    def fetched(self, term: int = 1) -> m.Fetched:
        with self.environment.snapshot() as reader:
            header = snapshot.header_of(reader, STREAMED, b"")
        return m.Fetched(self.number, term, self.index, self.index_term, header)

    def rows_after(self, after: snapshot.Position | None) -> m.FetchedRows:
        with self.environment.snapshot() as reader:
            return m.FetchedRows(self.number, snapshot.read_chunk(reader, STREAMED, after, self.chunk_bytes))

    def give(self, bench: ReplicaBench, peer: str = "b", term: int = 1) -> list[Sent]:
        """All of it, as asked for chunk by chunk; what leaves at the end."""
        sent = bench.tick((peer, self.fetched(term)))
        while asked := of_type(m.FetchRows, sent):
            ((source, request),) = asked
            assert (source, request.snapshot) == (peer, self.number)
            sent = bench.tick((peer, self.rows_after(request.after)))
        return sent


def behind(bench: ReplicaBench, first_index: int = 8, term: int = 1, leader: str = "b") -> list[Sent]:
    """The leader's log starts at `first_index`."""
    return bench.tick((leader, m.Heartbeat(1, term, 12, first_index)))


def dump(environment: MemoryEnvironment, *tables: str) -> list[tuple[str, bytes, bytes]]:
    with environment.snapshot() as reader:
        return [(table, key, value) for table in tables or STREAMED for key, value in reader.scan(table)]


# ---- as the leader
def trimmed_leader() -> ReplicaBench:
    """Entries 2 to 12, b has all of them, the log starts at 10; c was away."""
    bench = ReplicaBench(flow=SHORT).lead()
    for number in range(10):
        bench.propose(b"%d" % number)
        bench.tick()
        bench.acknowledge("b")
    assert (bench.last, bench.replica.journal.first) == (12, 10)
    (probe, *_) = sent_to("c", bench.tick(after_s=0.2))
    assert isinstance(probe, m.Append)
    bench.tick(("c", m.AppendReply(probe.number, 1, 2, False, True)))
    return bench


def test_a_peer_behind_the_log_gets_one_heartbeat_a_period_that_names_the_first_index() -> None:
    bench = trimmed_leader()
    for _ in range(5):
        (beat,) = sent_to("c", bench.tick(after_s=0.11))
        assert isinstance(beat, m.Heartbeat)
        assert (beat.term, beat.commit_index, beat.first_index) == (1, 12, 10)
        bench.acknowledge("b")


def test_a_peer_that_fetches_keeps_the_leader_in_office() -> None:
    bench = trimmed_leader()
    bench.replica.disconnected("b")
    for _ in range(30):
        for beat in sent_to("c", bench.tick(after_s=0.11)):
            assert isinstance(beat, m.Heartbeat)
            bench.tick(("c", m.AppendReply(beat.number, 1, 1, False, False)))
    assert bench.engine.leads()
    assert bench.engine.match_index("c") == 0


def test_appends_go_on_behind_what_the_peer_has_fetched() -> None:
    bench = trimmed_leader()
    (beat,) = sent_to("c", bench.tick(after_s=0.11))
    assert isinstance(beat, m.Heartbeat)
    bench.tick(("c", m.AppendReply(beat.number, 1, 12, True, False)))  # it has a state at 11
    assert (bench.engine.match_index("c"), bench.engine.next_index("c")) == (11, 12)
    (append,) = sent_to("c", bench.tick(after_s=0.11))
    assert isinstance(append, m.Append)
    assert (append.previous_index, [entry for _, entry in append.entries]) == (11, [pack([b"9"])])
    bench.tick(("c", m.AppendReply(beat.number, 1, 2, False, True)))  # of before it had the state
    assert bench.engine.next_index("c") == 13


def test_a_state_older_than_the_log_is_not_enough() -> None:
    bench = trimmed_leader()
    (beat,) = sent_to("c", bench.tick(after_s=0.11))
    assert isinstance(beat, m.Heartbeat)
    bench.tick(("c", m.AppendReply(beat.number, 1, 7, True, False)))
    (again,) = sent_to("c", bench.tick(after_s=0.11))
    assert isinstance(again, m.Heartbeat)


def test_a_new_term_tries_appends_first() -> None:
    bench = trimmed_leader()
    assert isinstance(sent_to("c", bench.tick(after_s=0.11))[0], m.Heartbeat)
    bench.tick(("b", m.HigherTerm(5)))
    bench.campaign()
    sent = bench.tick(("b", m.Vote(6)))
    assert {type(message) for message in sent_to("c", sent)} == {m.Append}


# ---- who gives
def full_leader(**options: object) -> ReplicaBench:
    bench = ReplicaBench("abc", "d", flow=SHORT, **options).lead()  # type: ignore[arg-type]
    for number in range(5):
        bench.propose(b"%d" % number * 30)
        bench.tick()
        bench.acknowledge("b")
    return bench


@pytest.mark.parametrize("newer", [(), ("of a later release",)])
def test_a_state_is_given_chunk_by_chunk_without_what_is_the_members_own(newer: tuple[str, ...]) -> None:
    """Nor is a table named that only this release has, while nothing is in it."""
    bench = full_leader(disk=Disk(newer=newer))
    (fetched,) = bench.answers(m.Fetch(3), sender="d")
    assert isinstance(fetched, m.Fetched)
    assert (fetched.index, fetched.index_term, fetched.term) == (7, 1, 1)
    assert not set(fetched.header.rows) & set(OWN)
    expected = dump(bench.disk)
    target = MemoryEnvironment([*TABLES, STATE])
    loader, after, chunks = snapshot.Loader(target, fetched.header), None, 0
    while not loader.complete:
        (answer,) = of_type(m.FetchedRows, bench.tick(("d", m.FetchRows(fetched.snapshot, after)), after_s=0.01))
        assert answer[0] == "d"
        assert answer[1].chunk is not None
        loader.add(answer[1].chunk)
        after, chunks = answer[1].chunk.end, chunks + 1
        bench.propose(b"later")  # changes nothing of what is given
        bench.tick()
        bench.acknowledge("b")
    loader.finish()
    assert chunks > 2
    assert dump(target) == expected
    assert dump(target, *OWN) == []


def test_the_same_question_has_the_same_answer() -> None:
    bench = full_leader()
    (fetched,) = bench.answers(m.Fetch(3), sender="d")
    bench.propose(b"later")
    bench.tick()
    bench.acknowledge("b")
    assert bench.answers(m.Fetch(3), sender="d") == [fetched]
    ask = m.FetchRows(fetched.snapshot, None)  # type: ignore[union-attr]
    once, again = (of_type(m.FetchedRows, bench.tick(("d", ask), after_s=0.01)) for _ in range(2))
    assert once == again != []
    (newer,) = bench.answers(m.Fetch(8), sender="d")
    assert isinstance(newer, m.Fetched)
    assert newer.index == 8


def test_who_does_not_have_it_or_is_busy_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = full_leader()
    assert bench.answers(m.Fetch(8), sender="d") == []
    monkeypatch.setattr("cluster.catchup.SNAPSHOTS", 1)
    assert len(bench.answers(m.Fetch(7), sender="c")) == 1
    assert bench.answers(m.Fetch(7), sender="d") == []
    assert len(bench.answers(m.Fetch(7), sender="c")) == 1


@pytest.mark.parametrize("at_least", [0, 1])
def test_before_the_first_apply_there_is_nothing_to_give(at_least: int) -> None:
    assert ReplicaBench().answers(m.Fetch(at_least)) == []


def test_strangers_are_given_nothing() -> None:
    bench = full_leader()
    bench.replica.connected("x")
    for message in (m.Fetch(1), m.FetchRows(1, None), m.Tail(2)):
        assert bench.answers(message, sender="x") == []
    assert bench.last == 7


def test_strangers_are_told_that_their_calls_are_not_taken() -> None:
    """One of them may have been a member when it made them, by an admission that was undone, and become one again."""
    bench = full_leader()
    bench.replica.connected("x")
    assert bench.answers(m.Propose(1, b"x"), sender="x") == [m.Proposed(1, False, b"")]
    assert bench.answers(m.ReadRequest(2), sender="x") == [m.ReadIndex(2, 0)]
    assert bench.last == 7


def test_a_state_that_is_not_kept_or_a_place_outside_of_it_is_answered_with_nothing() -> None:
    bench = full_leader()
    (fetched,) = bench.answers(m.Fetch(3), sender="d")
    assert isinstance(fetched, m.Fetched)
    for number, after in ((fetched.snapshot + 1, None), (fetched.snapshot, snapshot.Position(99, b"k"))):
        sent = bench.tick(("d", m.FetchRows(number, after)))
        assert of_type(m.FetchedRows, sent) == [("d", m.FetchedRows(number, None))]


def test_what_nobody_goes_on_with_is_let_go_together_with_the_log_behind_it() -> None:
    bench = full_leader()
    (fetched,) = bench.answers(m.Fetch(3), sender="d")
    assert isinstance(fetched, m.Fetched)
    assert bench.replica.recovery.giver.oldest_index() == 7
    assert bench.replica.next_wakeup() <= bench.clock.now_s + SNAPSHOT_IDLE_S
    bench.pass_s(SNAPSHOT_IDLE_S + 1, "b", "c")
    assert bench.replica.recovery.giver.oldest_index() > 10**9
    assert of_type(m.FetchedRows, bench.tick(("d", m.FetchRows(fetched.snapshot, None)))) == [
        ("d", m.FetchedRows(fetched.snapshot, None))
    ]


def test_states_are_given_no_faster_than_the_rate() -> None:
    bench = full_leader(catch_up_bytes_s=1000.0)
    (fetched,) = bench.answers(m.Fetch(3), sender="d")
    assert isinstance(fetched, m.Fetched)
    ask, given, started_s = m.FetchRows(fetched.snapshot, None), 0, bench.clock.now_s
    size_bytes = 0
    for _ in range(10):
        given += size_bytes
        sent = of_type(m.FetchedRows, bench.tick(("d", ask)))
        while not sent:
            due_s = bench.replica.next_wakeup()
            assert due_s > bench.clock.now_s
            bench.clock.now_s = due_s + 1e-9
            sent = of_type(m.FetchedRows, bench.hear("b", "c"))
        ((_, rows),) = sent
        assert rows.chunk is not None
        size_bytes = sum(len(key) + len(value) for _, key, value in rows.chunk.rows)
    assert bench.clock.now_s - started_s == pytest.approx(given / 1000.0)


# ---- who fetches
def test_a_heartbeat_from_behind_the_commit_index_is_answered_and_starts_a_fetch() -> None:
    bench = ReplicaBench()
    sent = behind(bench)
    assert of_type(m.AppendReply, sent) == [("b", m.AppendReply(1, 1, 1, False, False))]
    ((peer, fetch),) = of_type(m.Fetch, sent)
    assert (peer in "bc", fetch) == (True, m.Fetch(8))
    assert bench.commit == 1
    assert bench.engine.leader() == "b"
    assert "nobody has begun" in bench.replica.recovery.fetcher.describe()


def test_another_leader_may_have_more_of_the_log_and_less_of_a_state() -> None:
    """It commits nothing before this member follows: it has no later state to give."""
    bench = ReplicaBench()
    assert [fetch for _, fetch in of_type(m.Fetch, behind(bench, first_index=8))] == [m.Fetch(8)]
    bench.clock.now_s += FETCH_RETRY_S
    sent = behind(bench, first_index=5, leader="c", term=2)
    assert [fetch for _, fetch in of_type(m.Fetch, sent)] == [m.Fetch(5)]


def test_a_heartbeat_at_the_commit_index_starts_none() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=3)
    assert of_type(m.Fetch, behind(bench, first_index=3)) == []


def test_a_state_is_asked_of_those_that_have_it() -> None:
    bench = ReplicaBench("abcd", seed=5)
    bench.tick(*[(peer, m.Report(7, 1, 0, b"")) for peer in "bd"], ("c", m.Report(8, 1, 0, b"")))
    for _ in range(10):
        assert [peer for peer, _ in of_type(m.Fetch, behind(bench))] == ["c"]
        bench.clock.now_s += FETCH_RETRY_S
    bench.replica.disconnected("c")
    assert of_type(m.Fetch, behind(bench)) == []


def test_those_who_said_nothing_are_asked_only_as_long_as_nobody_has_it() -> None:
    bench, asked = ReplicaBench("abcde", id="d", founding=NOBODY), set[str]()
    for peer in "abcxyz":  # d was admitted, and cannot tell members from others who wait
        bench.replica.connected(peer)
    bench.tick(("a", m.Report(7, 1, 0, b"")))
    for _ in range(20):
        asked |= {peer for peer, _ in of_type(m.Fetch, bench.tick(after_s=FETCH_RETRY_S))}
    assert asked == {"a"}
    bench.replica.disconnected("a")
    for _ in range(60):
        asked |= {peer for peer, _ in of_type(m.Fetch, bench.tick(after_s=FETCH_RETRY_S))}
    assert asked == set("abcxyz")


def test_followers_are_spared_no_more_than_the_leader() -> None:
    bench, asked = ReplicaBench(), list[str]()
    for _ in range(60):
        asked += [peer for peer, _ in of_type(m.Fetch, behind(bench))]
        bench.clock.now_s += FETCH_RETRY_S
    assert 8 < asked.count("b") < asked.count("c")


def test_a_fetched_state_becomes_the_own_in_one_step() -> None:
    bench = ReplicaBench(level=2)
    bench.follow(NO_OP, X)
    behind(bench)
    state = State(configuration=configured("abc", "d", level=2))
    del bench.trace[:]
    state.give(bench)
    journal = bench.replica.journal
    assert (bench.state(), bench.machine.installs) == (b"fetched", 1)
    assert (journal.first, journal.last, journal.applied, bench.commit) == (10, 10, 10, 10)
    assert (journal.term_at(10), journal.digest) == (1, b"d" * 16)
    assert bench.configuration == journal.applied_configuration == configured("abc", "d", level=2)
    assert bench.replica.recovery.fetcher.describe() == ""
    assert dump(bench.disk) == dump(state.environment)


def test_after_the_swap_a_heartbeat_is_answered_with_success_and_appends_go_on() -> None:
    bench = ReplicaBench()
    behind(bench)
    State().give(bench)
    assert bench.answers(m.Heartbeat(2, 1, 12, 8)) == [m.AppendReply(2, 1, 11, True, False)]
    entries = [(1, X), (1, pack([b"y"]))]
    assert bench.answers(m.Append(3, 1, 12, 10, 1, entries)) == [m.AppendReply(3, 1, 13, True, False)]
    assert (bench.state(), bench.commit) == (b"fetchedxy", 12)


def test_a_restart_after_the_swap_goes_on_from_it() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, term=3)
    bench.tick(("c", m.RequestVote(4, 9, 9, True)))
    behind(bench, term=4)
    State(index_term=3).give(bench, term=4)
    bench.disk.crash()
    again = ReplicaBench(disk=bench.disk)
    journal = again.replica.journal
    assert (again.engine.term(), journal.getVotedForNodeId(), again.state()) == (4, "c", b"fetched")
    assert (journal.first, journal.last, journal.applied, again.commit) == (10, 10, 10, 10)
    again.answers(m.Append(3, 4, 11, 10, 3, [(4, X)]))
    assert (again.state(), again.machine.installs) == (b"fetchedx", 0)


def test_a_crash_while_a_state_is_fetched_changes_nothing() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, commit_index=3)
    behind(bench)
    bench.background_waits = True
    State().give(bench)
    bench.disk.crash()
    again = ReplicaBench(disk=bench.disk)
    assert (again.state(), again.last, again.commit) == (b"x", 3, 3)


def test_the_senders_term_is_adopted_with_its_state() -> None:
    """Else a deposed leader would take the success at the new commit index for its own entries."""
    bench = ReplicaBench()
    behind(bench, term=1)
    State(index_term=3).give(bench, "c", term=3)
    assert bench.durable()[:2] == (3, "")
    assert bench.answers(m.Heartbeat(2, 1, 12, 8)) == [m.HigherTerm(3)]
    assert bench.answers(m.Append(3, 1, 12, 10, 1, [(1, X)])) == [m.HigherTerm(3)]


def test_a_lower_term_of_the_sender_takes_none_away() -> None:
    bench = ReplicaBench()
    behind(bench, term=6)
    State().give(bench, "c", term=2)
    assert (bench.engine.term(), bench.commit) == (6, 10)


def test_a_log_that_holds_the_states_last_entry_is_kept() -> None:
    """What follows may have been acknowledged."""
    bench = ReplicaBench()
    bench.follow(NO_OP, X, X, X)  # 2 to 5, acknowledged, not known to be committed
    behind(bench, first_index=4)
    State(index=4).give(bench)
    assert (bench.replica.journal.first, bench.last, bench.commit) == (1, 5, 4)
    assert (bench.state(), bench.machine.installs) == (b"xx", 0)
    assert bench.replica.recovery.fetcher.wanted == 0


def test_a_log_that_differs_at_the_states_last_entry_is_replaced() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, X, X)
    behind(bench, first_index=4, term=2)
    State(index=4, index_term=2).give(bench, term=2)
    assert (bench.replica.journal.first, bench.last, bench.state()) == (4, 4, b"fetched")


def test_a_state_at_the_commit_index_or_below_is_dropped() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X)
    behind(bench, first_index=3)
    bench.background_waits = True
    State(index=3, rows=b"other").give(bench)
    bench.follow(commit_index=3)  # meanwhile the log has caught up
    bench.finish()
    assert (bench.state(), bench.machine.installs, bench.last) == (b"x", 0, 3)


def test_a_state_from_before_the_start_of_the_log_is_dropped() -> None:
    """It would take back what this member has applied since."""
    bench = ReplicaBench(flow=Flow(log_entries=1))
    behind(bench, first_index=3)
    bench.background_waits = True
    State(index=3, rows=b"other").give(bench)
    behind(bench, first_index=20)  # a newer one is needed by now: the fetch is not over
    bench.follow(NO_OP, X, X, X, commit_index=5)
    assert bench.replica.journal.first == 4
    bench.finish()
    assert (bench.state(), bench.machine.installs, bench.commit) == (b"xxx", 0, 5)


def test_digests_of_before_the_swap_are_compared_no_more() -> None:
    bench = ReplicaBench(flow=Flow(digest_every=2))
    bench.follow(NO_OP, commit_index=2)
    behind(bench)
    State().give(bench)
    bench.tick(*[(peer, m.Report(10, 1, 2, b"other")) for peer in "bc"])
    assert bench.state() == b"fetched"


def test_what_was_proposed_into_the_replaced_log_is_unknown() -> None:
    bench = ReplicaBench().lead()
    bench.propose(b"mine")
    bench.tick()
    behind(bench, term=2)
    assert bench.results == []
    State().give(bench, term=2)
    assert [type(result) for result in bench.results] == [OutcomeUnknown]


def test_readers_wait_for_the_swap_and_see_it() -> None:
    bench, seen = ReplicaBench(), list[bytes]()
    behind(bench)
    bench.replica.read(lambda: seen.append(bench.state()))
    ((_, request),) = of_type(m.ReadRequest, bench.tick())
    bench.tick(("b", m.ReadIndex(request.call, 10)))
    State().give(bench)
    assert seen == [b"fetched"]


def test_a_member_without_a_configuration_fetches_one_and_follows() -> None:
    bench = ReplicaBench(id="d/1", founding=NOBODY)
    assert (bench.configuration, bench.replica.recovery.fetcher.wanted) == (NOBODY, 1)
    bench.replica.connected("b")
    ((peer, fetch),) = of_type(m.Fetch, bench.tick(after_s=FETCH_RETRY_S))
    assert (peer, fetch) == ("b", m.Fetch(1))
    joined = structs.replace(configured(), members=(*configured().members, bench.replica.record))
    joined = structs.replace(joined, members=(*joined.members[:3], structs.replace(joined.members[3], role="observer")))
    sent = State(configuration=joined).give(bench)
    assert of_type(m.Tail, sent) == [("b", m.Tail(11))]
    assert bench.roles()["d/1"] == "observer"


def test_whoever_waits_for_admission_does_not_spin() -> None:
    bench = ReplicaBench(id="d/1", founding=NOBODY)
    for _ in range(5):
        assert bench.replica.next_wakeup() > bench.clock.now_s
        bench.tick(after_s=0.05)


# ---- what goes wrong on the way
def begun(bench: ReplicaBench, state: State, peer: str = "b") -> m.FetchRows:
    behind(bench)
    ((source, request),) = of_type(m.FetchRows, bench.tick((peer, state.fetched())))
    assert source == peer
    return request


def test_a_lost_answer_is_asked_for_again_and_not_faster() -> None:
    bench, state = ReplicaBench(), State()
    request = begun(bench, state)
    assert of_type(m.FetchRows, bench.tick(after_s=FETCH_RETRY_S / 2)) == []
    assert of_type(m.FetchRows, bench.tick(after_s=FETCH_RETRY_S / 2)) == [("b", request)]
    assert bench.replica.next_wakeup() <= bench.clock.now_s + FETCH_RETRY_S


def test_an_answer_that_comes_twice_is_taken_once() -> None:
    bench, state = ReplicaBench(), State()
    first = state.rows_after(begun(bench, state).after)
    ((_, second),) = of_type(m.FetchRows, bench.tick(("b", first), ("b", first)))
    sent = bench.tick(("b", first), ("b", state.rows_after(second.after)), ("b", first))
    while asked := of_type(m.FetchRows, sent):
        sent = bench.tick(("b", state.rows_after(asked[0][1].after)))
    assert bench.state() == b"fetched"


def test_what_another_sends_or_another_state_has_is_not_taken() -> None:
    bench, state = ReplicaBench(), State()
    answer = state.rows_after(begun(bench, state).after)
    assert bench.tick(("c", answer), ("b", structs.replace(answer, snapshot=78))) == []
    assert bench.tick(("c", State(number=5).fetched())) == []  # one at a time
    assert len(of_type(m.FetchRows, bench.tick(("b", answer)))) == 1


GARBLED = {
    "a flipped bit": lambda chunk: structs.replace(chunk, rows=[(0, b"kez", b"value"), *chunk.rows[1:]]),
    "a wrong sum": lambda chunk: structs.replace(chunk, checksum=bytes(16)),
    "no sum": lambda chunk: structs.replace(chunk, checksum=b""),
    "cut off": lambda chunk: structs.replace(chunk, rows=chunk.rows[:-1]),
    "the last one at once": lambda chunk: structs.replace(chunk, last=True),
}


@pytest.mark.parametrize("garble", GARBLED.values(), ids=GARBLED.keys())
def test_a_garbled_chunk_ends_the_fetch_and_another_begins(garble, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    bench, state = ReplicaBench(), State()
    answer = state.rows_after(begun(bench, state).after)
    assert bench.tick(("b", structs.replace(answer, chunk=garble(answer.chunk)))) == []
    assert "a fetched state was given up" in caplog.text
    ((_, fetch),) = of_type(m.Fetch, bench.tick(after_s=FETCH_RETRY_S))
    assert fetch == m.Fetch(8)
    state.give(bench, "c")
    assert bench.state() == b"fetched"


def test_a_state_with_fewer_rows_than_announced_is_not_taken() -> None:
    bench, state = ReplicaBench(), State(chunk_bytes=10_000)
    behind(bench)
    fetched = state.fetched()
    bench.tick(("b", structs.replace(fetched, header=structs.replace(fetched.header, rows={STATE: 3, APPLIED: 3}))))
    bench.tick(("b", state.rows_after(None)))
    assert (bench.state(), bench.machine.installs) == (b"", 0)


def test_a_state_of_unknown_tables_or_format_is_not_begun(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReplicaBench()
    behind(bench)
    for header in (snapshot.Header(1, {"newer": 1}, b""), snapshot.Header(2, {}, b"")):
        assert bench.tick(("b", structs.replace(State().fetched(), header=header))) == []
    assert caplog.text.count("a fetched state was given up") == 2


def test_a_state_that_is_not_applied_up_to_where_it_says_is_not_installed() -> None:
    bench, state = ReplicaBench(), State(index=9)
    behind(bench)
    bench.tick(("b", structs.replace(state.fetched(), index=12)))
    sent = bench.tick(("b", state.rows_after(None)))
    while asked := of_type(m.FetchRows, sent):
        sent = bench.tick(("b", state.rows_after(asked[0][1].after)))
    assert (bench.state(), bench.machine.installs, bench.commit) == (b"", 0, 1)


def test_a_state_nobody_asked_for_or_an_older_one_than_needed_is_not_begun() -> None:
    bench = ReplicaBench()
    assert bench.tick(("b", State().fetched())) == []
    behind(bench)
    assert bench.tick(("b", State(index=7).fetched())) == []


@pytest.mark.parametrize(("lost", "after_s"), [(True, FETCH_LOST_S), (False, FETCH_SILENCE_S)])
def test_a_silent_source_is_left_for_another(lost: bool, after_s: float) -> None:
    """Sooner if its connection is lost: it may have been removed."""
    bench, state = ReplicaBench(), State()
    begun(bench, state)
    if lost:
        bench.replica.disconnected("b")
    sent: list[Sent] = []
    while not sent and bench.clock.now_s < 1000.0 + 2 * FETCH_SILENCE_S:
        sent = [event for event in bench.tick(after_s=0.1) if isinstance(event[1], m.Fetch)]
    assert bench.clock.now_s - 1000.0 == pytest.approx(after_s, abs=0.5)
    ((source, asked),) = sent
    assert asked == m.Fetch(8)
    assert source == "c" or not lost
    state.give(bench, source)
    assert bench.state() == b"fetched"


def test_a_source_that_let_go_of_its_snapshot_is_left_at_once() -> None:
    bench, state = ReplicaBench(), State()
    begun(bench, state)
    bench.tick(("b", m.FetchedRows(state.number, None)))
    assert len(of_type(m.Fetch, bench.tick(after_s=FETCH_RETRY_S))) == 1


def test_a_state_that_is_not_needed_any_more_is_dropped_on_its_way() -> None:
    bench, state = ReplicaBench(), State()
    request = begun(bench, state)
    bench.tick(("b", m.Append(2, 1, 8, 1, 0, [(1, NO_OP)] * 7)))
    assert (bench.commit, bench.replica.recovery.fetcher.wanted) == (8, 0)
    assert bench.tick(("b", state.rows_after(request.after))) == []


def test_no_other_state_comes_in_while_one_is_synced() -> None:
    """The environment it is in is used beside the loop, and an incoming environment replaces the one before it."""
    bench, state = ReplicaBench(), State()
    bench.background_waits = True
    behind(bench)
    state.give(bench)
    assert len(bench.background) == 1
    incoming = bench.disk._incoming
    bench.tick(("b", m.Append(2, 1, 8, 1, 0, [(1, NO_OP)] * 7)))  # not needed any more, and then again
    behind(bench, first_index=20)
    bench.tick(("c", State(index=30, number=5).fetched()), after_s=FETCH_RETRY_S)
    assert bench.disk._incoming is incoming
    bench.background_waits = False
    bench.finish()
    State(index=30, number=5, rows=b"newer").give(bench, "c")
    assert bench.state() == b"newer"


def test_a_state_larger_than_what_may_stay_unsynced_is_synced_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.catchup.FETCH_SYNC_BYTES", 1)
    bench, state, works = ReplicaBench(), State(), 0
    behind(bench)
    bench.background_waits = True
    sent = bench.tick(("b", state.fetched()))
    while bench.state() == b"":
        if bench.background:
            assert of_type(m.FetchRows, bench.tick(after_s=FETCH_RETRY_S)) == []  # nothing is asked for meanwhile
            works += 1
            place = len(bench.trace)
            bench.finish()
            sent = [event for event in bench.trace[place:] if not isinstance(event, str)]
        else:
            sent = bench.tick(("b", state.rows_after(of_type(m.FetchRows, sent)[0][1].after)))
    assert works > 2


def test_entries_behind_a_fetched_state_may_hold_the_next_configuration() -> None:
    bench = ReplicaBench()
    behind(bench)
    State().give(bench)
    wider = configured("abc", "d")
    bench.answers(m.Append(3, 1, 10, 10, 1, [(1, pack_configuration(wider))]))
    assert (bench.configuration, bench.replica.journal.applied_configuration) == (wider, configured())
    bench.answers(m.Append(4, 2, 10, 10, 1, [(2, NO_OP)]), sender="c")
    assert bench.configuration == configured()


def test_a_state_is_replaced_by_the_state_of_after_ones_own_removal() -> None:
    bench = ReplicaBench()
    behind(bench)
    with pytest.raises(MemberRemoved, match="a was removed"):
        State(configuration=structs.replace(configured("bc"), removed=("of a",))).give(bench)
    with pytest.raises(MemberRemoved):
        ReplicaBench(disk=bench.disk)


def test_a_state_of_a_level_that_this_release_cannot_apply_ends_the_member() -> None:
    bench = ReplicaBench()
    behind(bench)
    with pytest.raises(ReleaseTooOld, match="feature level 2 is in force"):
        State(configuration=configured(level=2)).give(bench)


def test_the_log_on_the_disk_is_that_of_the_new_state() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, X, pack_configuration(configured("abcd")))
    behind(bench)
    State().give(bench)
    assert dump(bench.disk, LOG) == [(LOG, u64(10), u64(1) + NO_OP)]
    assert dump(bench.disk, *OWN) == [*dump(bench.disk, LOG), (META, b"term", u64(1))]
    assert bench.replica.voters == frozenset("abc")


def test_time_does_not_stand_still_for_a_member_that_fetches() -> None:
    """Whatever is due is due later than now, else the member's loop would turn without end."""
    bench, state = ReplicaBench(), State()
    begun(bench, state)
    for _ in range(20):
        bench.clock.now_s += TIMING.heartbeat_s
        behind(bench)
        assert bench.replica.next_wakeup() > bench.clock.now_s
