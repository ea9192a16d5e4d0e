"""An environment rewritten without its free pages while it is written to: the contract of both twins, LMDB's files."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from cluster.kv import compaction
from cluster.kv.api import CompactionLost, Damaged, Environment
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.memory_env import MemoryEnvironment
from tests.unit.cluster.test_kv import TABLES, Env, fill, keys
from tests.unit.cluster.test_kv_damage import FLAGS, change_leaves, replace_bytes


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


def files(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


def half_empty(environment: Environment, rows: int = 400) -> dict[bytes, bytes]:
    """Rows of 5 KB, of which every other one was deleted."""
    kept = {}
    for number in range(rows):
        key, value = b"%06d" % number, b"%d" % number * 1000
        environment.transaction().put("a", key, value)
        if number % 2:
            kept[key] = value
    environment.commit()
    environment.checkpoint()
    for number in range(0, rows, 2):
        environment.transaction().delete("a", b"%06d" % number)
    environment.commit()
    environment.checkpoint()
    return kept


def contents(environment: Environment, table: str = "a") -> dict[bytes, bytes]:
    with environment.snapshot() as reader:
        rows = dict(reader.scan(table))
        assert reader.count(table) == len(rows)
        return rows


def test_the_rows_stay_and_what_comes_after_too(environment: Env) -> None:
    rows = half_empty(environment)
    compaction = environment.compaction()
    assert compaction.copy() == 0
    assert compaction.finish() >= 0
    assert contents(environment) == rows
    fill(environment, b"after")
    assert contents(environment) == rows | {b"after": b"=after"}
    again = environment.compaction()
    again.copy()
    again.finish()
    assert contents(environment) == rows | {b"after": b"=after"}


def test_what_is_written_between_the_steps_is_carried_along(environment: Env) -> None:
    rows = half_empty(environment)
    environment.transaction().put("a", b"open", b"when it began")
    compaction = environment.compaction()
    environment.transaction().put("a", b"open too", b"")
    environment.commit()
    compaction.copy()
    for step in (b"1", b"2"):
        environment.transaction().put("a", b"added " + step, step)
        environment.transaction().put("a", b"000001", b"changed " + step)
        environment.transaction().put("b", b"000001", b"of another table " + step)
        environment.transaction().delete("a", b"%06d" % (2 * int(step) + 1))
        environment.transaction().put("a", b"come and gone", b"")
        environment.commit()
        environment.transaction().delete("a", b"come and gone")
        environment.commit()
        if step == b"1":
            compaction.copy()
    expected = contents(environment)
    compaction.finish()
    assert contents(environment) == expected
    for key in (b"000003", b"000005"):
        del rows[key]
    rows |= {b"open": b"when it began", b"open too": b"", b"added 1": b"1", b"added 2": b"2", b"000001": b"changed 2"}
    assert expected == rows
    assert contents(environment, "b") == {b"000001": b"of another table 2"}


def lose_by_replacing(environment: Env) -> None:
    incoming = environment.incoming()
    fill(incoming, b"replaced")
    environment.replace(incoming)


@pytest.mark.parametrize("copied", [0, 1, 2])
def test_a_replacement_takes_the_compaction_along(environment: Env, copied: int) -> None:
    half_empty(environment)
    compaction = environment.compaction()
    for _ in range(copied):
        compaction.copy()
    lose_by_replacing(environment)
    for step in (compaction.copy, compaction.finish):
        with pytest.raises(CompactionLost):
            step()
    compaction.abandon()
    assert contents(environment) == {b"replaced": b"=replaced"}
    again = environment.compaction()
    again.copy()
    again.finish()
    assert contents(environment) == {b"replaced": b"=replaced"}


def test_one_that_was_abandoned_or_begun_again_or_finished_is_over(environment: Env) -> None:
    rows = half_empty(environment)
    first = environment.compaction()
    first.copy()
    second = environment.compaction()
    with pytest.raises(CompactionLost):
        first.copy()
    second.copy()
    second.abandon()
    second.abandon()
    with pytest.raises(CompactionLost):
        second.finish()
    third = environment.compaction()
    third.copy()
    third.finish()
    third.abandon()
    with pytest.raises(CompactionLost):
        third.finish()
    fourth = environment.compaction()
    fourth.copy()
    environment.close()
    with pytest.raises(CompactionLost):
        fourth.copy()
    if isinstance(environment, MemoryEnvironment):
        assert contents(environment) == rows


def test_an_incoming_environment_beside_it_outlives_it(environment: Env) -> None:
    half_empty(environment)
    incoming = environment.incoming()
    compaction = environment.compaction()
    fill(incoming, b"new")
    compaction.copy()
    compaction.finish()
    environment.replace(incoming)
    assert contents(environment) == {b"new": b"=new"}


def test_space_is_given_back(disk: LmdbEnvironment, tmp_path: Path) -> None:
    rows = half_empty(disk)
    before = disk._generation.allocated_bytes()
    compaction = disk.compaction()
    compaction.copy()
    given_back = compaction.finish()
    after = (tmp_path / "kv" / "2.v3" / "data.mdb").stat()
    assert before - after.st_size == given_back
    assert given_back > before // 3
    assert after.st_mode & 0o077 == 0
    assert disk._generation.lmdb.flags()["sync"]
    disk.close()
    assert files(tmp_path / "kv") == ["2.v3", "CURRENT"]
    again = LmdbEnvironment(tmp_path / "kv", TABLES)
    assert contents(again) == rows
    again.close()


def test_of_what_was_deleted_before_nothing_is_left(disk: LmdbEnvironment, tmp_path: Path) -> None:
    """Neither in pages of the new file nor in a log; also beside a commit that is held back."""
    disk.transaction().put("a", b"k", b"secret" * 1000)
    disk.commit()
    disk.checkpoint()
    disk.transaction().delete("a", b"k")
    disk.commit()
    disk.transaction().put("a", b"held back", b"")
    disk.before_snapshot = disk.commit
    compaction = disk.compaction()
    compaction.copy()
    fill(disk, b"later")
    compaction.finish()
    disk.close()
    left = [path for path in (tmp_path / "kv").rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["CURRENT", "data.mdb", "lock.mdb", "wal"]
    assert not [path for path in left if b"secret" in path.read_bytes()]


def test_what_is_lost_leaves_no_files(disk: LmdbEnvironment, tmp_path: Path) -> None:
    half_empty(disk)
    for lose in (lambda compaction: compaction.abandon(), lambda _: lose_by_replacing(disk)):
        compaction = disk.compaction()
        compaction.copy()
        assert len(files(tmp_path / "kv")) == 3
        lose(compaction)
    disk.compaction().copy()
    disk.close()
    assert files(tmp_path / "kv") == ["4.v3", "CURRENT"]


def test_snapshots_keep_the_old_files_until_they_end(disk: LmdbEnvironment, tmp_path: Path) -> None:
    rows = half_empty(disk)
    with disk.snapshot() as early:
        compaction = disk.compaction()
        compaction.copy()
        compaction.finish()
        fill(disk, b"after")
        assert dict(early.scan("a")) == rows
        assert files(tmp_path / "kv") == ["1.v3", "2.v3", "CURRENT"]
    disk.close()
    assert files(tmp_path / "kv") == ["2.v3", "CURRENT"]


def test_killed_between_the_steps_the_old_one_is_whole(disk: LmdbEnvironment, tmp_path: Path) -> None:
    rows = half_empty(disk)
    images: list[tuple[Path, dict[bytes, bytes]]] = []

    def image() -> None:
        images.append((shutil.copytree(tmp_path / "kv", tmp_path / str(len(images))), dict(rows)))

    compaction = disk.compaction()
    image()
    for number in range(3):
        compaction.copy()
        image()
        fill(disk, b"%d" % number)
        rows[b"%d" % number] = b"=%d" % number
        image()
    for path, expected in images:
        environment = LmdbEnvironment(path, TABLES)
        assert contents(environment) == expected
        assert files(path) == ["1.v3", "CURRENT"]
        environment.close()


STEPS = ["fsync CURRENT.new", "replace", "fsync kv"]


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
def test_taking_the_place_is_one_durable_step(disk: LmdbEnvironment, tmp_path: Path, done: int) -> None:
    """Cut off anywhere, the old or the new one is opened again; nothing more is written to one that may not count."""
    rows = half_empty(disk)
    compaction = disk.compaction()
    compaction.copy()
    fill(disk, b"late")
    rows[b"late"] = b"=late"
    steps: list[str] = []

    def wrap(patch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(os, name)

        def step(*arguments: Any) -> None:
            if len(steps) == done:
                raise InterruptedError("no power")
            steps.append(
                f"fsync {Path(os.readlink(f'/proc/self/fd/{arguments[0]}')).name}" if name == "fsync" else name
            )
            real(*arguments)

        patch.setattr(os, name, step)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace"):
            wrap(patch, name)
        if done < len(STEPS):
            with pytest.raises(InterruptedError):
                compaction.finish()
        else:
            compaction.finish()
    assert steps == STEPS[:done]
    compaction.abandon()
    has_switched = "replace" in steps
    if done == len(STEPS) or not has_switched:
        fill(disk, b"later")
        rows[b"later"] = b"=later"
    else:
        with pytest.raises(Exception, match="closed"):
            disk.transaction()
    disk.close()
    assert (tmp_path / "kv" / "CURRENT").read_text() == ("2.v3\n" if has_switched else "1.v3\n")
    again = LmdbEnvironment(tmp_path / "kv", TABLES)
    assert contents(again) == rows
    again.close()


def test_a_damaged_row_is_not_made_right(disk: LmdbEnvironment) -> None:
    rows = half_empty(disk)
    fill(disk, b"bad", b"touched and bad")
    replace_bytes(disk, b"=bad", b"#bad")
    compaction = disk.compaction()
    compaction.copy()
    fill(disk, b"touched and bad")
    replace_bytes(disk, b"=touched and bad", b"#touched and bad")
    compaction.finish()
    with disk.snapshot() as reader:
        for key in (b"bad", b"touched and bad"):
            with pytest.raises(Damaged):
                reader.get("a", key)
        assert reader.get("a", b"000001") == rows[b"000001"]


def test_tables_of_a_newer_release_stay(disk: LmdbEnvironment, tmp_path: Path) -> None:
    disk.close()
    newer = LmdbEnvironment(tmp_path / "kv", (*TABLES, "newer"))
    newer.transaction().put("newer", b"k", b"v")
    newer.commit()
    newer.close()
    older = LmdbEnvironment(tmp_path / "kv", TABLES)
    compaction = older.compaction()
    compaction.copy()
    compaction.finish()
    older.close()
    newer = LmdbEnvironment(tmp_path / "kv", (*TABLES, "newer"))
    assert contents(newer, "newer") == {b"k": b"v"}
    newer.close()


def write_something(environment: Environment, model: dict[tuple[str, bytes], bytes], rng: Random) -> None:
    """One commit of a few puts and deletes."""
    for _ in range(rng.randrange(1, 8)):
        table, key = rng.choice(TABLES), b"%06d" % rng.randrange(3000)
        if rng.random() < 0.3:
            assert environment.transaction().delete(table, key) == (model.pop((table, key), None) is not None)
        else:
            model[table, key] = rng.randbytes(rng.choice((0, 10, 5000)))
            environment.transaction().put(table, key, model[table, key])
    environment.commit()


async def test_no_row_is_lost_to_who_writes_all_the_time(environment: Env) -> None:
    """The copies run in a thread; the writers of this one stop for nothing but the last step."""
    rng = Random(5)
    model = {("a", key): value for key, value in half_empty(environment, 3000).items()}
    written = 0
    for _ in range(4):
        compaction = environment.compaction()
        for _ in range(3):
            copying = asyncio.create_task(asyncio.to_thread(compaction.copy))
            while not copying.done():
                write_something(environment, model, rng)
                written += 1
                await asyncio.sleep(0)
            assert await copying >= 0
        for _ in range(3):
            write_something(environment, model, rng)
        compaction.finish()
        write_something(environment, model, rng)
        for table in TABLES:
            assert contents(environment, table) == {key: row for (of, key), row in model.items() if of == table}
    assert written > 10


def test_a_commit_just_when_a_copy_begins_is_in_it_or_in_the_next(disk: LmdbEnvironment) -> None:
    rows = half_empty(disk)
    compaction = disk.compaction()
    real = compaction._take
    written: list[bytes] = []

    def write() -> None:
        written.append(b"written %d" % len(written))
        fill(disk, written[-1])
        disk.checkpoint()

    def take() -> Any:
        write()
        taken = real()
        write()
        return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "_take", take)
        for _ in range(3):
            assert compaction.copy() == 1, "the one after"
    compaction.finish()
    assert len(written) == 6
    assert contents(disk) == rows | {key: b"=" + key for key in written}


@pytest.mark.parametrize("how", ["abandon", "close", "replace", "begin again"])
def test_a_copy_on_its_way_is_given_up(disk: LmdbEnvironment, tmp_path: Path, how: str) -> None:
    """And waited for: nothing that it reads is closed under it."""
    half_empty(disk, 4000)
    compaction = disk.compaction()
    began, goes_on = threading.Event(), threading.Event()
    ended: list[BaseException] = []
    real_splice, real_copy = os.splice, compaction._copy_all

    def splice(*arguments: Any) -> int:
        began.set()
        goes_on.wait()
        return real_splice(*arguments)

    def copy_all() -> None:
        try:
            real_copy()
        except BaseException as error:
            ended.append(error)
            raise

    def copy() -> None:
        with pytest.raises(CompactionLost):
            compaction.copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "splice", splice)
        patch.setattr(compaction, "_copy_all", copy_all)
        thread = threading.Thread(target=copy)
        thread.start()
        began.wait()
        threading.Timer(0.01, goes_on.set).start()  # or before: then the copy gets on until it looks
        if how == "abandon":
            compaction.abandon()
        elif how == "close":
            disk.close()
        elif how == "replace":
            lose_by_replacing(disk)
        else:
            disk.compaction()
        assert [type(error) for error in ended] == [CompactionLost], "it was not waited for"
        thread.join()
    disk.close()
    assert len(files(tmp_path / "kv")) == 2


def test_a_copy_that_fails_leaves_the_environment_as_it_was(disk: LmdbEnvironment, tmp_path: Path) -> None:
    rows = half_empty(disk)
    compaction = disk.compaction()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "splice", _no_room)
        with pytest.raises(OSError, match="No space"):
            compaction.copy()
    with pytest.raises(CompactionLost):
        compaction.copy()
    compaction.abandon()
    fill(disk, b"after")
    assert contents(disk) == rows | {b"after": b"=after"}
    disk.close()
    assert files(tmp_path / "kv") == ["1.v3", "CURRENT"]


def _no_room(*_: Any) -> int:
    raise OSError(28, "No space left on device")


def test_a_page_that_cannot_be_read_ends_the_copy(disk: LmdbEnvironment) -> None:
    fill(disk, *(b"%04d" % number for number in range(1000)))

    def no_leaf(page: memoryview) -> None:
        page[FLAGS] = 0

    change_leaves(disk, no_leaf)
    compaction = disk.compaction()
    with pytest.raises(Damaged):
        compaction.copy()
    compaction.abandon()


def test_more_changes_than_are_kept_account_of_end_the_copy(
    disk: LmdbEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "COMPACTION_TOUCHED", 3)
    kept = half_empty(disk)
    copying = disk.compaction()
    for number in range(3):
        fill(disk, b"%d" % number)
    assert copying.changed() == 3
    assert copying.copy() == 0  # they were copied with the rest
    for number in range(4):
        fill(disk, b"%d" % number)
    with pytest.raises(CompactionLost):  # it learns of them in its own checkpoint
        copying.finish()
    copying.abandon()
    assert contents(disk).items() >= kept.items()
    disk.close()
    assert len(files(tmp_path / "kv")) == 2


def test_nothing_takes_the_place_under_an_open_transaction(disk: LmdbEnvironment) -> None:
    rows = half_empty(disk)
    compaction = disk.compaction()
    compaction.copy()
    disk.transaction().put("a", b"open", b"")
    with pytest.raises(AssertionError, match="a transaction is open"):
        compaction.finish()
    disk.commit()
    assert contents(disk) == rows | {b"open": b""}
    assert keys(disk.transaction(), b"open") == [b"open"]
