"""The contract of cluster.kv.api, for both environments."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.kv.api import Compaction, CompactionLost, Environment, Reader
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment

TABLES = ("a", "b")
Env = LmdbEnvironment | MemoryEnvironment


@pytest.fixture(params=["lmdb", "memory"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Env]:
    made: Env = LmdbEnvironment(tmp_path / "kv", TABLES) if request.param == "lmdb" else MemoryEnvironment(TABLES)
    yield made
    made.close()


def fill(environment: Environment, *keys: bytes) -> None:
    for key in keys:
        environment.transaction().put("a", key, b"=" + key)
    environment.commit()


@contextmanager
def crashed(environment: Env) -> Iterator[Env]:
    """What a power loss leaves now. One in memory goes on as that; of one on a disk it is a copy."""
    if isinstance(environment, MemoryEnvironment):
        environment.crash()
        yield environment
        return
    with TemporaryDirectory() as directory:
        copy = LmdbEnvironment(shutil.copytree(environment._root, Path(directory) / "kv"), environment.tables)
        yield copy
        copy.close()


def keys(
    reader: Reader, start: bytes = b"", stop: bytes | None = None, *, table: str = "a", reverse: bool = False
) -> list[bytes]:
    return [key for key, _ in reader.scan(table, start, stop, reverse=reverse)]


def test_get_returns_what_was_put_last(environment: Env) -> None:
    fill(environment, b"k")
    environment.transaction().put("a", b"k", b"new")
    assert environment.transaction().get("a", b"k") == b"new"
    assert environment.transaction().get("a", b"other") is None
    assert environment.transaction().get("b", b"k") is None


def test_a_commit_that_is_held_back_is_made_before_a_snapshot(environment: Env) -> None:
    environment.before_snapshot = environment.commit
    environment.transaction().put("a", b"k", b"v")
    with environment.snapshot() as reader:
        assert reader.get("a", b"k") == b"v"


def test_empty_values_are_values(environment: Env) -> None:
    environment.transaction().put("a", b"k", b"")
    environment.commit()
    with environment.snapshot() as reader:
        assert reader.get("a", b"k") == b""
        assert keys(reader) == [b"k"]


def test_delete_says_whether_the_row_was_there(environment: Env) -> None:
    fill(environment, b"k")
    transaction = environment.transaction()
    assert transaction.delete("a", b"k")
    assert not transaction.delete("a", b"k")
    assert not transaction.delete("a", b"never")
    assert transaction.get("a", b"k") is None


def test_many_rows_are_written_and_deleted_at_once(environment: Env) -> None:
    fill(environment, *(b"%03d" % number for number in range(300)))
    rows = {b"%03d" % number: None if number % 3 else b"new" for number in (*range(399, 99, -1), 7)}
    environment.transaction().write("a", rows)
    environment.transaction().write("b", {})
    environment.commit()
    expected = {b"%03d" % number: b"=%03d" % number for number in range(300)} | rows
    with environment.snapshot() as reader:
        assert dict(reader.scan("a")) == {key: value for key, value in expected.items() if value is not None}
        assert (reader.get("a", b"399"), reader.get("a", b"100"), reader.count("b")) == (b"new", None, 0)


def test_rows_written_at_once_are_met_by_a_scan_that_goes_on(environment: Env) -> None:
    fill(environment, *(b"%03d" % number for number in range(300)))
    transaction, seen = environment.transaction(), []
    for key, _ in transaction.scan("a"):
        seen.append(key)
        transaction.write("a", {key: None})
        transaction.write("b", {key: b"x"})
    assert (len(seen), transaction.count("a"), transaction.count("b")) == (300, 0, 300)


def test_a_snapshot_sees_only_what_is_committed(environment: Env) -> None:
    fill(environment, b"1", b"2")
    environment.checkpoint()
    transaction = environment.transaction()
    transaction.put("a", b"3", b"x")
    transaction.put("a", b"1", b"changed")
    transaction.delete("a", b"2")
    with environment.snapshot() as reader:
        assert keys(reader) == [b"1", b"2"]
        assert reader.get("a", b"1") == b"=1"
        assert reader.get("a", b"3") is None
    environment.commit()
    with environment.snapshot() as reader:
        assert list(reader.scan("a")) == [(b"1", b"changed"), (b"3", b"x")]


def test_a_snapshot_stays_as_it_is_while_commits_go_on(environment: Environment) -> None:
    fill(environment, b"1", b"2", b"3")
    with ExitStack() as first, ExitStack() as second:
        early = first.enter_context(environment.snapshot())
        rows = early.scan("a")
        assert next(rows) == (b"1", b"=1")
        environment.transaction().delete("a", b"2")
        environment.transaction().put("a", b"3", b"changed")
        fill(environment, b"4")
        late = second.enter_context(environment.snapshot())
        environment.transaction().put("b", b"5", b"")
        fill(environment, b"5")
        assert list(rows) == [(b"2", b"=2"), (b"3", b"=3")]
        assert (keys(early), early.count("a"), early.count("b")) == ([b"1", b"2", b"3"], 3, 0)
        assert list(late.scan("a")) == [(b"1", b"=1"), (b"3", b"changed"), (b"4", b"=4")]
        assert keys(late, table="b") == []
    with environment.snapshot() as reader:
        assert keys(reader) == [b"1", b"3", b"4", b"5"]


def test_count_is_of_what_the_reader_sees(environment: Env) -> None:
    fill(environment, b"1", b"2")
    environment.checkpoint()
    transaction = environment.transaction()
    for key in (b"2", b"3", b"3", b"4"):
        transaction.put("a", key, b"new")
    assert transaction.count("a") == 4
    for key in (b"1", b"1", b"4", b"never"):
        transaction.delete("a", key)
    assert (transaction.count("a"), transaction.count("b")) == (2, 0)
    with environment.snapshot() as reader:
        assert reader.count("a") == 2
        assert keys(reader) == [b"1", b"2"]
    environment.commit()
    with environment.snapshot() as reader:
        assert keys(reader) == [b"2", b"3"]
        assert reader.count("a") == 2


def test_size_is_about_what_a_table_takes(environment: Env) -> None:
    assert environment.tables == TABLES
    assert environment.size_bytes("a") == 0
    for number in range(100):
        environment.transaction().put("a", b"%d" % number, b"x" * 10_000)
    assert 1_000_000 <= environment.size_bytes("a") < 1_500_000
    environment.commit()
    assert 1_000_000 <= environment.size_bytes("a") < 1_500_000
    assert environment.size_bytes("b") == 0
    environment.checkpoint()  # in one transaction, LMDB leaves a shorter value in the pages of the longer one
    for number in range(100):
        if number % 2:
            environment.transaction().delete("a", b"%d" % number)
        else:
            environment.transaction().put("a", b"%d" % number, b"x" * 5_000)
    environment.commit()
    assert 250_000 <= environment.size_bytes("a") < 500_000


def test_there_is_one_open_transaction_until_the_commit(environment: Env) -> None:
    first = environment.transaction()
    assert environment.transaction() is first
    fill(environment, b"1")
    environment.transaction().put("a", b"2", b"of the next one")
    environment.abort()
    assert environment.transaction() is not first
    assert keys(environment.transaction()) == [b"1"]


def test_commit_without_a_transaction_does_nothing(environment: Env) -> None:
    environment.commit()
    fill(environment, b"1")
    environment.commit()
    with environment.snapshot() as reader:
        assert keys(reader) == [b"1"]


def test_unsynced_commits_are_a_suffix_that_a_crash_takes(environment: Env) -> None:
    fill(environment, b"1", b"2")
    transaction = environment.transaction()
    transaction.put("a", b"1", b"changed")
    transaction.delete("a", b"2")
    environment.commit(synced=False)
    environment.transaction().put("a", b"3", b"")
    environment.commit(synced=False)
    with environment.peek() as reader:
        assert list(reader.scan("a")) == [(b"1", b"changed"), (b"3", b"")]
    with crashed(environment) as again:
        assert list(again.transaction().scan("a")) == [(b"1", b"=1"), (b"2", b"=2")]


@pytest.mark.parametrize("next_one", ["writes", "has read", "nothing"])
def test_the_next_synced_commit_keeps_those_before_it(environment: Env, next_one: str) -> None:
    fill(environment, b"1")
    for key in (b"2", b"3"):
        environment.transaction().put("a", key, b"")
        environment.transaction().delete("a", b"1")
        environment.commit(synced=False)
    if next_one == "writes":
        environment.transaction().put("b", b"k", b"")
    elif next_one == "has read":
        environment.transaction().get("a", b"1")
    environment.commit()
    environment.transaction().put("a", b"4", b"")
    environment.commit(synced=False)
    with crashed(environment) as again:
        assert keys(again.transaction()) == [b"2", b"3"]


def test_a_peek_shows_what_was_written_and_forbids_to_write(environment: Env) -> None:
    with environment.peek() as reader:
        assert keys(reader) == []
    fill(environment, b"1")
    environment.transaction().put("a", b"2", b"")
    with environment.peek() as reader, environment.peek() as beside:
        assert keys(reader) == keys(beside) == [b"1", b"2"]
        assert (reader.get("a", b"1"), reader.count("a")) == (b"=1", 2)
        with pytest.raises(AssertionError, match="while somebody looks"):
            environment.transaction()
    environment.transaction().put("a", b"3", b"")
    environment.commit()
    with environment.peek() as reader:
        assert keys(reader) == [b"1", b"2", b"3"]


def test_a_commit_that_is_held_back_is_made_before_a_peek(environment: Env) -> None:
    environment.before_snapshot = environment.commit
    environment.transaction().put("a", b"k", b"v")
    with environment.peek() as reader:
        assert reader.get("a", b"k") == b"v"
    environment.before_snapshot = lambda: None
    environment.abort()
    assert keys(environment.transaction()) == [b"k"]


def test_abort_undoes_what_was_written_since_the_last_commit(environment: Env) -> None:
    environment.abort()
    fill(environment, b"1", b"2")
    environment.transaction().delete("a", b"2")
    environment.commit(synced=False)
    for _ in range(2):
        environment.transaction().put("a", b"1", b"changed")
        environment.transaction().put("a", b"3", b"")
        environment.transaction().put("b", b"3", b"")
        environment.abort()
        assert list(environment.transaction().scan("a")) == [(b"1", b"=1")]
        assert environment.transaction().count("b") == 0
    environment.abort()
    fill(environment, b"4")
    with crashed(environment) as again:
        assert keys(again.transaction()) == [b"1", b"4"]


def test_a_checkpoint_leaves_an_open_transaction_alone(environment: Env) -> None:
    fill(environment, b"1")
    environment.checkpoint()
    assert not environment.is_behind
    environment.transaction().put("a", b"2", b"")
    environment.checkpoint()
    with environment.snapshot() as reader:
        assert keys(reader) == [b"1"]
    assert keys(environment.transaction()) == [b"1", b"2"]
    environment.abort()
    environment.checkpoint()
    with environment.snapshot() as reader:
        assert keys(reader) == keys(environment.transaction()) == [b"1"]
    fill(environment, b"3")
    environment.checkpoint()
    with crashed(environment) as again:
        assert keys(again.transaction()) == [b"1", b"3"]


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (b"", None, [b"b", b"d", b"f"]),
        (b"b", None, [b"b", b"d", b"f"]),
        (b"c", None, [b"d", b"f"]),
        (b"b\0", b"f", [b"d"]),
        (b"", b"b", []),
        (b"", b"", []),
        (b"c", b"c", []),
        (b"d", b"c", []),
        (b"g", None, []),
        (b"", b"zz", [b"b", b"d", b"f"]),
    ],
)
def test_scan_bounds(environment: Env, start: bytes, stop: bytes | None, expected: list[bytes]) -> None:
    fill(environment, b"b", b"d", b"f")
    with environment.snapshot() as reader:
        assert keys(reader, start, stop) == expected
        assert keys(reader, start, stop, reverse=True) == expected[::-1]
    assert keys(environment.transaction(), start, stop) == expected
    assert keys(environment.transaction(), start, stop, reverse=True) == expected[::-1]


def test_scan_of_an_empty_table(environment: Env) -> None:
    with environment.snapshot() as reader:
        assert keys(reader) == keys(reader, reverse=True) == keys(reader, b"x", b"y", reverse=True) == []


def test_a_transaction_scans_its_own_writes_in_order(environment: Env) -> None:
    fill(environment, b"b", b"d", b"f")
    transaction = environment.transaction()
    transaction.put("a", b"a", b"")
    transaction.put("a", b"e", b"")
    transaction.put("a", b"g", b"")
    transaction.delete("a", b"d")
    assert keys(transaction) == [b"a", b"b", b"e", b"f", b"g"]
    assert keys(transaction, reverse=True) == [b"g", b"f", b"e", b"b", b"a"]
    assert keys(transaction, b"b", b"f") == [b"b", b"e"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("uncommitted", [False, True])
def test_rows_already_passed_may_be_deleted_while_scanning(environment: Env, reverse: bool, uncommitted: bool) -> None:
    names = [b"%04d" % number for number in range(1000)]  # several pages of LMDB
    if uncommitted:
        for name in names:
            environment.transaction().put("a", name, b"x" * 20)
    else:
        fill(environment, *names)
    transaction = environment.transaction()
    seen = []
    for key, _ in transaction.scan("a", names[10], names[990], reverse=reverse):
        seen.append(key)
        if int(key) % 3:
            assert transaction.delete("a", key)
    expected = names[10:990]
    assert seen == (expected[::-1] if reverse else expected)
    assert keys(transaction, names[10], names[990]) == [name for name in expected if int(name) % 3 == 0]


def test_tables_are_apart_and_an_unknown_one_is_a_defect(environment: Env) -> None:
    environment.transaction().put("a", b"k", b"a")
    environment.transaction().put("b", b"k", b"b")
    environment.commit()
    with environment.snapshot() as reader:
        assert (reader.get("a", b"k"), reader.get("b", b"k")) == (b"a", b"b")
        with pytest.raises(KeyError):
            reader.get("c", b"k")
    with pytest.raises(KeyError):
        environment.transaction().put("c", b"k", b"")


@pytest.mark.parametrize("key", [b"", b"x" * 512])
def test_keys_have_1_to_511_bytes(environment: Env, key: bytes) -> None:
    with pytest.raises((ValueError, lmdb.BadValsizeError)):
        environment.transaction().put("a", key, b"")
    with pytest.raises((ValueError, lmdb.BadValsizeError)):
        environment.transaction().write("a", {key: b""})
    environment.transaction().put("a", b"x" * 511, b"")


def test_power_loss_keeps_what_was_committed_and_no_more() -> None:
    environment = MemoryEnvironment(TABLES)
    fill(environment, b"1")
    environment.transaction().put("a", b"2", b"")
    environment.transaction().delete("a", b"1")
    environment.crash()
    assert keys(environment.transaction()) == [b"1"]


def test_a_reopened_lmdb_has_what_was_committed_and_no_more(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    fill(environment, b"1")
    environment.transaction().put("a", b"2", b"")
    environment.close()
    environment = LmdbEnvironment(tmp_path / "kv", (*TABLES, "added"))
    with environment.snapshot() as reader:
        assert keys(reader) == [b"1"]
        assert keys(reader, table="added") == []
    environment.close()


def test_a_full_map_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES, map_size_bytes=1 << 20)
    fill(environment, b"1")
    with pytest.raises(lmdb.MapFullError):
        environment.transaction().put("a", b"2", b"x" * (2 << 20))
    environment.abort()
    with pytest.raises(lmdb.MapFullError):
        environment.transaction().write("a", {b"%d" % number: b"x" * (1 << 16) for number in range(32)})
    environment.close()
    environment = LmdbEnvironment(tmp_path / "kv", TABLES, map_size_bytes=1 << 20)
    with environment.snapshot() as reader:
        assert keys(reader) == [b"1"]
    environment.close()


def test_the_directory_is_private_and_sparse(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES)
    fill(environment, b"1")
    file = tmp_path / "kv" / "1.v3" / "data.mdb"
    assert file.stat().st_mode & 0o077 == (tmp_path / "kv").stat().st_mode & 0o077 == 0
    assert file.stat().st_blocks * 512 < 1 << 20
    environment.close()


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.binary(min_size=1, max_size=2), st.binary(max_size=3)),
        st.tuples(st.just("delete"), st.binary(min_size=1, max_size=2), st.none()),
        st.tuples(st.just("commit"), st.none(), st.none()),
        st.tuples(st.just("lose"), st.none(), st.none()),
        st.tuples(st.just("hold"), st.none(), st.none()),
        st.tuples(st.sampled_from(["compact", "copy", "finish"]), st.none(), st.none()),
        st.tuples(st.just("replace"), st.binary(min_size=1, max_size=2), st.binary(max_size=3)),
        st.tuples(st.just("scan"), st.binary(max_size=2), st.one_of(st.none(), st.binary(max_size=2))),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_both_do_the_same_as_a_dict(
    steps: list[tuple[str, bytes, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("kv")
    memory, disk = MemoryEnvironment(TABLES), LmdbEnvironment(directory / "kv", TABLES)
    committed: dict[bytes, bytes] = {}
    rows: dict[bytes, bytes] = {}
    held: list[tuple[Reader, dict[bytes, bytes]]] = []
    compactions: list[Compaction] = []
    snapshots = ExitStack()
    try:
        for action, key, value in steps:
            if action == "put":
                rows[key] = value
                memory.transaction().put("a", key, value)
                disk.transaction().put("a", key, value)
            elif action == "delete":
                was = rows.pop(key, None) is not None
                assert memory.transaction().delete("a", key) == disk.transaction().delete("a", key) == was
            elif action == "commit":
                memory.commit()
                disk.commit()
                committed = dict(rows)
            elif action == "hold":
                both: tuple[Environment, ...] = (memory, disk)
                held += [(snapshots.enter_context(each.snapshot()), dict(committed)) for each in both]
            elif action == "replace":
                for environment in (memory, disk):
                    environment.commit()
                    incoming = environment.incoming()
                    incoming.transaction().put("a", key, value)
                    incoming.commit()
                    environment.replace(incoming)
                rows, committed = {key: value}, {key: value}
            elif action == "compact":
                compactions = [memory.compaction(), disk.compaction()]
                assert copied(*compactions)
            elif action == "copy":
                copied(*compactions)
            elif action == "finish":
                if copied(*compactions):
                    memory.commit()
                    disk.commit()
                    committed = dict(rows)
                    for compaction in compactions:
                        compaction.finish()
            elif action == "lose":
                check_held(held)
                held.clear()
                snapshots.close()
                memory.crash()
                disk.close()
                disk = LmdbEnvironment(directory / "kv", TABLES)
                rows = dict(committed)
            else:
                expected = [row for row in sorted(rows.items()) if key <= row[0] and (value is None or row[0] < value)]
                for environment in (memory, disk):
                    assert list(environment.transaction().scan("a", key, value)) == expected
                    assert list(environment.transaction().scan("a", key, value, reverse=True)) == expected[::-1]
            for environment in (memory, disk):
                with environment.peek() as reader:
                    assert list(reader.scan("a")) == sorted(rows.items())
                with environment.snapshot() as reader:
                    assert list(reader.scan("a")) == sorted(committed.items())
                    assert reader.count("a") == len(committed)
                assert environment.transaction().count("a") == len(rows)
        check_held(held)
    finally:
        snapshots.close()
        disk.close()


def copied(*compactions: Compaction) -> bool:
    """Whether there are any, and both can go on."""
    lost = 0
    for compaction in compactions:
        try:
            compaction.copy()
        except CompactionLost:
            lost += 1
    assert lost in (0, len(compactions))
    return not lost and bool(compactions)


def check_held(held: list[tuple[Reader, dict[bytes, bytes]]]) -> None:
    for reader, expected in held:
        assert list(reader.scan("a")) == sorted(expected.items())
        assert reader.count("a") == len(expected)
