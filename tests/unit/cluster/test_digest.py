"""Digests of states: the chain over what is written, who is wrong when they differ, and what becomes of it."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster import messages as m
from cluster.api import Diverged
from cluster.digest import BYTES, Comparison, Recorder
from cluster.entries import NO_OP, pack
from cluster.kv.api import Transaction
from cluster.kv.memory_env import MemoryEnvironment
from cluster.limits import REPORT_S, Flow
from tests.unit.cluster.replica_bench import Disk, ReplicaBench

Write = tuple[str, str, bytes, bytes]  # put or delete, table, key, value

_keys = st.binary(min_size=1, max_size=4)
_writes = st.lists(
    st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from(["s", "st"]), _keys, st.binary(max_size=4)).map(
        lambda write: write if write[0] == "put" else (*write[:3], b"")
    ),
    max_size=6,
)


def written(transaction: Transaction, writes: list[Write]) -> list[bool]:
    """What the deletes found."""
    found = []
    for act, table, key, value in writes:
        if act == "put":
            transaction.put(table, key, value)
        else:
            found.append(transaction.delete(table, key))
    return found


def digest_of(writes: list[Write], previous: bytes = b"") -> bytes:
    recorder = Recorder(MemoryEnvironment(["s", "st"]).transaction(), previous)
    written(recorder, writes)
    return recorder.digest()


def test_the_chain_is_of_lengths_names_keys_and_values_in_order() -> None:
    """Members of older releases have the same one."""
    by_hand = blake2b(b"p", digest_size=BYTES)
    by_hand.update(b"\x02" + b"\x00\x01" + b"\x00\x00\x00\x03" + b"st" + b"k" + b"old")
    by_hand.update(b"\x82" + b"\x00\x01" + b"\x00\x00\x00\x00" + b"st" + b"k")
    by_hand.update(b"\x01" + b"\x00\x01" + b"\x00\x00\x00\x03" + b"s" + b"k" + b"new")
    writes = [("put", "st", b"k", b"old"), ("delete", "st", b"k", b""), ("put", "s", b"k", b"new")]
    assert digest_of(writes, b"p") == by_hand.digest()


# ---- the chain
@given(_writes, st.binary(max_size=BYTES))
def test_the_same_writes_have_the_same_digest(writes: list[Write], previous: bytes) -> None:
    assert digest_of(writes, previous) == digest_of(writes, previous)
    assert len(digest_of(writes, previous)) == BYTES


@given(_writes, _writes)
def test_different_writes_have_different_digests(one: list[Write], other: list[Write]) -> None:
    assume(one != other)
    assert digest_of(one) != digest_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("put", "s", b"tk", b"v"), ("put", "st", b"k", b"v")),
        (("put", "s", b"k", b"kv"), ("put", "s", b"kk", b"v")),
        (("put", "s", b"k", b""), ("delete", "s", b"k", b"")),
    ],
)
def test_where_a_name_a_key_and_a_value_end_is_part_of_it(one: Write, other: Write) -> None:
    assert digest_of([one]) != digest_of([other])


def test_what_came_before_is_part_of_it() -> None:
    writes: list[Write] = [("put", "s", b"k", b"v")]
    assert digest_of(writes, b"1") != digest_of(writes, b"2") != digest_of([], b"2")


def test_what_is_written_is_there_and_reading_changes_nothing() -> None:
    environment = MemoryEnvironment(["s"])
    recorder = Recorder(environment.transaction(), b"")
    for key in (b"a", b"b", b"c"):
        recorder.put("s", key, b"of " + key)
    digest = recorder.digest()
    assert (recorder.get("s", b"b"), recorder.count("s"), recorder.get("s", b"x")) == (b"of b", 3, None)
    assert [key for key, _ in recorder.scan("s", b"b", b"c")] == [b"b"]
    assert [key for key, _ in recorder.scan("s", reverse=True)] == [b"c", b"b", b"a"]
    assert recorder.digest() == digest
    assert (recorder.delete("s", b"a"), recorder.delete("s", b"a")) == (True, False)
    recorder.digest()
    environment.commit()
    with environment.snapshot() as snapshot:
        assert [key for key, _ in snapshot.scan("s")] == [b"b", b"c"]


_acts = st.lists(
    st.one_of(
        _writes.map(lambda writes: ("writes", writes)),
        st.tuples(st.just("get"), _keys),
        st.tuples(st.just("scan"), st.tuples(st.binary(max_size=2), st.none() | st.binary(max_size=2), st.booleans())),
        st.just(("count", None)),
        st.just(("digest", None)),
    ),
    max_size=20,
)


@given(_writes, _acts)
def test_one_who_reads_between_sees_what_was_written_and_the_digest_is_that_of_the_writes(
    before: list[Write], acts: list[tuple[str, Any]]
) -> None:
    plain, recorded = MemoryEnvironment(["s", "st"]), MemoryEnvironment(["s", "st"])
    for environment in (plain, recorded):
        written(environment.transaction(), before)
        environment.commit()
    transaction, recorder, writes = plain.transaction(), Recorder(recorded.transaction(), b"p"), []
    for act, about in acts:
        match act:
            case "writes":
                assert written(transaction, about) == written(recorder, about)
                writes += about
            case "get":
                assert transaction.get("s", about) == recorder.get("s", about)
            case "scan":
                start, stop, reverse = about
                expected = list(transaction.scan("s", start, stop, reverse=reverse))
                assert list(recorder.scan("s", start, stop, reverse=reverse)) == expected
            case "count":
                assert transaction.count("st") == recorder.count("st")
            case _:
                recorder.digest()
    assert recorder.digest() == digest_of(writes, b"p")
    for environment in (plain, recorded):
        environment.commit()
    with plain.snapshot() as expected_rows, recorded.snapshot() as rows:
        assert [list(rows.scan(table)) for table in ("s", "st")] == [
            list(expected_rows.scan(table)) for table in ("s", "st")
        ]


def test_rows_may_be_deleted_while_scanning_and_others_written_and_scanned() -> None:
    environment = MemoryEnvironment(["s", "st"])
    recorder = Recorder(environment.transaction(), b"")
    for number in range(9):
        recorder.put("s", b"%d" % number, b"")
    for key, _ in recorder.scan("s"):
        assert recorder.delete("s", key)
        recorder.put("st", key, b"")
        assert next(recorder.scan("st", reverse=True)) == (key, b"")
    recorder.digest()
    assert (recorder.count("s"), recorder.count("st")) == (0, 9)


def test_large_rows_are_not_kept_and_the_newest_one_is_read() -> None:
    environment = MemoryEnvironment(["s"])
    environment.transaction().put("s", b"k", b"x" * 10_000)
    recorder = Recorder(environment.transaction(), b"")
    assert recorder.get("s", b"k") == b"x" * 10_000
    recorder.put("s", b"k", b"new")
    assert recorder.get("s", b"k") == b"new"
    assert (recorder.delete("s", b"k"), recorder.get("s", b"k")) == (True, None)


# ---- who is wrong
def wrong(heard: dict[str, bytes], *, leader: str | None = "b", voters: str = "abc") -> bool:
    comparison = Comparison(10)
    comparison.applied(10, b"own")
    for peer, digest in heard.items():
        comparison.heard(peer, 10, digest)
    return comparison.is_wrong(
        own="a", leader=leader, voters=set(voters), is_majority=lambda who: len(who & set(voters)) * 2 > len(voters)
    )


@pytest.mark.parametrize(
    ("heard", "leader", "voters", "expected"),
    [
        ({"b": b"own", "c": b"own"}, "b", "abc", False),
        ({"b": b"x", "c": b"x"}, "b", "abc", True),
        ({"b": b"x", "c": b"x"}, "a", "abc", True),  # a leader too
        ({"b": b"x"}, "b", "abc", False),  # c is not heard: it may agree with this one
        ({"b": b"x", "c": b"own"}, "b", "abc", False),  # the leader is the odd one
        ({"b": b"own", "c": b"x"}, "b", "abc", False),
        ({"b": b"x", "c": b"y"}, "b", "abc", True),  # all differ: callers were told what the leader has
        ({"b": b"x", "c": b"y"}, "a", "abc", False),
        ({"b": b"x", "c": b"y"}, None, "abc", False),
        ({"b": b"x"}, "b", "ab", True),
        ({"b": b"x"}, "a", "ab", False),
        ({"b": b"x", "c": b"x"}, "b", "bc", True),  # an observer
        ({"b": b"x", "c": b"own"}, "b", "bc", True),  # an observer, and the leader is not alone with its own
        ({"d": b"x", "e": b"x", "b": b"own"}, "b", "abc", False),  # observers decide nothing
        ({"b": b"x", "c": b"x", "d": b"own", "e": b"own"}, "b", "abcde", False),
        ({"b": b"x", "c": b"x", "d": b"x"}, "e", "abcde", True),
    ],
)
def test_who_is_wrong(heard: dict[str, bytes], leader: str | None, voters: str, expected: bool) -> None:
    assert wrong(heard, leader=leader, voters=voters) is expected


def test_only_digests_of_the_same_index_are_compared() -> None:
    comparison = Comparison(10)
    for index in range(1, 31):
        comparison.applied(index, b"%d" % index)
    assert (comparison.index, comparison.digest) == (30, b"30")
    for index, digest in ((10, b"10"), (25, b"other"), (40, b"other")):
        comparison.heard("b", index, digest)
        comparison.heard("c", index, digest)
    everybody = {"own": "a", "leader": "b", "voters": set("abc")}
    assert not comparison.is_wrong(**everybody, is_majority=lambda who: len(who) > 1)  # type: ignore[arg-type]
    comparison.heard("b", 20, b"other")
    comparison.heard("c", 20, b"other")
    assert comparison.is_wrong(**everybody, is_majority=lambda who: len(who) > 1)  # type: ignore[arg-type]
    comparison.restart()
    assert not comparison.is_wrong(**everybody, is_majority=lambda who: len(who) > 1)  # type: ignore[arg-type]
    assert (comparison.index, comparison.digest) == (0, b"")


def test_only_some_of_the_newest_are_remembered() -> None:
    comparison = Comparison(1)
    for index in range(1, 100):
        comparison.applied(index, b"own")
    for peer in "bc":
        comparison.heard(peer, 99 - Comparison.REMEMBERED, b"other")
    assert not comparison.is_wrong(own="a", leader="b", voters=set("abc"), is_majority=lambda who: len(who) > 1)
    for peer in "bc":
        comparison.heard(peer, 100 - Comparison.REMEMBERED, b"other")
    assert comparison.is_wrong(own="a", leader="b", voters=set("abc"), is_majority=lambda who: len(who) > 1)


# ---- the replica
def applied(disk: Disk | None = None, *commands: bytes) -> ReplicaBench:
    """Entries 2 and on are applied; states are compared at every second one."""
    bench = ReplicaBench(disk=disk, flow=Flow(digest_every=2))
    bench.follow(NO_OP, *[pack([command]) for command in commands], commit_index=bench.last + 1 + len(commands))
    return bench


def test_the_same_log_gives_the_same_digest_over_restarts() -> None:
    once = applied(None, b"x", b"y")
    twice = applied(None, b"x")
    twice.disk.crash()
    twice = ReplicaBench(disk=twice.disk, flow=Flow(digest_every=2))
    twice.answers(m.Append(2, 1, 4, 3, 1, [(1, pack([b"y"]))]))
    assert once.replica.journal.digest == twice.replica.journal.digest != b""
    assert applied(None, b"x", b"z").replica.journal.digest != once.replica.journal.digest


def test_everybody_is_told_how_far_it_is_and_the_newest_digest() -> None:
    bench = applied(None, b"x", b"y", b"z")
    bench.tick(after_s=REPORT_S)
    at_4 = applied(None, b"x", b"y").replica.journal.digest
    assert bench.reported == dict.fromkeys("bc", m.Report(5, 1, 4, at_4))


def test_a_member_that_differs_ends_and_never_starts_again() -> None:
    bench = applied(None, b"x", b"y")
    mine = bench.replica.journal.digest
    bench.tick(("b", m.Report(4, 1, 4, mine)), ("c", m.Report(4, 1, 4, b"other")))
    with pytest.raises(Diverged, match="differs from that of the others at log index 4, although the logs agree"):
        bench.tick(("b", m.Report(4, 1, 4, b"other")))
    bench.disk.crash()
    with pytest.raises(Diverged, match="at log index 4"):
        ReplicaBench(disk=bench.disk)


def test_a_member_that_agrees_goes_on_whatever_another_one_has() -> None:
    bench = applied(None, b"x", b"y")
    bench.tick(
        ("b", m.Report(4, 1, 4, bench.replica.journal.digest)),
        ("c", m.Report(4, 1, 4, b"other")),
        ("d", m.Report(4, 1, 4, b"other")),
        ("e", m.Report(4, 1, 4, b"other")),
    )
    assert bench.state() == b"xy"
