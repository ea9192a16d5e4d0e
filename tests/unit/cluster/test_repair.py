"""A row that cannot be read: the member ends; its next life gets a state from another member, and forgets nothing that
it promised. The test plays the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster import messages as m
from cluster.api import DataDamaged
from cluster.configuration import NOBODY
from cluster.entries import NO_OP, pack, pack_configuration
from cluster.journal import APPLIED, CONFIGURATIONS, LOG, META, Journal
from cluster.kv.api import Damaged
from cluster.limits import FETCH_RETRY_S, Flow
from cluster.refound import RefoundError, refound
from tests.unit.cluster.replica_bench import STATE, Disk, ReplicaBench, configured, of_type, record
from tests.unit.cluster.test_catchup import State, dump, u64

X, Y = pack([b"x"]), pack([b"y"])


def marked(disk: Disk) -> str:
    with disk.snapshot() as snapshot:
        return (snapshot.get(META, b"damaged") or b"").decode()


def with_log(last: int = 6, commit: int = 4, **options: object) -> ReplicaBench:
    """Member a, a follower in term 1 that has applied up to `commit` and acknowledged up to `last`."""
    bench = ReplicaBench(**options)  # type: ignore[arg-type]
    bench.follow(NO_OP, *[X] * (last - 2), commit_index=commit)
    return bench


def damaged(last: int = 6, commit: int = 4) -> ReplicaBench:
    """Its next life, after damage was met in apply."""
    bench = with_log(last, commit)
    bench.disk.damage(STATE, b"rows")
    with pytest.raises(DataDamaged, match="Started again, this member fetches its state"):
        bench.follow(commit_index=commit + 1)
    return ReplicaBench(disk=bench.disk)


# ---- the life that finds it
def test_damage_that_apply_meets_ends_the_member_and_is_noted() -> None:
    bench = with_log()
    bench.disk.damage(STATE, b"rows")
    with pytest.raises(DataDamaged, match=r"table state, key b'rows'"):
        bench.follow(commit_index=5)
    assert "table state, key b'rows'" in marked(bench.disk)


def test_nothing_else_of_the_tick_that_met_damage_is_kept() -> None:
    """Half of what it applied would be."""
    bench = with_log()
    before = dump(bench.disk, LOG, APPLIED)
    bench.disk.damage(STATE, b"rows")
    with pytest.raises(DataDamaged):
        bench.follow(Y, pack_configuration(configured("abcd")), commit_index=8)
    assert dump(bench.disk, LOG, APPLIED) == before
    assert bench.durable() == (1, "", 6)


def test_damage_that_a_reader_meets_after_the_commit_ends_the_member_too() -> None:
    bench, seen = with_log(), list[bytes]()
    bench.disk.damage(STATE, b"rows")
    bench.replica.read(lambda: seen.append(bench.state()))
    ((_, request),) = of_type(m.ReadRequest, bench.tick())
    with pytest.raises(DataDamaged):
        bench.tick(("b", m.ReadIndex(request.call, 4)))
    assert marked(bench.disk)


def test_damage_that_is_met_while_a_state_is_given_ends_the_member() -> None:
    bench = with_log()
    (fetched,) = bench.answers(m.Fetch(3), sender="c")
    assert isinstance(fetched, m.Fetched)
    bench.disk.damage(STATE, b"rows")
    with pytest.raises(DataDamaged):
        bench.tick(("c", m.FetchRows(fetched.snapshot, None)))
    assert marked(bench.disk)


def test_what_was_found_elsewhere_is_noted_between_two_ticks() -> None:
    bench = with_log()
    assert bench.replica.damage.mark("a scrub found it")
    assert ReplicaBench(disk=bench.disk).replica.journal.damaged == "a scrub found it"


def test_the_only_voter_is_not_marked() -> None:
    """Nobody could give it a state: it would wait for ever."""
    bench = ReplicaBench("a", "b")
    bench.tick(after_s=1.0)
    bench.propose(b"x")
    bench.tick()
    assert not bench.replica.damage.mark("a scrub found it")
    bench.disk.damage(STATE, b"rows")
    bench.propose(b"y")
    with pytest.raises(DataDamaged, match=r"only voter: nobody can give it a state\. Restore it from a backup"):
        bench.tick()
    assert not marked(bench.disk)
    ReplicaBench("a", "b", disk=bench.disk)


def spoil(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it was opened, it took from its log what it could: a table is not among that."""

    def check() -> None:
        raise Damaged(STATE, b"", "its pages cannot be read")

    monkeypatch.setattr(disk, "check", check)


def test_a_state_that_could_not_be_taken_in_is_marked_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = with_log()
    spoil(bench.disk, monkeypatch)
    with pytest.raises(DataDamaged, match="fetches its state from another one"):
        ReplicaBench(disk=bench.disk)
    assert ReplicaBench(disk=bench.disk).replica.recovery.in_repair


def test_the_only_voter_goes_on_with_what_could_be_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ReplicaBench("a", "b")
    spoil(bench.disk, monkeypatch)
    assert not ReplicaBench("a", "b", disk=bench.disk).replica.recovery.in_repair


def test_a_marked_state_is_not_made_a_cluster_of() -> None:
    bench = damaged()
    with pytest.raises(RefoundError, match="this state is damaged: table state"):
        refound(bench.disk, record("a"), "anew", [b"x"])


# ---- in repair
ASKED: list[m.Message] = [
    m.Append(1, 1, 6, 6, 1, [(1, Y)]),
    m.Append(1, 1, 6, 4, 1, []),
    m.Append(1, 3, 6, 6, 1, [(3, Y)]),
    m.Heartbeat(1, 1, 6, 3),
    m.Heartbeat(1, 1, 90, 80),
    m.PreVote(2, 9, 99),
    m.RequestVote(2, 9, 99, True),
    m.TimeoutNow(1),
    m.HigherTerm(7),
    m.ReadProbe(1, 1),
    m.ReadProbe(1, 8),
    m.Fetch(1),
    m.FetchRows(1, None),
    m.Tail(3),
    m.Tailed(1, "b", 0, 6, 1, 6, 1, [(1, Y)]),
]


@pytest.mark.parametrize("message", ASKED, ids=lambda message: type(message).__name__)
def test_a_member_in_repair_takes_no_part(message: m.Message) -> None:
    bench = damaged()
    before = dump(bench.disk, LOG, META, APPLIED)
    assert [answer for answer in bench.answers(message) if not isinstance(answer, m.Fetch)] == []
    assert (bench.last, bench.commit, bench.engine.leader(), bench.reported) == (6, 4, None, {})
    assert dump(bench.disk, LOG, META, APPLIED) == before


def test_a_member_in_repair_never_campaigns_and_does_not_spin() -> None:
    bench = damaged()
    for _ in range(50):
        sent = bench.tick(after_s=0.1)
        assert {type(message) for _, message in sent} <= {m.Fetch}
        assert bench.replica.next_wakeup() > bench.clock.now_s
    assert bench.durable() == (1, "", 6)


def test_who_takes_a_member_in_repair_for_the_leader_is_told_that_it_is_none() -> None:
    bench = damaged()
    assert bench.answers(m.Propose(7, b"z")) == [m.Proposed(7, False, b"")]
    assert bench.answers(m.ReadRequest(8)) == [m.ReadIndex(8, 0)]


def test_calls_at_a_member_in_repair_wait_and_can_be_given_up() -> None:
    bench = damaged()
    bench.propose(b"z")
    bench.read()
    bench.tick(after_s=1.0)
    assert (bench.results, bench.reads) == ([], 0)
    assert bench.replica.withdraw(bench.proposal)


def test_a_state_is_asked_for_of_who_has_applied_as_far() -> None:
    bench = damaged(commit=4)
    bench.tick(("b", m.Report(3, 1, 0, b"")), ("c", m.Report(4, 1, 0, b"")))
    for _ in range(5):
        assert of_type(m.Fetch, bench.tick(after_s=FETCH_RETRY_S)) == [("c", m.Fetch(4))]
    assert "a state at 4 or later" in bench.replica.recovery.fetcher.describe()


def test_an_older_state_than_the_own_is_not_taken_in_repair() -> None:
    """What was applied was told to callers and readers."""
    bench = damaged(commit=4)
    bench.tick(after_s=FETCH_RETRY_S)
    assert bench.tick(("b", State(index=3).fetched())) == []
    State(index=4).give(bench)
    assert bench.state() == b"fetched"


def test_a_state_of_the_own_applied_index_repairs() -> None:
    bench = damaged(last=6, commit=4)
    log = bench.log()
    State(index=4).give(bench)
    assert (bench.state(), bench.machine.installs, bench.replica.journal.damaged) == (b"fetched", 1, "")
    assert (bench.replica.journal.first, bench.last, bench.commit) == (4, 6, 4)
    assert bench.log()[1:] == log[-2:]
    assert marked(bench.disk) == ""


def test_what_follows_the_state_in_the_own_log_stays() -> None:
    """It may have been acknowledged."""
    bench = damaged(last=6, commit=4)
    State(index=5).give(bench)
    assert (bench.replica.journal.first, bench.last, bench.commit) == (5, 6, 5)
    assert bench.log()[1:] == [(1, X)]
    again = ReplicaBench(disk=bench.disk)
    assert (again.replica.journal.first, again.last, again.commit) == (5, 6, 5)


@pytest.mark.parametrize(("index", "term"), [(5, 2), (6, 2), (9, 1)])
def test_a_log_that_differs_from_the_state_or_ends_before_it_is_replaced(index: int, term: int) -> None:
    bench = damaged(last=6, commit=4)
    State(index=index, index_term=term).give(bench, term=2)
    assert (bench.replica.journal.first, bench.last, bench.commit) == (index, index, index)
    assert dump(bench.disk, LOG) == [(LOG, u64(index), u64(term) + NO_OP)]


def test_term_and_vote_outlive_the_repair() -> None:
    bench = with_log()
    bench.tick(("c", m.RequestVote(7, 9, 99, True)))
    assert bench.durable()[:2] == (7, "c")
    bench.replica.damage.mark("found")
    again = ReplicaBench(disk=bench.disk)
    State(index=9).give(again)
    assert again.durable() == (7, "c", 9)
    assert again.answers(m.RequestVote(7, 99, 99, True)) == []  # of b: it has voted for c


def test_a_higher_term_of_the_sender_is_adopted_in_repair_too() -> None:
    bench = damaged()
    State(index=9, index_term=3).give(bench, "c", term=3)
    assert bench.durable()[:2] == (3, "")
    assert bench.answers(m.Append(3, 1, 12, 9, 1, [(1, X)])) == [m.HigherTerm(3)]


def test_a_configuration_that_follows_the_state_counts() -> None:
    bench = with_log()
    bench.follow(pack_configuration(configured("abcd")))
    bench.replica.damage.mark("found")
    again = ReplicaBench(disk=bench.disk)
    State(index=5).give(again)
    assert (again.last, again.replica.voters) == (7, frozenset("abcd"))
    with again.disk.snapshot() as snapshot:
        assert [key for key, _ in snapshot.scan(CONFIGURATIONS)] == [u64(7)]


def test_life_goes_on_after_the_repair() -> None:
    bench = damaged(last=6, commit=4)
    State(index=5, rows=b"xxx").give(bench)
    assert bench.answers(m.Append(9, 1, 7, 6, 1, [(1, Y)])) == [m.AppendReply(9, 1, 8, True, False)]
    assert bench.state() == b"xxxxy"
    assert of_type(m.PreVote, bench.tick(after_s=2.0)) != []


@pytest.mark.parametrize("commits", [True, False])
def test_killed_in_the_middle_it_begins_again_or_is_whole(commits: bool) -> None:
    bench = damaged()
    bench.background_waits = True
    State(index=9).give(bench)
    if commits:
        bench.finish()
    bench.disk.crash()
    again = ReplicaBench(disk=bench.disk)
    assert again.replica.recovery.in_repair != commits
    if not commits:
        State(index=9).give(again)
    assert (again.state(), again.commit) == (b"fetched", 9)


def test_damage_that_is_found_while_a_state_is_fetched_leaves_the_next_life_in_repair() -> None:
    bench = with_log()
    bench.tick(("b", m.Heartbeat(1, 1, 90, 80)))
    assert bench.replica.recovery.fetcher.wanted == 80
    bench.replica.damage.mark("found")
    again = ReplicaBench(disk=bench.disk)
    assert again.replica.recovery.fetcher.wanted == 4
    State(index=90).give(again)
    assert again.commit == 90


# ---- the log
def test_a_damaged_entry_below_the_applied_one_is_dropped_with_all_before_it() -> None:
    bench = with_log(last=6, commit=4)
    bench.disk.damage(LOG, u64(3))
    journal = ReplicaBench(disk=bench.disk).replica.journal
    assert (journal.first, journal.last, journal.damaged) == (4, 6, "")
    assert [key for _, key, _ in dump(bench.disk, LOG)] == [u64(4), u64(5), u64(6)]


def test_a_damaged_old_entry_that_is_met_later_is_dropped_and_the_member_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cluster.journal.LOG_CACHE_BYTES", 30)
    bench = with_log(last=20, commit=20)
    bench.disk.damage(LOG, u64(5))
    again = ReplicaBench(disk=bench.disk)
    with pytest.raises(DataDamaged, match="The log up to there was dropped"):
        again.tick(("b", m.Append(1, 1, 20, 20, 1, [(1, X)])), ("c", m.Tail(4)))
    journal = ReplicaBench(disk=bench.disk).replica.journal  # nothing else of that tick was kept
    assert (journal.first, journal.last, journal.damaged) == (6, 20, "")


@pytest.mark.parametrize("index", [5, 6])
def test_a_damaged_entry_above_the_applied_one_needs_another_member_in_its_place(index: int) -> None:
    bench = with_log(last=6, commit=4)
    bench.disk.damage(LOG, u64(index))
    with pytest.raises(DataDamaged, match=r"promised to the others .* `regctl cluster replace`"):
        ReplicaBench(disk=bench.disk)


def test_a_damaged_entry_that_is_met_when_it_is_to_be_applied_is_not_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.journal.LOG_CACHE_BYTES", 30)
    bench = with_log(last=20, commit=4)
    bench.disk.damage(LOG, u64(8))
    with pytest.raises(DataDamaged, match="promised to the others"):
        bench.follow(commit_index=10)
    assert not marked(bench.disk)


def test_all_that_is_not_applied_is_read_at_the_start() -> None:
    """However little of it the cache takes."""
    bench = with_log(last=20, commit=4)
    bench.disk.damage(LOG, u64(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.journal.LOG_CACHE_BYTES", 30)
        with pytest.raises(DataDamaged, match="promised to the others"):
            Journal(bench.disk)


@pytest.mark.parametrize("last", [4, 6])
def test_a_damaged_entry_at_the_applied_index_is_repaired_and_what_follows_stays(last: int) -> None:
    bench = with_log(last=last, commit=4)
    bench.disk.damage(LOG, u64(4))
    again = ReplicaBench(disk=bench.disk)
    assert again.replica.recovery.in_repair
    State(index=4, index_term=1).give(again)
    journal = again.replica.journal
    assert (journal.first, journal.last, journal.term_at(4), again.state()) == (4, last, 1, b"fetched")


def test_a_damaged_term_or_vote_needs_another_member_in_its_place() -> None:
    for key in (b"term", b"vote"):
        bench = with_log()
        bench.tick(("c", m.RequestVote(7, 9, 99, True)))
        bench.disk.damage(META, key)
        with pytest.raises(DataDamaged, match="`regctl cluster replace`"):
            ReplicaBench(disk=bench.disk)


@pytest.mark.parametrize("key", [b"index", b"digest"])
def test_a_damaged_row_of_what_is_applied_is_repaired(key: bytes) -> None:
    """Without its index the state must be as new as all of the log: no later one was ever told."""
    bench = with_log(last=6, commit=4)
    bench.disk.damage(APPLIED, key)
    again = ReplicaBench(disk=bench.disk)
    assert again.replica.recovery.fetcher.wanted == (6 if key == b"index" else 4)
    State(index=6).give(again)
    assert (again.state(), again.last, again.commit) == (b"fetched", 6, 6)


def test_without_the_applied_configuration_the_newest_in_the_log_tells_whom_to_ask() -> None:
    bench = ReplicaBench()
    bench.follow(NO_OP, pack_configuration(configured("abcd")), X, commit_index=4)
    bench.disk.damage(APPLIED, b"configuration")
    again = ReplicaBench("xyz", disk=bench.disk)
    assert (again.replica.recovery.in_repair, again.replica.others) == (True, ["b", "c", "d"])


def test_without_any_configuration_the_member_is_replaced() -> None:
    bench = with_log()
    bench.disk.damage(APPLIED, b"configuration")
    with pytest.raises(DataDamaged, match=r"the configuration\. What this member has promised"):
        ReplicaBench(disk=bench.disk)


REPAIRED: list[Callable[[ReplicaBench], None]] = [
    lambda bench: bench.disk.damage(LOG, u64(4)),
    lambda bench: bench.disk.damage(APPLIED, b"digest"),
]


@pytest.mark.parametrize("harm", REPAIRED)
def test_the_only_voter_with_damage_in_what_it_starts_from_says_so(harm: Callable[[ReplicaBench], None]) -> None:
    bench = ReplicaBench("a", flow=Flow(log_entries=100))
    bench.tick(after_s=1.0)
    while bench.commit < 4:
        bench.propose(b"x")
        bench.tick()
    harm(bench)
    with pytest.raises(DataDamaged, match="only voter"):
        ReplicaBench("a", disk=bench.disk)


def test_a_member_that_waits_for_admission_has_nothing_to_repair() -> None:
    assert not ReplicaBench(id="d/1", founding=NOBODY).replica.recovery.in_repair
