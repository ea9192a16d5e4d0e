"""The journal over both environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import journal as journal_module
from cluster.api import DataDamaged
from cluster.entries import pack_configuration
from cluster.journal import APPLIED, CONFIGURATIONS, LOG, META, TABLES, Entries, Journal, applied_in
from cluster.kv.api import Damaged, Environment
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from tests.unit.cluster.replica_bench import configured

Reopen = Callable[[], Journal]


class Store:
    """One environment, closed and opened again; what was not committed is lost."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind, self.directory = kind, directory
        self.environment: Environment = self._open()

    def _open(self) -> Environment:
        return MemoryEnvironment(TABLES) if self._kind == "memory" else LmdbEnvironment(self.directory, TABLES)

    def reopen(self) -> Journal:
        if isinstance(self.environment, MemoryEnvironment):
            self.environment.crash()
        else:
            self.environment.close()
            self.environment = self._open()
        return Journal(self.environment)


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = Store(request.param, tmp_path / "kv")
    yield store
    store.environment.close()


def fill(store: Store, count: int = 5, *, commit: bool = True) -> Journal:
    """Entries e1, e2, ... of term 1."""
    journal = Journal(store.environment)
    for index in range(journal.last + 1, count + 1):
        journal.add(b"e%d" % index, index, 1)
    if commit:
        store.environment.commit()
    return journal


def test_an_empty_log(store: Store) -> None:
    journal = Journal(store.environment)
    assert (journal.first, journal.last, len(journal)) == (1, 0, 0)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.getRaftCommitIndex()) == (0, None, 1)
    assert list(journal[:]) == []


def test_entries_are_read_by_position_from_both_ends(store: Store) -> None:
    journal = fill(store)
    assert journal[0] == (b"e1", 1, 1)
    assert journal[-1] == (b"e5", 5, 1)
    assert (len(journal), journal.term_at(5)) == (5, 1)
    for index in (0, 6):
        with pytest.raises((LookupError, IndexError)):
            journal.at(index)


def test_slices_are_lazy_and_see_what_the_log_holds_when_they_are_read(store: Store) -> None:
    journal = fill(store)
    tail = journal[2:]
    assert isinstance(tail, Entries)
    assert [entry[1] for entry in tail] == [entry[1] for entry in tail[:]] == [3, 4, 5]
    assert (len(tail), tail[0][1], tail[-1][1], tail[1:][0][1]) == (3, 3, 5, 4)
    assert [entry[1] for entry in tail[1:2]] == [4]
    assert [entry[1] for entry in reversed(tail)] == [5, 4, 3]
    assert list(journal[9:]) == list(journal[3:2]) == []
    for position in (3, -4):
        with pytest.raises(IndexError):
            tail[position]
    journal.deleteEntriesFrom(3)
    journal.add(b"new", 4, 2)
    assert tail[1] == (b"new", 4, 2)


def test_a_slice_reads_nothing_until_it_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = fill(store)
    monkeypatch.setattr(Journal, "at", lambda self, index: pytest.fail("read"))
    assert len(journal[1:][1:]) == 3


def test_a_gap_is_a_defect(store: Store) -> None:
    journal = fill(store)
    with pytest.raises(AssertionError, match="a gap"):
        journal.add(b"", 7, 1)


def test_truncation_takes_the_tail_and_no_more(store: Store) -> None:
    journal = fill(store)
    journal.deleteEntriesFrom(2)
    assert (journal.last, journal[-1]) == (2, (b"e2", 2, 1))
    assert not journal.holds(3, 1)
    journal.add(b"other", 3, 2)
    store.environment.commit()
    journal = store.reopen()
    assert list(journal[:]) == [(b"e1", 1, 1), (b"e2", 2, 1), (b"other", 3, 2)]


def test_truncation_behind_the_end_does_nothing(store: Store) -> None:
    journal = fill(store)
    journal.deleteEntriesFrom(5)
    journal.deleteEntriesFrom(50)
    assert (journal.last, journal[-1]) == (5, (b"e5", 5, 1))


def test_what_was_applied_is_never_truncated(store: Store) -> None:
    journal = fill(store)
    journal.set_applied(3, b"digest")
    with pytest.raises(AssertionError, match="would undo applied 3"):
        journal.deleteEntriesFrom(2)
    journal.deleteEntriesFrom(3)
    assert journal.last == 3


def test_what_was_committed_survives_and_no_more(store: Store) -> None:
    journal = fill(store, 3)
    journal.setCurrentTerm(7, "b")
    journal.set_applied(2, b"digest")
    store.environment.commit()
    fill(store, 5, commit=False)
    journal.setCurrentTerm(8, None)
    journal.set_applied(3, b"digest")
    journal = store.reopen()
    assert (journal.last, journal.applied, journal.getRaftCommitIndex()) == (3, 2, 2)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (7, "b")


def test_a_vote_is_taken_back_with_a_new_term(store: Store) -> None:
    journal = Journal(store.environment)
    journal.setCurrentTerm(7, "b")
    journal.setCurrentTerm(8, None)
    store.environment.commit()
    assert store.reopen().getVotedForNodeId() is None


def test_the_commit_index_is_not_stored(store: Store) -> None:
    journal = fill(store)
    journal.setRaftCommitIndex(5)
    journal.onOneSecondTimer()
    assert journal.getRaftCommitIndex() == 1


def test_old_entries_leave_the_cache_and_are_read_from_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LOG_CACHE_BYTES", 1000)
    journal = Journal(store.environment)
    for index in range(1, 101):
        journal.add(b"%100d" % index, index, 1)
        assert journal._cache_bytes == sum(len(entry[0]) + 8 for entry in journal._cache) <= 1000 + 108
    assert len(journal._cache) < 10
    assert [int(entry[0]) for entry in journal[:]] == list(range(1, 101))  # before and after the commit
    store.environment.commit()
    assert [int(entry[0]) for entry in journal[:]] == list(range(1, 101))
    journal = store.reopen()
    assert 1 < len(journal._cache) < 10
    assert [int(entry[0]) for entry in journal[:]] == list(range(1, 101))


def test_truncation_behind_the_cache_and_new_entries_after_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LOG_CACHE_BYTES", 1000)
    journal = Journal(store.environment)
    for index in range(1, 51):
        journal.add(b"%100d" % index, index, 1)
    journal.deleteEntriesFrom(20)
    assert (journal.last, journal._cache, journal._cache_bytes) == (20, [], 0)
    assert int(journal[-1][0]) == 20
    journal.add(b"new", 21, 2)
    assert [entry[1:] for entry in journal[18:]] == [(19, 1), (20, 1), (21, 2)]


def test_one_entry_larger_than_the_cache_is_cached(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LOG_CACHE_BYTES", 10)
    journal = fill(store, 1)
    journal.add(bytes(1000), 2, 1)
    assert len(journal._cache) == 1
    assert len(journal.at(2)[0]) == 1000


def test_a_hole_in_the_log_is_an_error_and_not_an_empty_entry(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LOG_CACHE_BYTES", 10)
    journal = fill(store)
    store.environment.transaction().delete(LOG, (2).to_bytes(8, "big"))
    with pytest.raises(Damaged, match=r"entry 2 is missing \(log 1\.\.5\)"):
        journal.at(2)


# ---- trimming
KEEP = 10**9


def trimmed(store: Store, count: int, *limits: int) -> Journal:
    """`count` entries, all but the last one applied."""
    journal = fill(store, count)
    journal.set_applied(count - 1, b"digest")
    journal.trim(*limits)
    store.environment.commit()
    return journal


def test_the_oldest_entries_go_and_so_many_stay_behind_what_is_applied(store: Store) -> None:
    journal = trimmed(store, 20, 5, KEEP, 100, KEEP)
    assert (journal.first, journal.last, len(journal)) == (14, 20, 7)
    journal.trim(5, KEEP, 100, KEEP)
    assert journal.first == 14


@pytest.mark.parametrize("reopened", [False, True])
def test_a_log_that_starts_behind_1_is_read_as_any_other(store: Store, reopened: bool) -> None:
    journal = trimmed(store, 20, 5, KEEP, 100, KEEP)
    if reopened:
        journal = store.reopen()
    assert (journal.first, journal.last, len(journal), journal.applied) == (14, 20, 7, 19)
    assert (journal[0], journal[-1], journal.at(14)) == ((b"e14", 14, 1), (b"e20", 20, 1), (b"e14", 14, 1))
    assert [entry[1] for entry in journal[3:]] == [17, 18, 19, 20]
    assert (journal.holds(13, 1), journal.holds(14, 1), journal.holds(20, 1), journal.holds(21, 1)) == (
        False,
        True,
        True,
        False,
    )
    with pytest.raises(LookupError):
        journal.at(13)
    journal.deleteEntriesFrom(6)
    journal.add(b"new", 20, 2)
    assert journal[-1] == (b"new", 20, 2)


def test_no_more_than_so_many_go_at_once(store: Store) -> None:
    journal = trimmed(store, 20, 5, KEEP, 4, KEEP)
    assert journal.first == 5
    journal.trim(5, KEEP, 4, KEEP)
    journal.trim(5, KEEP, 100, KEEP)
    assert journal.first == 14


def test_what_somebody_fetches_from_stays(store: Store) -> None:
    journal = trimmed(store, 20, 5, KEEP, 100, 9)
    assert journal.first == 9
    journal.trim(5, KEEP, 100, 3)
    assert journal.first == 9


def test_the_last_applied_entry_stays_whatever_the_limits_say(store: Store) -> None:
    journal = trimmed(store, 20, 0, 0, 100, KEEP)
    assert (journal.first, journal.term_at(19)) == (19, 1)


def test_a_log_of_too_many_bytes_is_trimmed_although_it_has_few_entries(store: Store) -> None:
    journal = Journal(store.environment)
    for index in range(1, 101):
        journal.add(bytes(10_000), index, 1)
    journal.set_applied(100, b"digest")
    store.environment.commit()
    size_bytes = store.environment.size_bytes(LOG)
    assert size_bytes > 1_000_000
    for _ in range(20):
        journal.trim(KEEP, size_bytes // 4, 10, KEEP)
        store.environment.commit()
    assert 70 <= journal.first <= 90
    assert store.environment.size_bytes(LOG) <= size_bytes // 3


def test_the_cache_holds_what_is_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "LOG_CACHE_BYTES", 200)
    journal = trimmed(store, 20, 14, KEEP, 100, KEEP)
    assert len(journal._cache) < len(journal) == 16  # the cache is shorter than what is left
    journal.trim(2, KEEP, 100, KEEP)
    assert len(journal._cache) == len(journal) == 4
    assert journal._cache_bytes == sum(len(entry[0]) + 8 for entry in journal._cache)
    assert [entry[1] for entry in journal[:]] == [17, 18, 19, 20]


def test_what_is_to_be_forgotten_goes_whatever_is_kept_or_needed(store: Store) -> None:
    journal = fill(store, 20)
    journal.set_applied(15, b"digest")
    journal.forget(9)
    steps = []
    while journal.forgetting:
        journal.trim(KEEP, KEEP, 4, 1)
        steps.append(journal.first)
    assert steps == [5, 9, 10]
    assert list(journal._cache) == [(b"e%d" % index, index, 1) for index in range(10, 21)]
    journal.trim(KEEP, KEEP, 4, 1)
    assert journal.first == 10


def test_forgetting_goes_on_after_a_restart_and_ends(store: Store) -> None:
    journal = fill(store, 20)
    journal.set_applied(15, b"digest")
    journal.forget(9)
    journal.trim(KEEP, KEEP, 4, 1)
    store.environment.commit()
    journal = store.reopen()
    assert (journal.first, journal.forgetting) == (5, True)
    journal.trim(KEEP, KEEP, 100, 1)
    store.environment.commit()
    assert not journal.forgetting
    with store.environment.snapshot() as snapshot:
        assert snapshot.get(META, b"forget") is None
        assert next(snapshot.scan(LOG))[0] == (10).to_bytes(8, "big")


def test_the_last_applied_entry_is_forgotten_when_another_one_is_applied(store: Store) -> None:
    journal = fill(store, 20)
    journal.set_applied(9, b"digest")
    journal.forget(9)
    journal.trim(KEEP, KEEP, 100, 1)
    assert (journal.first, journal.forgetting) == (9, False)
    store.environment.commit()
    journal = store.reopen()
    journal.set_applied(10, b"digest")
    assert journal.forgetting
    journal.trim(KEEP, KEEP, 100, 1)
    assert (journal.first, journal.forgetting) == (10, False)


def test_a_trimmed_configuration_is_not_found_again(store: Store) -> None:
    journal = Journal(store.environment, configured("abc"))
    journal.add(b"\x01", 1, 1)
    journal.add(pack_configuration(configured("ab")), 2, 1)
    journal.add(b"\x01", 3, 1)
    journal.set_configuration(configured("ab"))
    journal.set_applied(3, b"digest")
    journal.trim(0, KEEP, 100, KEEP)
    store.environment.commit()
    with store.environment.snapshot() as snapshot:
        assert list(snapshot.scan(CONFIGURATIONS)) == []
    journal = store.reopen()
    assert (journal.configuration, journal.configuration_index) == (configured("ab"), 0)


# ---- configurations
def test_the_newest_configuration_in_the_log_counts(store: Store) -> None:
    journal = Journal(store.environment, configured("abc"))
    assert journal.configuration == journal.applied_configuration == configured("abc")
    journal.add(b"\x01", 1, 0)
    for index, voters in enumerate(("ab", "abd"), 2):
        journal.add(pack_configuration(configured(voters)), index, 1)
    store.environment.commit()
    journal = store.reopen()
    assert (journal.configuration, journal.configuration_index) == (configured("abd"), 3)
    journal.deleteEntriesFrom(2)
    assert (journal.configuration, journal.configuration_index) == (configured("ab"), 2)
    assert store.reopen().configuration == configured("abd")  # the truncation was not committed


def test_what_was_founded_is_not_founded_again(store: Store) -> None:
    Journal(store.environment, configured("abc"))
    store.environment.commit()
    assert Journal(store.environment, configured("xyz")).configuration == configured("abc")


# ---- a fetched state
def test_a_prepared_environment_carries_term_and_vote_and_a_log_that_goes_on(store: Store) -> None:
    journal = fill(store)
    journal.setCurrentTerm(7, "b")
    store.environment.commit()
    incoming = store.environment.incoming()
    incoming.transaction().put(APPLIED, b"index", (40).to_bytes(8, "big"))
    incoming.commit()
    journal.prepare(incoming, 40, 6)
    store.environment.replace(incoming)
    journal.load()
    for loaded in (journal, store.reopen()):
        assert (loaded.first, loaded.last, loaded.applied, loaded.at(40)) == (40, 40, 40, (b"\x01", 40, 6))
        assert (loaded.getCurrentTerm(), loaded.getVotedForNodeId()) == (7, "b")


def test_that_a_state_differs_is_kept_for_ever(store: Store) -> None:
    journal = fill(store)
    assert journal.diverged == 0
    journal.set_diverged(2048)
    store.environment.commit()
    assert store.reopen().diverged == 2048


def test_how_far_a_state_is_applied_is_read_in_any_snapshot(store: Store) -> None:
    journal = fill(store)
    with store.environment.snapshot() as snapshot:
        assert applied_in(snapshot) == 0
    journal.set_applied(4, b"digest")
    store.environment.commit()
    with store.environment.snapshot() as snapshot:
        assert applied_in(snapshot) == 4
    assert store.reopen().digest == b"digest"


# ---- keys that have changed on the disk
def flip(store: Store, key: bytes, then: bytes) -> None:
    """A bit of the key of a row, wherever it stands in the file: rows that look alike are no rows any more."""
    store.environment.close()
    (path,) = store.directory.glob("*/data.mdb")
    data, place = bytearray(path.read_bytes()), 0
    assert key + then in data
    while (place := data.find(key + then, place)) >= 0:
        data[place + len(key) - 1] ^= 0x40
        place += 1
    path.write_bytes(data)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Store]:
    store = Store("lmdb", tmp_path / "kv")
    yield store
    store.environment.close()


def log_on(disk: Store, applied: int = 4) -> None:
    """Entries 1 to 6."""
    journal = fill(disk, 6)
    journal.setCurrentTerm(1, "b")
    journal.set_applied(applied, b"digest")
    journal.set_configuration(configured())
    disk.environment.commit()


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


@pytest.mark.parametrize("index", [5, 6])
def test_an_entry_above_the_applied_one_whose_key_changed_is_not_taken_for_an_old_one(disk: Store, index: int) -> None:
    log_on(disk)
    flip(disk, u64(index), u64(1) + b"e%d" % index)
    with pytest.raises(DataDamaged, match="promised to the others"):
        disk.reopen()


@pytest.mark.parametrize("index", [1, 3, 4])
def test_an_applied_entry_whose_key_changed_goes_with_the_whole_state(disk: Store, index: int) -> None:
    """It cannot be deleted: no key leads to it."""
    log_on(disk)
    flip(disk, u64(index), u64(1) + b"e%d" % index)
    journal = disk.reopen()
    assert "table raft_log" in journal.damaged
    assert (journal.first, journal.last, journal.applied) == (1, 6, 4)
    assert [entry for entry, _, _ in journal[4:]] == [b"e5", b"e6"]


@pytest.mark.parametrize("key", [b"term", b"vote"])
def test_a_term_or_a_vote_whose_key_changed_is_not_taken_for_none(disk: Store, key: bytes) -> None:
    log_on(disk)
    flip(disk, key, u64(1) if key == b"term" else b"b")
    with pytest.raises(DataDamaged, match="promised to the others"):
        disk.reopen()


def test_an_applied_index_whose_key_changed_is_not_taken_for_none(disk: Store) -> None:
    log_on(disk)
    flip(disk, b"index", u64(4))
    journal = disk.reopen()
    assert (journal.applied, journal.applied_configuration) == (6, configured())
    assert "table raft_applied" in journal.damaged


def test_what_follows_a_damaged_entry_is_kept_all_the_same(disk: Store) -> None:
    log_on(disk)
    disk.environment.close()
    (path,) = disk.directory.glob("*/data.mdb")
    path.write_bytes(path.read_bytes().replace(u64(1) + b"e4", u64(1) + b"f4"))
    journal = disk.reopen()
    assert "table raft_log" in journal.damaged
    incoming = disk.environment.incoming()
    incoming.transaction().put(APPLIED, b"index", u64(4))
    incoming.commit()
    journal.prepare(incoming, 4, 1, keep_rest=True)
    disk.environment.replace(incoming)
    journal = disk.reopen()
    assert (journal.first, journal.last, journal.damaged) == (4, 6, "")
    assert [entry for entry, _, _ in journal[1:]] == [b"e5", b"e6"]
