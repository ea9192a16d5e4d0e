"""The write-ahead log: what it gives back whatever became of the file, and the environment that stands on it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any
from zlib import crc32

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.kv import generation
from cluster.kv.api import Damaged
from cluster.kv.generation import CHECKPOINTS, Generation
from cluster.kv.lmdb_env import LmdbEnvironment
from cluster.kv.wal import GROW_BYTES, KEY_BYTES, MAGIC, Row, Wal, WalDamaged, encode
from cluster.limits import WAL_BYTES
from tests.unit.cluster.test_kv import TABLES, Env, crashed, fill, keys
from tests.unit.cluster.test_kv_damage import FLAGS, P_LEAF, PAGE_BYTES, replace_bytes

Commits = list[list[Row]]
KEY = bytes(range(KEY_BYTES))
HEADER = Struct(">4sQIII16s")
COMMITS: Commits = [
    [("a", b"k1", b"v1")],
    [("a", b"k2", b"v2" * 20), ("b", b"k1", None)],
    [("a", b"k1", None)],
    [("b", b"\0", b"last")],
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LmdbEnvironment]:
    made = LmdbEnvironment(tmp_path / "kv", TABLES)
    yield made
    made.close()


# ---- the file
def written(path: Path, records: list[Commits], epoch: int = 7) -> bytes:
    """The records, without what is set aside behind them."""
    wal = Wal(path, KEY, epoch, WAL_BYTES)
    for commits in records:
        encoded = [encode(commit) for commit in commits]
        assert wal.has_room(encoded)
        wal.append(encoded)
    size = wal.size_bytes
    wal.close()
    return path.read_bytes()[:size]


def read(path: Path, data: bytes, epoch: int = 7) -> Commits:
    path.write_bytes(data)
    wal = Wal(path, KEY, epoch, WAL_BYTES)
    try:
        return list(wal.read())
    finally:
        wal.close()


def starts(data: bytes) -> list[int]:
    return [place for place in range(len(data)) if data.startswith(MAGIC, place)]


def ends(data: bytes) -> list[int]:
    """Of the bodies; what follows up to the next start says nothing."""
    return [place + HEADER.size + HEADER.unpack_from(data, place)[3] for place in starts(data)]


def test_what_was_appended_is_read_and_appending_goes_on_behind_it(tmp_path: Path) -> None:
    data = written(tmp_path / "wal", [COMMITS[:1], COMMITS[1:3]])
    assert len(starts(data)) == 2
    wal = Wal(tmp_path / "wal", KEY, 7, WAL_BYTES)
    assert list(wal.read()) == COMMITS[:3]
    wal.append([encode(COMMITS[3])])
    wal.close()
    assert read(tmp_path / "again", (tmp_path / "wal").read_bytes()) == COMMITS


def test_cut_at_any_byte_it_has_the_records_before(tmp_path: Path) -> None:
    data = written(tmp_path / "wal", [[commit] for commit in COMMITS])
    for size in range(len(data) + 1):
        whole = sum(end <= size for end in ends(data))
        for left in (data[:size], data[:size] + bytes(5000)):
            assert read(tmp_path / "cut", left) == COMMITS[:whole]


def test_of_a_last_record_that_is_not_whole_nothing_is_given_out(tmp_path: Path) -> None:
    """Whichever bytes of it did not reach the disk: also the first ones, where it holds several commits."""
    data = written(tmp_path / "wal", [COMMITS[:1], COMMITS[1:]])
    last = starts(data)[-1]
    for place in range(last, ends(data)[-1]):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            assert read(tmp_path / "changed", bytes(changed)) == COMMITS[:1]
        for lost in (slice(last, place + 1), slice(place, len(data))):
            changed = bytearray(data)
            changed[lost] = bytes(len(changed[lost]))
            kept = COMMITS if bytes(changed) == data else COMMITS[:1]
            assert read(tmp_path / "changed", bytes(changed)) == kept


def test_a_record_that_is_damaged_before_others_is_met(tmp_path: Path) -> None:
    data = written(tmp_path / "wal", [[commit] for commit in COMMITS])
    for start, end in list(zip(starts(data), ends(data), strict=True))[:-1]:
        for place in range(start, end):
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            with pytest.raises(WalDamaged, match="commits follow that do not join"):
                read(tmp_path / "changed", bytes(changed))


def test_bytes_that_look_like_a_record_are_none(tmp_path: Path) -> None:
    """Bodies hold what users wrote, and stay behind the end of the log for a while."""
    body = encode([("a", b"k", b"injected")])
    body = b"\x91" + body
    like = HEADER.pack(MAGIC, 2**60, 0, len(body), crc32(body), bytes(16)) + body
    assert read(tmp_path / "wal", like) == []
    spoken = written(tmp_path / "said", [[[("a", b"k", like * 50)]]])
    assert read(tmp_path / "wal", spoken, epoch=8) == []
    shifted = b"".join(bytes(shift) + like for shift in range(64))
    assert read(tmp_path / "wal", shifted) == []


def test_what_another_key_wrote_is_none(tmp_path: Path) -> None:
    data = written(tmp_path / "wal", [COMMITS])
    wal = Wal(tmp_path / "wal", KEY[::-1], 7, WAL_BYTES)
    assert list(wal.read()) == []
    wal.close()
    assert read(tmp_path / "wal", data) == COMMITS


def test_a_place_that_cannot_be_read_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read ends before a bad sector, and only the next one says why."""
    data = written(tmp_path / "wal", [COMMITS[:1], COMMITS[1:]])

    def bad_sector(_file: int, size: int, offset: int) -> bytes:
        if offset >= 64:
            raise OSError(errno.EIO, "Input/output error")
        return data[offset : min(offset + size, 64)]

    monkeypatch.setattr(os, "pread", bad_sector)
    with pytest.raises(OSError, match="Input/output error"):
        read(tmp_path / "again", data)


def test_where_no_space_can_be_set_aside_it_goes_on_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert read(tmp_path / "again", written(tmp_path / "wal", [COMMITS])) == COMMITS


@given(
    records=st.lists(
        st.lists(
            st.lists(
                st.tuples(
                    st.sampled_from(TABLES), st.binary(min_size=1, max_size=9), st.none() | st.binary(max_size=99)
                ),
                min_size=1,
                max_size=3,
            ),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=4,
    ),
    size=st.integers(0, 99),
    before=st.integers(0, 4),
)
@settings(max_examples=50, deadline=None)
def test_records_of_earlier_epochs_are_passed_over(
    tmp_path_factory: pytest.TempPathFactory, records: list[Commits], size: int, before: int
) -> None:
    directory = tmp_path_factory.mktemp("wal")
    old = written(directory / "old", [*records, *records])
    new = written(directory / "new", records[:before], epoch=8)
    cut = max(0, len(new) - size)
    image = new[:cut] + old[cut:]  # the end of the newer ones did not reach the disk
    expected = []
    for number in range(len(records[:before])):
        upto = written(directory / str(number), records[: number + 1], epoch=8)
        if image.startswith(upto[: ends(upto)[-1]]):
            expected += records[number]
    assert read(directory / "image", image, epoch=8) == expected


def test_there_is_room_up_to_the_bound(tmp_path: Path) -> None:
    wal = Wal(tmp_path / "wal", KEY, 0, 3 * GROW_BYTES // 2)
    assert wal.has_room([bytes(GROW_BYTES)])
    assert (tmp_path / "wal").stat().st_size == 3 * GROW_BYTES // 2
    assert not wal.has_room([bytes(GROW_BYTES), bytes(GROW_BYTES // 2)])
    wal.close()
    wal.close()


# ---- the environment on it
Rows = dict[bytes, bytes]
_KEYS = st.binary(min_size=1, max_size=2)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _KEYS, st.sampled_from([b"", b"v", b"value" * 300])),
        st.tuples(st.just("put"), _KEYS, st.sampled_from([b"", b"v", b"value" * 300])),
        st.tuples(st.just("delete"), _KEYS, st.none()),
        st.tuples(st.sampled_from(["commit", "commit unsynced", "commit", "commit unsynced"]), st.none(), st.none()),
        st.tuples(st.sampled_from(["abort", "checkpoint", "snapshot", "crash", "reopen"]), st.none(), st.none()),
    ),
    max_size=30,
)


class Model:
    """An environment and what it must hold. `possible`: what each commit has left, from the last one that a crash
    cannot undo on."""

    def __init__(self, root: Path, wal_bytes: int) -> None:
        self._root, self._wal_bytes, self._lives = root, wal_bytes, 0
        self.rows: Rows = {}
        self.possible: list[Rows] = [{}]
        self.environment = self._open()

    def _open(self) -> LmdbEnvironment:
        return LmdbEnvironment(self._root / str(self._lives), TABLES, wal_bytes=self._wal_bytes)

    def put(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value
        self.environment.transaction().put("a", key, value)

    def delete(self, key: bytes, _: None) -> None:
        assert self.environment.transaction().delete("a", key) == (self.rows.pop(key, None) is not None)

    def commit(self, *, synced: bool = True) -> None:
        self.environment.commit(synced=synced)
        self.possible.append(dict(self.rows))
        if synced:
            del self.possible[:-1]

    def abort(self) -> None:
        self.environment.abort()
        self.rows = dict(self.possible[-1])

    def checkpoint(self) -> None:
        is_open = self.rows != self.possible[-1]
        self.environment.checkpoint()
        if not is_open and not self.environment.is_behind:
            del self.possible[:-1]

    def snapshot(self) -> None:
        if self.rows == self.possible[-1]:
            self.commit()  # what was put and is the same as before
            with self.environment.snapshot() as reader:
                assert dict(reader.scan("a")) == self.rows

    def crash(self) -> None:
        old = self._root / str(self._lives)
        self._lives += 1
        shutil.copytree(old, self._root / str(self._lives))
        self.environment.close()
        self._opened()
        assert self.rows in self.possible
        self.possible = [dict(self.rows)]

    def reopen(self) -> None:
        self.environment.close()
        self._opened()
        assert self.rows == self.possible[-1]
        self.possible = [dict(self.rows)]

    def _opened(self) -> None:
        self.environment = self._open()
        with self.environment.snapshot() as reader:
            self.rows = dict(reader.scan("a"))

    def check(self) -> None:
        with self.environment.peek() as reader:
            assert dict(reader.scan("a")) == self.rows
            assert reader.count("a") == len(self.rows)


@settings(max_examples=60, deadline=None)
@given(steps=_STEPS, wal_bytes=st.sampled_from([0, 300, 3000, WAL_BYTES]))
def test_a_crash_leaves_a_commit_from_the_last_synced_one_on(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any, Any]], wal_bytes: int
) -> None:
    model = Model(tmp_path_factory.mktemp("kv"), wal_bytes)
    try:
        for action, key, value in steps:
            if action in ("put", "delete"):
                getattr(model, action)(key, value)
            elif action == "commit unsynced":
                model.commit(synced=False)
            else:
                getattr(model, action)()
            model.check()
        model.crash()
    finally:
        model.environment.close()


def wal_of(environment: LmdbEnvironment) -> Path:
    return environment._generation.directory / "wal"


def reopened(environment: LmdbEnvironment, change: Callable[[Path], None]) -> LmdbEnvironment:
    """A copy of the files as they are, changed."""
    root = environment._root.with_name("copy")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(environment._root, root)
    change(root / environment.place)
    return LmdbEnvironment(root, TABLES)


def test_cut_anywhere_it_opens_as_of_an_earlier_commit(disk: LmdbEnvironment) -> None:
    for number in range(5):
        fill(disk, b"%d" % number)
    whole = ends(wal_of(disk).read_bytes()[: disk._wal.size_bytes])
    for size in range(0, disk._wal.size_bytes + 1, 7):
        again = reopened(disk, lambda directory, size=size: os.truncate(directory / "wal", size))  # type: ignore[misc]
        found = keys(again.transaction())
        assert found == [b"%d" % number for number in range(sum(end <= size for end in whole))]
        fill(again, b"9")
        assert keys(again.transaction()) == [*found, b"9"]
        again.close()


def damage_log(directory: Path) -> None:
    data = (directory / "wal").read_bytes()
    (directory / "wal").write_bytes(data.replace(b"=1", b"#1"))


def test_damaged_before_other_commits_it_is_refused_and_kept(disk: LmdbEnvironment) -> None:
    fill(disk, b"1")
    fill(disk, b"2")
    root = disk._root.with_name("copy")
    for _ in range(2):
        with pytest.raises(lmdb.CorruptedError, match="promised may be lost with it: replace the member, or restore"):
            reopened(disk, damage_log)
    before = (root / disk.place / "wal").read_bytes(), (root / disk.place / "data.mdb").read_bytes()
    with pytest.raises(lmdb.CorruptedError):
        LmdbEnvironment(root, TABLES)
    assert before == ((root / disk.place / "wal").read_bytes(), (root / disk.place / "data.mdb").read_bytes())


def test_damaged_in_the_last_commit_that_one_was_never_made(disk: LmdbEnvironment) -> None:
    fill(disk, b"0")
    fill(disk, b"1")
    again = reopened(disk, damage_log)
    assert keys(again.transaction()) == [b"0"]
    again.close()


def test_what_is_synced_at_once_is_whole_or_was_never_made(disk: LmdbEnvironment) -> None:
    """The first of the commits did not reach the disk, the ones behind it did: nobody was told of any."""
    fill(disk, b"0")
    for key in (b"1", b"2"):
        disk.transaction().put("a", key, b"=" + key)
        disk.commit(synced=False)
    fill(disk, b"3")
    with crashed(disk) as again:
        assert keys(again.transaction()) == [b"0", b"1", b"2", b"3"]
    again = reopened(disk, damage_log)
    assert keys(again.transaction()) == [b"0"]
    again.close()


def test_what_a_checkpoint_took_in_is_not_taken_in_again(disk: LmdbEnvironment) -> None:
    for key in (b"1", b"2", b"3"):
        fill(disk, key)
    disk.transaction().delete("a", b"2")
    disk.commit()
    disk.checkpoint()
    assert not disk.is_behind
    for then in (b"4", b"5"):  # as long as those before, which go on behind them
        fill(disk, then)
        assert disk.is_behind
        assert b"=2" in wal_of(disk).read_bytes() or then == b"5"
        again = reopened(disk, lambda _: None)
        assert keys(again.transaction()) == [b"1", b"3", b"4", b"5"][: 3 if then == b"4" else 4]
        again.close()


def test_tables_of_before_beside_a_log_of_now_are_refused(disk: LmdbEnvironment, tmp_path: Path) -> None:
    fill(disk, b"1")
    shutil.copy(disk._generation.directory / "data.mdb", tmp_path / "older")
    fill(disk, b"2")
    disk.checkpoint()
    fill(disk, b"3")

    def put_back(directory: Path) -> None:
        shutil.copy(tmp_path / "older", directory / "data.mdb")

    with pytest.raises(lmdb.CorruptedError, match="replace the member, or restore it from a backup"):
        reopened(disk, put_back)


def test_without_knowing_which_log_is_its_own_it_is_refused(disk: LmdbEnvironment) -> None:
    fill(disk, b"1")
    disk.checkpoint()
    with disk._generation.lmdb.begin(db=disk._generation.tables[CHECKPOINTS]) as transaction:
        row = bytes(transaction.get(b"epoch") or b"")
    replace_bytes(disk, b"epoch" + row, b"epoch" + row[:7] + b"\xff" + row[8:])
    with pytest.raises(lmdb.CorruptedError, match=r"table kv_checkpoints.*replace the member, or restore"):
        reopened(disk, lambda _: None)


def test_where_the_log_cannot_grow_every_commit_is_a_checkpoint(
    disk: LmdbEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    expected = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_room)
        for number, synced in enumerate((True, False, True)):
            expected.append(b"%d" % number)
            disk.transaction().put("a", expected[-1], b"")
            disk.commit(synced=synced)
            assert (disk.is_behind, wal_of(disk).stat().st_size) == (False, 0)
            with crashed(disk) as again:
                assert keys(again.transaction()) == expected
    fill(disk, b"9")
    assert disk.is_behind
    with crashed(disk) as again:
        assert keys(again.transaction()) == [*expected, b"9"]


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fdatasync"])
def test_another_error_of_the_log_ends_it(disk: LmdbEnvironment, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Once a sync has failed, the next one says nothing about what was written before."""
    failures: list[BaseException] = []
    disk.failed = failures.append
    fill(disk, b"1")
    with monkeypatch.context() as patch:

        def broken(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, call, broken)
        disk.transaction().put("a", b"2", bytes(2 * GROW_BYTES))
        with pytest.raises(OSError, match="Input/output"):
            disk.commit()
    assert [str(error) for error in failures] == ["[Errno 5] Input/output error"]
    for attempt in (disk.commit, disk.checkpoint, disk.transaction, disk.snapshot):
        with pytest.raises(OSError, match="Input/output"):
            attempt()
    with crashed(disk) as again:
        assert keys(again.transaction())[:1] == [b"1"]


def test_half_of_a_write_is_never_committed(disk: LmdbEnvironment) -> None:
    fill(disk, b"1")
    with pytest.raises(lmdb.BadValsizeError):
        disk.transaction().write("a", {b"1": None, b"x" * 512: b""})
    disk.checkpoint()
    assert keys(disk.transaction()) == [b"1"]
    with pytest.raises(lmdb.BadValsizeError):
        disk.transaction().write("a", {b"1": None, b"x" * 512: b""})
    disk.close()
    with crashed(disk) as again:
        assert keys(again.transaction()) == [b"1"]


def test_a_full_map_while_it_takes_the_log_in_leaves_what_was_committed(tmp_path: Path) -> None:
    """At whatever page it is full."""
    for pages in range(40, 70):
        path = tmp_path / str(pages)
        disk = LmdbEnvironment(path / "kv", TABLES) if path.mkdir() is None else None
        assert disk is not None
        for number in range(16):
            disk.transaction().put("a", b"%02d" % number, bytes(4000))
            disk.commit()
        shutil.copytree(path / "kv", path / "copy")
        disk.close()
        try:
            again = LmdbEnvironment(path / "copy", TABLES, map_size_bytes=pages * 4096)
        except lmdb.MapFullError:
            continue
        assert len(keys(again.transaction())) == 16
        again.close()


def test_a_commit_that_is_larger_than_the_log_is_a_checkpoint(tmp_path: Path) -> None:
    disk = LmdbEnvironment(tmp_path / "kv", TABLES, wal_bytes=4000)
    fill(disk, b"1")
    assert disk.is_behind
    disk.transaction().put("a", b"2", bytes(5000))
    disk.commit(synced=False)
    assert not disk.is_behind
    with crashed(disk) as again:
        assert keys(again.transaction()) == [b"1", b"2"]
    for number in range(100):
        disk.transaction().put("a", b"3", b"%d" % number)
        disk.commit()
        with disk.peek() as reader:
            assert reader.get("a", b"3") == b"%d" % number
    assert wal_of(disk).stat().st_size <= 4000
    with crashed(disk) as again:
        assert again.transaction().get("a", b"3") == b"99"
    disk.close()


def test_unsynced_commits_wait_in_memory_no_further_than_the_log(tmp_path: Path) -> None:
    disk = LmdbEnvironment(tmp_path / "kv", TABLES, wal_bytes=2000)
    for number in range(300):
        disk.transaction().put("a", b"%03d" % number, bytes(50))
        disk.commit(synced=False)
    with crashed(disk) as again:
        assert again.transaction().count("a") > 270
    disk.close()


def failing(self: Generation, transaction: Any) -> None:
    transaction.abort()
    raise lmdb.DiskError("no space")


def test_after_a_checkpoint_that_failed_nothing_goes_on_and_nothing_is_lost(
    disk: LmdbEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk, b"1")
    disk.transaction().put("a", b"2", b"")
    disk.commit(synced=False)
    fill(disk, b"3")
    with monkeypatch.context() as patch:
        patch.setattr(generation.Generation, "checkpoint", failing)
        with pytest.raises(lmdb.DiskError):
            disk.checkpoint()
    with pytest.raises(lmdb.DiskError, match="no space"):
        disk.transaction()
    for look in (disk.snapshot, disk.peek):
        with pytest.raises(lmdb.DiskError, match="no space"), look():
            pass
    disk.close()
    again = LmdbEnvironment(disk._root, TABLES)
    assert keys(again.transaction()) == [b"1", b"2", b"3"]
    again.close()


def test_a_full_disk_at_the_opening_leaves_what_is_in_the_log_there(
    disk: LmdbEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(disk, b"1")
    with monkeypatch.context() as patch:
        patch.setattr(generation.Generation, "checkpoint", failing)
        again = reopened(disk, lambda _: None)
    fill(again, b"2")
    with again.snapshot() as reader:
        assert keys(reader) == [b"1", b"2"]
    again.close()


def test_what_only_the_log_holds_is_durable_once_it_is_opened(
    disk: LmdbEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier life may have ended because it could not sync it. What is read is told to others."""
    fill(disk, b"1")
    fill(disk, b"2")
    written = wal_of(disk).read_bytes()[: disk._wal.size_bytes]
    again: list[tuple[bytes, int]] = []
    synced: list[int] = []
    monkeypatch.setattr(generation.Generation, "checkpoint", failing)
    monkeypatch.setattr("os.pwrite", lambda file, data, place: again.append((data, place)) or len(data))
    monkeypatch.setattr("os.fdatasync", synced.append)
    opened = reopened(disk, lambda _: None)
    assert again == [(written, 0)]
    assert len(synced) == 1
    monkeypatch.setattr("os.fdatasync", broken)
    with pytest.raises(OSError, match="no more"):
        reopened(disk, lambda _: None)
    opened.close()


def broken(file: int) -> None:
    raise OSError(5, "no more")


def test_what_lmdb_refused_is_not_in_the_log(disk: LmdbEnvironment) -> None:
    """Or nothing would open again."""
    for key in (b"", b"x" * 512):
        with pytest.raises(lmdb.BadValsizeError):
            disk.transaction().put("a", key, b"")
        with pytest.raises(lmdb.BadValsizeError):
            disk.transaction().write("a", {key: b""})
        disk.abort()
    with pytest.raises(lmdb.BadValsizeError):
        disk.transaction().delete("a", b"")
    with pytest.raises(KeyError):
        disk.transaction().delete("no table", b"k")
    fill(disk, b"1")
    with crashed(disk) as again:
        assert keys(again.transaction()) == [b"1"]


def test_a_replacement_that_failed_ends_it_and_loses_nothing(
    disk: LmdbEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(disk, b"1")
    disk.checkpoint()
    fill(disk, b"2")
    incoming = disk.incoming()
    fill(incoming, b"new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_room)
        with pytest.raises(OSError, match="No space"):
            disk.replace(incoming)
    with pytest.raises(OSError, match="No space"):
        fill(disk, b"3")
    disk.close()
    again = LmdbEnvironment(disk._root, TABLES)
    assert keys(again.transaction()) == [b"1", b"2"]
    again.close()


def test_a_replacement_that_cannot_be_made_durable_changes_nothing(
    disk: LmdbEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room() -> None:
        raise lmdb.DiskError("no space")

    fill(disk, b"1")
    incoming = disk.incoming()
    fill(incoming, b"new")
    monkeypatch.setattr(incoming, "sync", no_room)
    with pytest.raises(lmdb.DiskError):
        disk.replace(incoming)
    fill(disk, b"2")
    with disk.snapshot() as reader:
        assert keys(reader) == [b"1", b"2"]


# ---- tables that cannot take in what was committed
def spoil(directory: Path) -> None:
    """The leaf of table a that holds row 0500."""
    data = bytearray((directory / "data.mdb").read_bytes())
    spoilt = 0
    for page in range(2 * PAGE_BYTES, len(data), PAGE_BYTES):
        if data[page + FLAGS] == P_LEAF and b"=0500" in data[page : page + PAGE_BYTES]:
            data[page + FLAGS] = 0
            spoilt += 1
    assert spoilt
    (directory / "data.mdb").write_bytes(data)


@pytest.fixture
def spoilt(disk: LmdbEnvironment) -> Iterator[LmdbEnvironment]:
    fill(disk, *(b"%04d" % number for number in range(1000)))
    disk.transaction().put("b", b"k", b"v")
    disk.commit()
    disk.checkpoint()
    fill(disk, b"0000", b"0501")
    disk.transaction().put("b", b"later", b"")
    disk.commit()
    made = reopened(disk, spoil)
    yield made
    made.close()


def test_a_table_that_cannot_take_in_the_log_is_damaged_and_the_others_go_on(spoilt: LmdbEnvironment) -> None:
    def check(environment: Env, *names: bytes) -> None:
        for use in (
            lambda: environment.transaction().get("a", b"0000"),
            lambda: environment.transaction().count("a"),
            lambda: list(environment.transaction().scan("a")),
            lambda: environment.transaction().put("a", b"0000", b""),
            lambda: environment.snapshot().__enter__(),
        ):
            with pytest.raises(Damaged) as raised:
                use()
            assert raised.value.table == "a"
        with environment.peek() as reader, pytest.raises(Damaged):
            reader.get("a", b"0000")
        assert keys(environment.transaction(), table="b") == [b"k", *names]

    check(spoilt, b"later")
    with pytest.raises(Damaged):
        spoilt.check()
    spoilt.transaction().put("b", b"m", b"")
    spoilt.commit()
    spoilt.transaction().put("b", b"not committed", b"")
    spoilt.abort()
    check(spoilt, b"later", b"m")
    with crashed(spoilt) as again:
        check(again, b"later", b"m")
    spoilt.close()
    again = LmdbEnvironment(spoilt._root, TABLES)
    check(again, b"later", b"m")
    again.close()


def test_a_replacement_makes_a_spoilt_table_whole(spoilt: LmdbEnvironment) -> None:
    incoming = spoilt.incoming()
    fill(incoming, b"1")
    spoilt.replace(incoming)
    spoilt.check()
    fill(spoilt, b"2")
    with spoilt.snapshot() as reader:
        assert keys(reader) == [b"1", b"2"]
    with crashed(spoilt) as again:
        assert keys(again.transaction()) == [b"1", b"2"]


def test_many_small_rows_do_not_wait_for_long(tmp_path: Path) -> None:
    """Each may take a page when it is taken in, and the room for that is what was set aside."""
    environment = LmdbEnvironment(tmp_path / "kv", TABLES, wal_bytes=64 * 1024)
    behind = 0
    for number in range(200):
        environment.transaction().put("a", b"%04d" % number, b"")
        environment.commit()
        behind = behind + 1 if environment.is_behind else 0
        assert behind <= 64
    environment.close()
