"""A cluster begun anew: by a lone survivor with all that its log holds, or out of a state alone."""

from __future__ import annotations

import pytest
from msgspec import structs

from cluster import messages as m
from cluster import snapshot
from cluster.configuration import NOBODY, Configuration
from cluster.entries import NO_OP, pack
from cluster.handshake import judge
from cluster.journal import APPLIED, OWN, TABLES, Journal, standing_in
from cluster.kv.memory_env import MemoryEnvironment
from cluster.limits import REMOVED_REMEMBERED
from cluster.refound import RefoundError, load, refound
from cluster.snapshot import Chunk, Header, SnapshotError
from tests.unit.cluster.replica_bench import STATE, Disk, ReplicaBench, configured, record

NEW = "another history"
SENT = (STATE, APPLIED)


def survivor() -> ReplicaBench:
    """A follower of three that has applied x; y is in its log, z of another term behind it."""
    bench = ReplicaBench()
    bench.follow(NO_OP, pack([b"x"]), commit_index=1)
    bench.follow(pack([b"y"]), commit_index=3)
    bench.follow(pack([b"z"]), term=2, commit_index=3, leader="c")
    assert (bench.state(), bench.last, bench.replica.journal.applied) == (b"x", 5, 3)
    return bench


def alone(disk: Disk, id: str = "a") -> ReplicaBench:
    bench = ReplicaBench(id=id, founding=NOBODY, disk=disk)
    bench.tick(after_s=1.0)
    return bench


def rows(disk: Disk) -> bytes:
    with disk.snapshot() as reader:
        return reader.get(STATE, b"rows") or b""


def test_a_lone_survivor_leads_itself_and_applies_its_log_to_the_end() -> None:
    disk = survivor().disk
    refound(disk, record("a"), NEW, [b"epoch"])
    bench = alone(disk)
    assert bench.engine.leads()
    assert bench.engine.term() > 2
    assert rows(disk) == b"xyzepoch"
    assert bench.replica.configuration == Configuration(cluster=NEW, members=(record("a"),), removed=("of b", "of c"))
    bench.propose(b"w")
    bench.tick()
    assert rows(disk) == b"xyzepochw"


def test_members_of_before_are_refused_and_refuse() -> None:
    bench = survivor()
    before = bench.replica.configuration
    refound(bench.disk, record("a"), NEW, [])
    after = Journal(bench.disk).configuration
    hello = m.Hello(m.OLDEST_PROTOCOL, m.PROTOCOL, before.cluster, "b", "b", "of b", "a", "b:1", "", "", "voter", 1)
    assert "was removed" in judge(hello, "a", after, "", ())
    unheard = structs.replace(hello, id="d", name="d", incarnation="of d")
    assert "before a restore or a forced recovery" in judge(unheard, "a", after, "", ())
    of_after = structs.replace(hello, cluster=NEW, id="a", name="a", incarnation="of a", to="b", peer_address="a:1")
    assert "before a restore or a forced recovery" in judge(of_after, "b", before, "", ())
    wiped = structs.replace(hello, cluster="", id="b/new", incarnation="new")
    assert judge(wiped, "a", after, "", ()) == ""


def test_an_observer_becomes_the_voter() -> None:
    bench = ReplicaBench("bcd", "a")
    refound(bench.disk, record("a", "observer"), NEW, [])
    assert alone(bench.disk).engine.leads()


def test_who_was_removed_before_stays_so_up_to_a_bound() -> None:
    many = tuple(str(number) for number in range(REMOVED_REMEMBERED))
    bench = ReplicaBench(founding=structs.replace(configured(), removed=many))
    refound(bench.disk, record("a"), NEW, [])
    removed = Journal(bench.disk).configuration.removed
    assert len(removed) == REMOVED_REMEMBERED
    assert removed[-3:] == (many[-1], "of b", "of c")


def test_a_founder_never_heard_is_removed_by_its_id() -> None:
    members = tuple(structs.replace(each, incarnation="") for each in configured().members)
    bench = ReplicaBench(founding=structs.replace(configured(), members=members))
    refound(bench.disk, record("a"), NEW, [])
    assert Journal(bench.disk).configuration.removed == ("b", "c")


def test_it_is_one_commit() -> None:
    bench = survivor()
    del bench.trace[:]
    refound(bench.disk, record("a"), NEW, [b"epoch"])
    assert bench.trace == ["commit"]


@pytest.mark.parametrize("why", ["differs from that of the other members", "was removed"])
def test_what_must_not_become_a_cluster_is_left_as_it_is(why: str) -> None:
    disk = Disk()
    journal = Journal(disk, structs.replace(configured(), removed=("of a",) if why == "was removed" else ()))
    journal.add(NO_OP, 1, 0)
    if why != "was removed":
        journal.set_diverged(3)
    disk.commit()
    before = contents(disk)
    with pytest.raises(RefoundError, match=why):
        refound(disk, record("a"), NEW, [])
    assert contents(disk) == before


def test_without_a_state_there_is_nothing_to_found() -> None:
    with pytest.raises(RefoundError, match="no state"):
        refound(Disk(), record("a"), NEW, [])


# ---- a state alone


def contents(disk: MemoryEnvironment) -> dict[str, dict[bytes, bytes]]:
    disk.commit()
    with disk.snapshot() as reader:
        return {table: dict(reader.scan(table)) for table in disk.tables}


def state(disk: Disk) -> tuple[Header, list[Chunk]]:
    with disk.snapshot() as reader:
        return snapshot.header_of(reader, SENT, b""), list(snapshot.read_chunks(reader, SENT, 1))


def test_a_state_alone_becomes_a_cluster_without_what_only_the_log_held() -> None:
    bench = survivor()
    with bench.disk.snapshot() as reader:
        standing = standing_in(reader)
    assert (standing.index, standing.term, standing.configuration) == (3, 1, bench.replica.configuration)
    disk = Disk()
    load(disk, *state(bench.disk), index=standing.index, term=standing.term)
    assert (Journal(disk).first, Journal(disk).last, Journal(disk).applied) == (3, 3, 3)
    refound(disk, record("n/1"), NEW, [b"epoch"])
    again = alone(disk, "n/1")
    assert again.engine.leads()
    assert rows(disk) == b"xepoch"
    assert again.replica.configuration.removed == ("of a", "of b", "of c")


@pytest.mark.parametrize(("chunks", "index"), [(-1, 3), (None, 4)], ids=["a chunk is missing", "another index"])
def test_a_state_that_is_not_whole_leaves_nothing(chunks: int | None, index: int) -> None:
    header, all_chunks = state(survivor().disk)
    disk = Disk()
    with pytest.raises(SnapshotError):
        load(disk, header, all_chunks[:chunks], index=index, term=1)
    assert not any(contents(disk).values())


def test_nothing_stands_in_an_empty_environment() -> None:
    assert set(OWN) < set(TABLES)
    with MemoryEnvironment(TABLES).snapshot() as reader, pytest.raises(LookupError):
        standing_in(reader)
