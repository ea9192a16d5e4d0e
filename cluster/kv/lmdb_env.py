"""Tables on a disk: one LMDB environment, every commit synced.

Everything lmdb raises (full disk, full map, damaged file) leaves as it is: the caller cannot go on and must end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import lmdb

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


class LmdbEnvironment:
    """An environment in the directory `path`, made if missing (not its parents), with these tables.

    One process writes; others may open the same directory for snapshots. Raises lmdb.Error and OSError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tables: Iterable[str],
        *,
        map_size_bytes: int = MAP_SIZE_BYTES,
        max_readers: int = MAX_READERS,
    ) -> None:
        names = tuple(tables)
        directory = Path(path)
        directory.mkdir(mode=0o700, exist_ok=True)
        self._environment = lmdb.open(
            str(directory),
            map_size=map_size_bytes,
            max_dbs=len(names),
            max_readers=max_readers,
            mode=0o600,
            sync=True,
            metasync=True,
            readahead=False,  # random reads of a file larger than memory
            writemap=False,  # a stray write must not reach the file
        )
        self._environment.reader_check()  # slots of processes that were killed
        self._tables = {name: self._environment.open_db(name.encode()) for name in names}
        self._transaction: lmdb.Transaction[bytes] | None = None
        self._view: LmdbTransaction | None = None
        # LMDB syncs the contents of its file, not the directory that names it.
        _sync_directory(directory)
        _sync_directory(directory.parent)

    def transaction(self) -> LmdbTransaction:
        if self._view is None:
            self._transaction = self._environment.begin(write=True)
            self._view = LmdbTransaction(self._transaction, self._tables)
        return self._view

    def commit(self) -> None:
        transaction, self._transaction, self._view = self._transaction, None, None
        if transaction is not None:
            transaction.commit()

    @contextmanager
    def snapshot(self) -> Iterator[LmdbReader]:
        with self._environment.begin() as transaction:
            yield LmdbReader(transaction, self._tables)

    def close(self) -> None:
        """The open transaction, if any, is lost."""
        transaction, self._transaction, self._view = self._transaction, None, None
        if transaction is not None:
            transaction.abort()
        self._environment.close()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
