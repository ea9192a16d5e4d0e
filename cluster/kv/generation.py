"""One LMDB environment in a directory of its own: how it is opened, what room it has, when its files go away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import lmdb

from cluster.kv.api import Damaged
from cluster.kv.lmdb_rows import LmdbReader, LmdbTransaction, Tables
from cluster.kv.wal import CANNOT, KEY_BYTES, NO_PLACE, Wal
from cluster.limits import WAL_BYTES

LEFT_BYTES = 4 * 1024 * 1024  # of a file system, for small files of anybody
MOST_TABLES = 256  # in one environment, those of a newer release too
DATA, WAL = "data.mdb", "wal"
CHECKPOINTS = "kv_checkpoints"  # a table of every generation, which no environment shows: the log's epoch
LOST = "What this member has promised may be lost with it: replace the member, or restore it from a backup"
_META_PAGES = 2
_EPOCH, _KEY = b"epoch", b"key"


@dataclass(frozen=True)
class Options:
    tables: tuple[str, ...]
    map_size_bytes: int
    max_readers: int
    wal_bytes: int = WAL_BYTES


class Shown:
    """What has been opened, to be read."""

    def __init__(self, directory: Path, environment: lmdb.Environment, tables: Tables) -> None:
        self.directory, self.lmdb, self.tables = directory, environment, tables
        self.seeds = {name: crc32(name.encode()) for name in tables}
        self.snapshots = 0
        self._then: Callable[[Path], None] | None = None

    def reader(self, transaction: lmdb.Transaction[bytes]) -> LmdbReader:
        return LmdbReader(transaction, self.tables, self.seeds)

    @contextmanager
    def snapshot(self) -> Iterator[LmdbReader]:
        self.snapshots += 1
        try:
            with self.lmdb.begin() as transaction:
                yield self.reader(transaction)
        finally:
            self.snapshots -= 1
            self._end()

    def retire(self, then: Callable[[Path], None]) -> None:
        """Close it once its last snapshot has ended, and do that with its directory."""
        self._then = then
        self._end()

    def _end(self) -> None:
        if self._then is not None and not self.snapshots:
            self.close()
            self._then(self.directory)

    def close(self) -> None:
        self.lmdb.close()


def show(directory: Path, options: Options) -> Shown:
    """Another process's generation, with the tables it has. Nothing is written but the table of readers, which keeps
    the pages of a snapshot from being used again. Raises lmdb.Error."""
    environment = lmdb.open(
        str(directory),
        map_size=options.map_size_bytes,
        max_dbs=MOST_TABLES,
        max_readers=options.max_readers,
        readonly=True,
        create=False,
        readahead=False,
    )
    names = [name.decode() for name in environment.dbs()]
    tables = {name: environment.open_db(name.encode(), create=False) for name in names}
    return Shown(directory, environment, tables)


class Generation(Shown):
    def __init__(self, directory: Path, options: Options, *, synced: bool) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._map_size_bytes = options.map_size_bytes
        environment = lmdb.open(
            str(directory),
            map_size=options.map_size_bytes,
            max_dbs=MOST_TABLES,
            max_readers=options.max_readers,
            mode=0o600,
            sync=synced,
            metasync=True,
            readahead=False,  # random reads of a file larger than memory
            writemap=False,  # a stray write must not reach the file
        )
        environment.reader_check()  # slots of processes that were killed
        with environment.begin(write=True) as transaction:
            # Those that this release does not know stay, and take their place.
            known = dict.fromkeys((*options.tables, CHECKPOINTS, *(name.decode() for name in environment.dbs())))
            tables = {name: environment.open_db(name.encode(), transaction) for name in known}
        super().__init__(directory, environment, tables)
        self.wal = Wal(directory / WAL, self._key(), self._epoch(), options.wal_bytes) if synced else None

    def writer(self, transaction: lmdb.Transaction[bytes]) -> LmdbTransaction:
        return LmdbTransaction(transaction, self.tables, self.seeds)

    def _epoch(self) -> int:
        return int.from_bytes(self._of_checkpoints(_EPOCH), "big")

    def _key(self) -> bytes:
        """The secret of the write-ahead log: never given out with a state, and durable before the first record."""
        if known := self._of_checkpoints(_KEY):
            return known
        key = os.urandom(KEY_BYTES)
        with self.lmdb.begin(write=True) as transaction:
            self.writer(transaction).put(CHECKPOINTS, _KEY, key)
        return key

    def _of_checkpoints(self, key: bytes) -> bytes:
        try:
            with self.snapshot() as reader:
                return reader.get(CHECKPOINTS, key) or b""
        except Damaged as damage:
            raise lmdb.CorruptedError(f"{self.directory} is damaged: {damage}. {LOST}") from damage

    def checkpoint(self, transaction: lmdb.Transaction[bytes]) -> None:
        """Commit, and begin the write-ahead log anew."""
        assert self.wal is not None, "only an incoming environment has none"
        epoch = self.wal.epoch + 1
        try:
            self.writer(transaction).put(CHECKPOINTS, _EPOCH, epoch.to_bytes(8, "big"))
        except BaseException:
            transaction.abort()
            raise
        transaction.commit()
        self.wal.restart(epoch)

    def close(self) -> None:
        super().close()
        if self.wal is not None:
            self.wal.close()

    def size_bytes(self, transaction: lmdb.Transaction[bytes], table: str) -> int:
        stat = transaction.stat(self.tables[table])
        return _pages(stat) * stat["psize"]

    def headroom_bytes(self) -> int:
        """As of the last commit. The pages of LMDB's own list of free pages count as free: two in a thousand of it."""
        used = self.used_bytes()
        free = max(0, used - self.kept_bytes())
        disk = os.statvfs(self.directory)
        beyond = max(0, self.allocated_bytes() - used) + disk.f_bavail * disk.f_frsize
        return free + min(beyond, max(0, self._map_size_bytes - used))

    def kept_bytes(self) -> int:
        """Of pages in use, as of the last commit."""
        main = self.lmdb.stat()
        with self.lmdb.begin() as transaction:
            pages = _pages(main) + sum(_pages(transaction.stat(table)) for table in self.tables.values())
        return (_META_PAGES + pages) * main["psize"]

    def set_aside(self, size_bytes: int) -> None:
        used = self.used_bytes()
        wanted = min(size_bytes, self._map_size_bytes - used)
        # What the file system gives of more than it has stays taken: then nobody could write a file of a few bytes.
        disk = os.statvfs(self.directory)
        lacking = used + wanted - self.allocated_bytes()
        wanted -= max(0, lacking - max(0, disk.f_bavail * disk.f_frsize - LEFT_BYTES))
        if wanted <= 0 or self.allocated_bytes() >= used + wanted:
            return
        descriptor = os.open(self.directory / DATA, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, used, wanted)
        except OSError as error:
            if error.errno not in (*NO_PLACE, *CANNOT):
                raise
        finally:
            os.close(descriptor)

    def allocated_bytes(self) -> int:
        """On the disk; LMDB takes no notice of what its file has behind the last page in use."""
        stat = os.stat(self.directory / DATA)
        return min(stat.st_size, stat.st_blocks * 512)

    def used_bytes(self) -> int:
        """Up to the last page in use."""
        return (self.lmdb.info()["last_pgno"] + 1) * self.lmdb.stat()["psize"]


def _pages(stat: lmdb._StatDict) -> int:
    return stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]


def sync_names(directory: Path) -> None:
    """LMDB syncs the contents of its file, not the directories that name it."""
    sync_directory(directory)
    sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
