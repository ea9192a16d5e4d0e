"""Tables on a disk: one LMDB environment, every commit synced.

    CURRENT          the number of the generation that counts, replaced atomically
    NUMBER/data.mdb  a generation; any but the current one is on its way in or out, and deleted when opening

Everything lmdb raises (full disk, full map, damaged file) leaves as it is: the caller cannot go on and must end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import lmdb

from cluster.kv.api import Environment

CURRENT = "CURRENT"
NEW = CURRENT + ".new"
FIRST = 1
MAP_SIZE_BYTES = 64 * 1024**3  # address space, not disk: the file grows with what is written
MAX_READERS = 1024  # snapshots open at once, over all processes

_Tables = Mapping[str, "lmdb._Database"]


class LmdbReader:
    """One LMDB transaction as a reader. Keys are 1 to 511 bytes."""

    def __init__(self, transaction: lmdb.Transaction[bytes], tables: _Tables) -> None:
        self._transaction = transaction
        self._tables = tables
        self._changes = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._transaction.get(key, db=self._tables[table])

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor(self._tables[table]) as cursor:
            found = _seek_below(cursor, stop) if reverse else _seek_from(cursor, start)
            while found:
                key, value = cursor.item()
                if key < start if reverse else stop is not None and key >= stop:
                    return
                changes = self._changes
                yield key, value
                if changes == self._changes:
                    found = cursor.prev() if reverse else cursor.next()
                else:  # the row under the cursor may be gone: find the place again
                    found = _seek_below(cursor, key) if reverse else _seek_from(cursor, key + b"\0")

    def count(self, table: str) -> int:
        return int(self._transaction.stat(self._tables[table])["entries"])


def _seek_from(cursor: lmdb.Cursor[bytes], start: bytes) -> bool:
    return cursor.set_range(start) if start else cursor.first()


def _seek_below(cursor: lmdb.Cursor[bytes], stop: bytes | None) -> bool:
    """To the last row with key < stop."""
    if stop is None:
        return cursor.last()
    if not stop:
        return False
    return cursor.prev() if cursor.set_range(stop) else cursor.last()


class LmdbTransaction(LmdbReader):
    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._changes += 1
        self._transaction.put(key, value, db=self._tables[table])

    def delete(self, table: str, key: bytes) -> bool:
        self._changes += 1
        return self._transaction.delete(key, db=self._tables[table])


@dataclass(frozen=True)
class _Options:
    tables: tuple[str, ...]
    map_size_bytes: int
    max_readers: int


class _Generation:
    """One LMDB environment in a directory of its own."""

    def __init__(self, directory: Path, options: _Options, *, synced: bool) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.directory = directory
        self.lmdb = lmdb.open(
            str(directory),
            map_size=options.map_size_bytes,
            max_dbs=len(options.tables),
            max_readers=options.max_readers,
            mode=0o600,
            sync=synced,
            metasync=True,
            readahead=False,  # random reads of a file larger than memory
            writemap=False,  # a stray write must not reach the file
        )
        self.lmdb.reader_check()  # slots of processes that were killed
        self.tables = {name: self.lmdb.open_db(name.encode()) for name in options.tables}
        self.snapshots = 0
        self._delete: Callable[[Path], None] | None = None

    @contextmanager
    def snapshot(self) -> Iterator[LmdbReader]:
        self.snapshots += 1
        try:
            with self.lmdb.begin() as transaction:
                yield LmdbReader(transaction, self.tables)
        finally:
            self.snapshots -= 1
            self._end()

    def retire(self, delete: Callable[[Path], None]) -> None:
        """Close it and delete its directory, once its last snapshot has ended."""
        self._delete = delete
        self._end()

    def _end(self) -> None:
        if self._delete is not None and not self.snapshots:
            self.lmdb.close()
            self._delete(self.directory)


class _Opened:
    """Reading and writing one generation."""

    def __init__(self, options: _Options, generation: _Generation) -> None:
        self._options = options
        self._generation = generation
        self._transaction: lmdb.Transaction[bytes] | None = None
        self._view: LmdbTransaction | None = None

    @property
    def tables(self) -> tuple[str, ...]:
        return self._options.tables

    def transaction(self) -> LmdbTransaction:
        if self._view is None:
            self._transaction = self._generation.lmdb.begin(write=True)
            self._view = LmdbTransaction(self._transaction, self._generation.tables)
        return self._view

    def commit(self) -> None:
        transaction, self._transaction, self._view = self._transaction, None, None
        if transaction is not None:
            transaction.commit()

    def abort(self) -> None:
        transaction, self._transaction, self._view = self._transaction, None, None
        if transaction is not None:
            transaction.abort()

    def snapshot(self) -> AbstractContextManager[LmdbReader]:
        return self._generation.snapshot()

    def size_bytes(self, table: str) -> int:
        database = self._generation.tables[table]
        if self._transaction is not None:
            return _pages_bytes(self._transaction, database)
        with self._generation.lmdb.begin() as transaction:
            return _pages_bytes(transaction, database)

    def sync(self) -> None:
        self._generation.lmdb.sync(True)


class _Incoming(_Opened):
    """Commits unsynced; thrown away unless it replaces the environment beside it."""

    def __init__(self, options: _Options, generation: _Generation, delete: Callable[[Path], None]) -> None:
        super().__init__(options, generation)
        self._delete = delete

    def incoming(self) -> Environment:
        raise AssertionError("an incoming environment has none of its own")

    def replace(self, incoming: Environment) -> None:
        raise AssertionError("an incoming environment is not replaced")

    def close(self) -> None:
        self.abort()
        self._generation.retire(self._delete)

    def settle(self) -> _Generation:
        """Everything in it and the names that lead to it made durable; from now on with synced commits."""
        assert self._transaction is None, "a transaction of the incoming environment is open"
        assert not self._generation.snapshots, "a snapshot of the incoming environment is open"
        self.sync()
        self._generation.lmdb.close()  # LMDB takes this flag only when it opens
        generation = _Generation(self._generation.directory, self._options, synced=True)
        _sync_names(generation.directory)
        return generation


class LmdbEnvironment(_Opened):
    """An environment in the directory `path`, made if missing (not its parents), with these tables.

    One process at a time opens it. Raises lmdb.Error and OSError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tables: Iterable[str],
        *,
        map_size_bytes: int = MAP_SIZE_BYTES,
        max_readers: int = MAX_READERS,
    ) -> None:
        self._root = Path(path)
        self._root.mkdir(mode=0o700, exist_ok=True)
        number = self._newest = _current(self._root)
        for other in _numbers(self._root) - {number}:
            shutil.rmtree(self._root / str(other))
        (self._root / NEW).unlink(missing_ok=True)
        options = _Options(tuple(tables), map_size_bytes, max_readers)
        super().__init__(options, _Generation(self._root / str(number), options, synced=True))
        self._incoming: _Incoming | None = None
        self._deleting: list[Thread] = []
        # LMDB syncs the contents of its file, not the directories that name it.
        _sync_names(self._generation.directory)
        _sync_directory(self._root.parent)
        if not (self._root / CURRENT).exists():
            _point(self._root, number)

    def incoming(self) -> _Incoming:
        if self._incoming is not None:
            self._incoming.close()
        self._newest += 1
        generation = _Generation(self._root / str(self._newest), self._options, synced=False)
        self._incoming = _Incoming(self._options, generation, self._delete)
        return self._incoming

    def replace(self, incoming: Environment) -> None:
        assert isinstance(incoming, _Incoming), "not an incoming environment"
        assert incoming is self._incoming, "not the latest incoming environment of this one"
        assert self._transaction is None, "a transaction is open"
        self._incoming = None  # whatever fails from here on, closing must not delete it
        generation = incoming.settle()
        _point(self._root, self._newest)
        old, self._generation = self._generation, generation
        old.retire(self._delete)

    def close(self) -> None:
        self.abort()
        if self._incoming is not None:
            self._incoming.close()
        self._generation.lmdb.close()
        for thread in self._deleting:
            thread.join()

    def _delete(self, directory: Path) -> None:
        """In a thread, since freeing a large file takes long. What it cannot delete is left to the next opening."""
        thread = Thread(target=shutil.rmtree, args=(directory,), kwargs={"ignore_errors": True})
        thread.start()
        self._deleting = [other for other in self._deleting if other.is_alive()] + [thread]


def holds_data(path: str | os.PathLike[str]) -> bool:
    """Whether an environment was opened in this directory before and is still there, in whatever condition."""
    try:
        return (Path(path) / str(_current(Path(path))) / "data.mdb").stat().st_size > 0
    except lmdb.Error:
        return True
    except FileNotFoundError:
        return False


def _current(root: Path) -> int:
    """The generation that counts; the first one in a new directory."""
    try:
        text = (root / CURRENT).read_text("ascii", "replace").strip()
    except FileNotFoundError:
        if strays := _numbers(root) - {FIRST}:
            raise lmdb.CorruptedError(f"{root} has lost its {CURRENT}, which tells which of {strays} counts") from None
        return FIRST
    if not text.isdecimal():
        raise lmdb.CorruptedError(f"{root / CURRENT} is damaged: it names no generation")
    return int(text)


def _numbers(root: Path) -> set[int]:
    return {int(entry.name) for entry in root.iterdir() if entry.name.isdecimal()}


def _point(root: Path, number: int) -> None:
    """Make `number` the generation that counts: before the rename the old one does, after it the new one."""
    with open(root / NEW, "w") as file:
        file.write(f"{number}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(root / NEW, root / CURRENT)
    _sync_directory(root)


def _pages_bytes(transaction: lmdb.Transaction[bytes], database: lmdb._Database) -> int:
    stat = transaction.stat(database)
    return (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]


def _sync_names(directory: Path) -> None:
    _sync_directory(directory)
    _sync_directory(directory.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
