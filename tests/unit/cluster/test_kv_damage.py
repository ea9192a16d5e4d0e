"""What was changed on the disk behind our back is found when it is read: the contract of both twins, LMDB's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.kv.api import Damaged, Environment, Reader
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from tests.unit.cluster.test_kv import TABLES, Env, fill, keys

PAGE_BYTES = 4096
FLAGS, LOWER = 10, 12  # in a page's head
P_LEAF = 2


@pytest.fixture(params=["lmdb", "memory"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Env]:
    made: Env = LmdbEnvironment(tmp_path / "kv", TABLES) if request.param == "lmdb" else MemoryEnvironment(TABLES)
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LmdbEnvironment]:
    made = LmdbEnvironment(tmp_path / "kv", TABLES)
    yield made
    made.close()


def rewrite_file(environment: LmdbEnvironment, change: Callable[[bytearray], None]) -> None:
    """In place: what LMDB has mapped changes with it."""
    environment.checkpoint()
    file = environment._generation.directory / "data.mdb"
    with file.open("r+b") as opened:
        data = bytearray(opened.read())
        change(data)
        opened.seek(0)
        opened.write(data)


def replace_bytes(environment: LmdbEnvironment, old: bytes, new: bytes) -> None:
    def change(data: bytearray) -> None:
        assert old in data
        assert len(old) == len(new)
        data[:] = data.replace(old, new)

    rewrite_file(environment, change)


def change_leaves(environment: LmdbEnvironment, change: Callable[[memoryview], None]) -> None:
    def each(data: bytearray) -> None:
        pages = range(2 * PAGE_BYTES, len(data), PAGE_BYTES)
        for page in pages:
            if data[page + FLAGS] == P_LEAF:
                change(memoryview(data)[page : page + PAGE_BYTES])

    rewrite_file(environment, each)


def damage(environment: Env, key: bytes) -> None:
    """The row of this key in table a, whose value is "=" and the key."""
    if isinstance(environment, MemoryEnvironment):
        environment.damage("a", key)
    else:
        replace_bytes(environment, b"=" + key, b"#" + key)


def found(reader: Reader, key: bytes) -> Damaged:
    with pytest.raises(Damaged) as raised:
        reader.get("a", key)
    return raised.value


def scan_until_damaged(reader: Reader, start: bytes = b"", stop: bytes | None = None) -> tuple[list[bytes], bytes]:
    """Keys that were given out, and that of the damage."""
    seen = []
    try:
        for key, _ in reader.scan("a", start, stop):
            seen.append(key)
    except Damaged as error:
        return seen, error.key
    raise AssertionError(f"no damage was found, but {seen}")


def test_a_damaged_row_is_named_and_never_given_out(environment: Env) -> None:
    fill(environment, b"k1", b"k2", b"k3")
    damage(environment, b"k2")
    with environment.snapshot() as snapshot:
        for reader in (snapshot, environment.transaction()):
            error = found(reader, b"k2")
            assert (error.table, error.key) == ("a", b"k2")
            assert "table a, key b'k2'" in str(error)
            assert scan_until_damaged(reader) == ([b"k1"], b"k2")
            assert keys(reader, b"k2\0") == [b"k3"], "what is behind it can be read"
            assert (reader.get("a", b"k1"), reader.get("a", b"k3")) == (b"=k1", b"=k3")
            assert reader.count("a") == 3


def test_a_damaged_row_is_whole_again_once_it_is_written(environment: Env) -> None:
    fill(environment, b"k1", b"k2", b"k3")
    damage(environment, b"k1")
    damage(environment, b"k2")
    environment.transaction().put("a", b"k1", b"new")
    assert environment.transaction().delete("a", b"k2")
    assert environment.transaction().get("a", b"k1") == b"new"
    environment.commit()
    fill(environment, b"k4")
    with environment.snapshot() as reader:
        assert list(reader.scan("a")) == [(b"k1", b"new"), (b"k3", b"=k3"), (b"k4", b"=k4")]
        assert reader.get("a", b"k2") is None


def test_a_damaged_row_stays_so_beside_other_writes_and_goes_with_a_replacement(environment: Env) -> None:
    fill(environment, b"k1", b"k2")
    damage(environment, b"k1")
    with environment.snapshot() as early:
        fill(environment, b"k2")
        found(early, b"k1")
    if isinstance(environment, MemoryEnvironment):
        environment.crash()
    found(environment.transaction(), b"k1")
    environment.commit()
    incoming = environment.incoming()
    fill(incoming, b"k1")
    environment.replace(incoming)
    assert environment.transaction().get("a", b"k1") == b"=k1"


def test_what_was_written_and_not_committed_is_lost_and_the_damage_is_back() -> None:
    environment = MemoryEnvironment(TABLES)
    fill(environment, b"k1")
    environment.damage("a", b"k1")
    environment.transaction().put("a", b"k1", b"new")
    environment.crash()
    found(environment.transaction(), b"k1")


@pytest.mark.parametrize("value", [b"", b"v", b"value" * 5000])
@pytest.mark.parametrize("bit", range(8))
def test_every_byte_of_a_row_counts(disk: LmdbEnvironment, value: bytes, bit: int) -> None:
    """Of the value, of the checksum, and of a large value that has pages of its own."""
    disk.transaction().put("a", b"k1", value)
    disk.commit()
    disk.checkpoint()
    with disk._generation.lmdb.begin(db=disk._generation.tables["a"]) as transaction:
        row = transaction.get(b"k1")
    assert row is not None
    assert row[:-4] == value
    for place in {0, len(row) // 2, len(row) - 4, len(row) - 1}:
        changed = bytearray(row)
        changed[place] ^= 1 << bit
        replace_bytes(disk, row, bytes(changed))
        with disk.snapshot() as reader:
            assert found(reader, b"k1").key == b"k1"
        replace_bytes(disk, bytes(changed), row)
        with disk.snapshot() as reader:
            assert reader.get("a", b"k1") == value


def test_a_value_does_not_stand_for_another_row(disk: LmdbEnvironment) -> None:
    """Stored bytes moved whole to another key or table are not that row's."""
    fill(disk, b"k1", b"k2")
    disk.checkpoint()
    tables = disk._generation.tables
    with disk._generation.lmdb.begin(write=True) as transaction:
        row = transaction.get(b"k1", db=tables["a"]) or b""
        transaction.put(b"k2", row, db=tables["a"])
        transaction.put(b"k1", row, db=tables["b"])
    with disk.snapshot() as reader:
        found(reader, b"k2")
        with pytest.raises(Damaged):
            reader.get("b", b"k1")


@pytest.mark.parametrize(("changed", "seen"), [(b"key?", [b"key1"]), (b"key~", [b"key1"]), (b"zey2", [b"key1"])])
def test_a_changed_key_is_found_by_who_scans(disk: LmdbEnvironment, changed: bytes, seen: list[bytes]) -> None:
    """Also where it seems to be past the last key asked for, which would hide all that follows."""
    fill(disk, b"key1", b"key2", b"key3")
    replace_bytes(disk, b"key2", changed[:4])
    with disk.snapshot() as reader:
        with pytest.raises(Damaged) as raised:
            keys(reader, b"key", b"kez")
        assert raised.value.key == changed
        assert reader.get("a", b"key1") is not None
        assert scan_until_damaged(reader, b"key", b"kez") == (seen, changed)


def test_a_page_of_another_kind_is_damage(disk: LmdbEnvironment) -> None:
    fill(disk, *(b"%04d" % number for number in range(1000)))

    def no_leaf(page: memoryview) -> None:
        page[FLAGS] = 0

    change_leaves(disk, no_leaf)
    with disk.snapshot() as reader:
        found(reader, b"0500")
        found(reader, b"0001")  # what met such a page reads nothing more
    with disk.snapshot() as reader:
        assert scan_until_damaged(reader) == ([], b"")


def test_who_looks_at_such_a_page_keeps_nobody_from_going_on(disk: LmdbEnvironment) -> None:
    """Also beside what was committed and not taken in: what has to be known of the damage must be written."""
    fill(disk, *(b"%04d" % number for number in range(1000)))

    def no_leaf(page: memoryview) -> None:
        if b"=0500" in page.tobytes():
            page[FLAGS] = 0

    change_leaves(disk, no_leaf)
    for number in range(3):
        disk.transaction().put("b", b"%d" % number, b"")
        disk.commit()
        if number:
            with disk.peek() as reader:
                found(reader, b"0500")
        else:
            found(disk.transaction(), b"0500")
            disk.abort()
    with disk.snapshot() as reader:
        assert keys(reader, table="b") == [b"0", b"1", b"2"]
        assert reader.get("a", b"0000") == b"=0000"


def test_rows_that_a_page_has_lost_are_missed_by_who_reads_the_whole_table(disk: LmdbEnvironment) -> None:
    names = [b"%04d" % number for number in range(1000)]
    fill(disk, *names)

    def last_lost(page: memoryview) -> None:
        page[LOWER] -= 2  # the last entry of its directory

    change_leaves(disk, last_lost)
    with disk.snapshot() as reader:
        with pytest.raises(Damaged, match="of 1000 are to be found"):
            keys(reader)
        with pytest.raises(Damaged, match="of 1000 are to be found"):
            keys(reader, reverse=True)


def test_a_whole_scan_beside_writes_misses_nothing(environment: Environment) -> None:
    """Rows written or deleted meanwhile are not taken for lost ones."""
    fill(environment, b"k1", b"k2", b"k3")
    transaction = environment.transaction()
    for key, _ in transaction.scan("a"):
        transaction.delete("a", key)
    assert keys(transaction) == []
    transaction.put("a", b"k4", b"")
    assert keys(transaction) == [b"k4"]
