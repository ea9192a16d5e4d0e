"""What room is left, what is kept for an environment, and what happens on a disk that is full."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from tests.faults import leftovers
from tests.faults.disk import Disk
from tests.unit.cluster.test_kv import TABLES, Env, fill
from tests.unit.cluster.test_kv_compaction import contents, files

MIB = 1 << 20
MAP_BYTES = 16 * MIB
DISK_BYTES = 24 * MIB


@pytest.fixture(params=["lmdb", "memory"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Env]:
    made: Env
    if request.param == "lmdb":
        made = LmdbEnvironment(tmp_path / "kv", TABLES, map_size_bytes=MAP_BYTES)
    else:
        made = MemoryEnvironment(TABLES)
        made.capacity_bytes = MAP_BYTES
    yield made
    made.close()


def write(environment: Env, first: int, count: int) -> dict[bytes, bytes]:
    """Rows of 10 KB, a commit each ten, and a checkpoint."""
    rows = {b"%06d" % number: b"%d" % (number % 10) * 10_000 for number in range(first, first + count)}
    for number, (key, value) in enumerate(rows.items()):
        environment.transaction().put("a", key, value)
        if number % 10 == 9:
            environment.commit()
    environment.commit()
    environment.checkpoint()
    return rows


def test_headroom_goes_with_what_is_written_and_comes_back_with_what_is_deleted(environment: Env) -> None:
    empty = environment.headroom_bytes()
    assert MAP_BYTES - MIB < empty <= MAP_BYTES
    rows = write(environment, 0, 400)
    full = environment.headroom_bytes()
    assert empty - full == pytest.approx(5 * MIB if isinstance(environment, LmdbEnvironment) else 4 * MIB, rel=0.1)
    environment.transaction().put("a", b"open", bytes(MIB))
    assert environment.headroom_bytes() == full, "as of the last commit"
    environment.commit()
    assert full - environment.headroom_bytes() == pytest.approx(MIB, rel=0.1)
    environment.transaction().delete("a", b"open")
    for key in rows:
        environment.transaction().delete("a", key)
    environment.commit()
    environment.checkpoint()
    assert environment.headroom_bytes() > empty - MIB // 4


def test_setting_aside_takes_no_headroom(environment: Env) -> None:
    write(environment, 0, 100)
    before = environment.headroom_bytes()
    environment.set_aside(4 * MIB)
    environment.set_aside(4 * MIB)
    assert environment.headroom_bytes() == pytest.approx(before, rel=0.01)
    assert contents(environment).keys() == write(environment, 0, 100).keys()


def test_what_is_set_aside_is_behind_what_is_used_and_never_beyond_the_map(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES, map_size_bytes=MAP_BYTES)
    rows = write(environment, 0, 100)
    used = environment._generation.allocated_bytes()
    file = tmp_path / "kv" / "1.v3" / "data.mdb"
    for size, expected in ((0, used), (2 * MIB, used + 2 * MIB), (MIB, used + 2 * MIB), (64 * MIB, MAP_BYTES)):
        environment.set_aside(size)
        assert environment._generation.allocated_bytes() == file.stat().st_size == expected
    rows |= write(environment, 100, 800)
    assert file.stat().st_size == MAP_BYTES
    environment.close()
    environment = LmdbEnvironment(tmp_path / "kv", TABLES, map_size_bytes=MAP_BYTES)
    assert contents(environment) == rows
    compaction = environment.compaction()
    compaction.copy()
    assert 0 < compaction.finish() < MIB, "what is set aside will be set aside again"
    assert environment._generation.allocated_bytes() < MAP_BYTES - MIB
    assert contents(environment) == rows
    environment.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Disk]:
    if reason := leftovers.why_not():
        pytest.skip(f"no disk of our own: {reason}")
    made = Disk(tmp_path, "kv", DISK_BYTES)
    yield made
    made.unmount()


def fill_up(environment: Env, first: int) -> int:
    """Rows that were committed until the disk was full. The open transaction is lost, as when a process ends."""
    for number in range(first, 10_000):
        try:
            write(environment, number, 1)
        except (lmdb.Error, OSError):
            return number - first
    raise AssertionError("the disk takes everything")


def test_what_was_set_aside_can_be_written_on_a_full_disk(small: Disk) -> None:
    environment = LmdbEnvironment(small.path / "kv", TABLES)
    assert 0 < environment.headroom_bytes() < DISK_BYTES, "no more than the disk has"
    rows = write(environment, 0, 100)
    environment.set_aside(6 * MIB)
    small.fill()
    assert environment.headroom_bytes() == pytest.approx(6 * MIB, rel=0.1)
    written = fill_up(environment, 100)
    assert 6 * MIB // (3 * 4096) - 50 < written <= 6 * MIB // (3 * 4096)
    environment.close()
    environment = LmdbEnvironment(small.path / "kv", TABLES)
    rows |= {b"%06d" % number: b"%d" % (number % 10) * 10_000 for number in range(100, 100 + written)}
    rows |= {b"%06d" % (100 + written): b"%d" % ((100 + written) % 10) * 10_000}  # in the log, and nowhere else
    with environment.peek() as reader:
        assert dict(reader.scan("a")) == rows, "nothing committed is lost, nothing else is there"
    assert environment.headroom_bytes() < MIB
    environment.set_aside(MIB)  # there is nothing left to take
    small.free()
    assert contents(environment) == rows
    environment.set_aside(MIB)
    assert environment._generation.allocated_bytes() > 7 * MIB
    write(environment, 0, 100)
    environment.close()


def test_set_aside_takes_what_it_gets(small: Disk) -> None:
    environment = LmdbEnvironment(small.path / "kv", TABLES)
    fill(environment, b"1")
    before = environment.headroom_bytes()
    environment.set_aside(10 * DISK_BYTES)
    assert environment.headroom_bytes() <= before
    fill(environment, b"2")
    environment.close()


def test_without_room_for_the_copy_everything_stays_as_it_is(small: Disk) -> None:
    environment = LmdbEnvironment(small.path / "kv", TABLES)
    rows = write(environment, 0, 400)
    environment.set_aside(MIB)
    small.fill()
    compaction = environment.compaction()
    with pytest.raises(OSError, match="MiB are needed for the second file") as failed:
        compaction.copy()
    assert failed.value.errno == errno.ENOSPC
    assert not (small.path / "kv" / "2.v3").exists(), "it did not try"
    compaction.abandon()
    rows |= write(environment, 400, 20)
    assert contents(environment) == rows
    small.free()
    for key in list(rows)[:300]:
        environment.transaction().delete("a", key)
        del rows[key]
    environment.commit()
    environment.checkpoint()
    compaction = environment.compaction()
    compaction.copy()
    assert compaction.finish() > 3 * MIB
    assert contents(environment) == rows
    environment.close()
    assert files(small.path / "kv") == ["3.v3", "CURRENT"]


def test_tables_that_this_release_does_not_know_take_room_too(tmp_path: Path) -> None:
    environment = LmdbEnvironment(tmp_path / "kv", TABLES, map_size_bytes=MAP_BYTES)
    write(environment, 0, 400)
    before = environment.headroom_bytes()
    environment.close()
    environment = LmdbEnvironment(tmp_path / "kv", ["b"], map_size_bytes=MAP_BYTES)
    assert environment.headroom_bytes() == before
    environment.close()
