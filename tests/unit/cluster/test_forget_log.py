"""Content that is to be gone leaves the log of every member, at once."""

from __future__ import annotations

import pytest

from cluster import messages as m
from cluster.entries import NO_OP, pack
from cluster.journal import LOG, forgets_in
from cluster.limits import Flow
from tests.unit.cluster.replica_bench import Disk, ReplicaBench, of_type, sent_to
from tests.unit.cluster.test_catchup import dump

SECRET, PURGE = pack([b"secret"]), pack([b"purge"])
LONG = Flow(log_entries=1000, trim_entries=2)


def purged(bench: ReplicaBench) -> None:
    """Entries 3 to 9 with the secret, and 10 that purges."""
    bench.follow(NO_OP, *[SECRET] * 7, commit_index=9)
    bench.machine.forgets = True
    bench.follow(PURGE, commit_index=10)
    bench.machine.forgets = False


def holds_secret(disk: Disk) -> bool:
    return any(b"secret" in row for _, _, row in dump(disk, LOG))


def forgets(disk: Disk) -> bool:
    with disk.snapshot() as reader:
        return forgets_in(reader)


def test_a_log_that_is_to_be_forgotten_is_trimmed_to_its_end_some_at_a_time() -> None:
    bench = ReplicaBench(flow=LONG)
    place = len(bench.trace)
    purged(bench)
    assert not holds_secret(bench.disk)
    assert bench.replica.journal.first == 10
    assert bench.trace[place:].count("commit") >= 6


def test_what_holds_the_secret_leaves_the_cache_too() -> None:
    bench = ReplicaBench(flow=LONG)
    purged(bench)
    assert not any(b"secret" in entry for entry, _, _ in bench.replica.journal._cache)


def test_without_an_opinion_the_log_is_kept() -> None:
    bench = ReplicaBench(flow=LONG)
    bench.follow(NO_OP, *[SECRET] * 7, commit_index=9)
    assert bench.replica.journal.first == 1


def test_the_entry_that_says_so_goes_with_the_next_one() -> None:
    """A publication may stand in the same entry."""
    bench = ReplicaBench(flow=LONG)
    bench.machine.forgets = True
    bench.follow(pack([b"secret", b"purge"]), commit_index=2)
    bench.machine.forgets = False
    assert (bench.replica.journal.first, holds_secret(bench.disk)) == (2, True)
    bench.follow(NO_OP, commit_index=3)
    assert (bench.replica.journal.first, holds_secret(bench.disk)) == (3, False)


def test_it_is_known_to_be_in_the_log_until_that_entry_is_gone() -> None:
    bench = ReplicaBench(flow=LONG)
    bench.machine.forgets = True
    bench.follow(pack([b"secret", b"purge"]), commit_index=2)
    bench.machine.forgets = False
    assert forgets(bench.disk)
    bench.follow(NO_OP, commit_index=3)
    assert not forgets(bench.disk)


def test_the_leader_lets_an_empty_entry_follow_and_no_second_one() -> None:
    bench = ReplicaBench(flow=LONG).lead()
    bench.machine.forgets = True
    bench.propose(b"secret, purge")
    bench.tick()
    bench.acknowledge("b")
    bench.machine.forgets = False
    assert bench.log()[1:] == [(1, NO_OP)]
    bench.pass_s(1.0, "b", "c")
    assert (bench.last, holds_secret(bench.disk)) == (4, True)  # not committed yet
    bench.acknowledge("b")
    bench.pass_s(1.0, "b", "c")
    assert (bench.last, bench.replica.journal.first, forgets(bench.disk)) == (4, 4, False)


def test_no_empty_entry_where_another_follows_anyway() -> None:
    bench = ReplicaBench(flow=LONG).lead()
    bench.machine.forgets = True
    bench.propose(b"purge")
    bench.tick()
    bench.propose(b"other")
    bench.tick()
    bench.acknowledge("b", 3)
    bench.machine.forgets = False
    assert bench.last == 4
    bench.acknowledge("b")
    assert (bench.log(), forgets(bench.disk)) == ([(1, pack([b"other"]))], False)


@pytest.mark.parametrize("committed", [True, False])
def test_a_crash_in_the_middle_forgets_in_the_next_life(committed: bool) -> None:
    bench = ReplicaBench(flow=LONG)
    bench.follow(NO_OP, *[SECRET] * 7, commit_index=9)
    bench.machine.forgets = True
    bench.replica.receive("b", m.Append(2, 1, 10, 9, 1, [(1, PURGE)]))
    bench.replica.advance()
    if committed:
        bench.replica.commit()
    bench.disk.crash()
    again = ReplicaBench(disk=bench.disk, flow=LONG)
    assert holds_secret(again.disk) != committed
    if not committed:  # the entry comes again
        again.machine.forgets = True
        again.answers(m.Append(3, 1, 10, 9, 1, [(1, PURGE)]))
    assert not holds_secret(again.disk)


def test_a_peer_that_needs_what_was_forgotten_fetches_a_state() -> None:
    bench = ReplicaBench(flow=LONG).lead()
    for command in (b"secret", b"secret", b"purge", b"other"):
        bench.machine.forgets = command == b"purge"
        bench.propose(command)
        bench.tick()
        bench.acknowledge("b")
    assert not holds_secret(bench.disk)
    (probe, *_) = sent_to("c", bench.tick(after_s=0.2))
    assert isinstance(probe, m.Append)
    bench.tick(("c", m.AppendReply(probe.number, 1, 2, False, True)))
    (beat,) = of_type(m.Heartbeat, bench.tick(after_s=0.2))
    assert (beat[0], beat[1].first_index) == ("c", bench.replica.journal.first)


def test_a_state_that_is_on_its_way_does_not_keep_what_is_to_be_forgotten() -> None:
    bench = ReplicaBench(flow=LONG)
    bench.follow(NO_OP, *[SECRET] * 3, commit_index=5)
    assert len(bench.answers(m.Fetch(3), sender="c")) == 1
    bench.machine.forgets = True
    bench.follow(PURGE, commit_index=6)
    assert not holds_secret(bench.disk)
