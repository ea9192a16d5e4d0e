"""Reading and writing the tables of one LMDB environment. LMDB has no checksums, so every row carries one.

A stored value is the value and four bytes of CRC-32 over table, key and value. A row whose key was changed on the disk
does not match either; so that it hides no row, whoever looks for a key that is not there, or begins a scan at one,
looks at the rows on both sides of its place: a search that a damaged key has led astray ends beside that key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn
from zlib import crc32

import lmdb

from cluster.kv.api import Damaged
from cluster.kv.wal import Row

SUM_BYTES = 4
Tables = Mapping[str, "lmdb._Database"]

# What LMDB says about pages that are not what it wrote; the last one, of a transaction that has met such a page.
UNREADABLE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.BadTxnError)


def seal(seed: int, key: bytes, value: bytes) -> bytes:
    """The row as it is stored. `seed` is the CRC-32 of the table's name."""
    return value + crc32(value, crc32(key, seed)).to_bytes(SUM_BYTES, "big")


class LmdbReader:
    """One LMDB transaction as a reader. Keys are 1 to 511 bytes."""

    def __init__(self, transaction: lmdb.Transaction[bytes], tables: Tables, seeds: Mapping[str, int]) -> None:
        self._transaction = transaction
        self._tables = tables
        self._seeds = seeds
        self.changes: list[Row] = []  # what was written, in order
        self.is_spent = False  # it met a page that cannot be read, or did half of a write: it can only be aborted

    def get(self, table: str, key: bytes) -> bytes | None:
        database = self._tables[table]
        try:
            row = self._transaction.get(key, None, database)
            if row is not None:
                return self._unsealed(table, key, row)
            with self._transaction.cursor(database) as cursor:
                self._look_around(table, cursor, key)
        except UNREADABLE as error:
            self.is_spent = True
            raise Damaged(table, key, str(error)) from error
        return None

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        key, passed, before = start, 0, len(self.changes)
        with self._transaction.cursor(self._tables[table]) as cursor:
            try:
                if edge := stop if reverse else start:
                    self._look_around(table, cursor, edge)
                found = _seek_below(cursor, stop) if reverse else _seek_from(cursor, start)
                while found:
                    key, row = cursor.item()
                    value = self._unsealed(table, key, row)  # also of the row that ends it: is that its key?
                    if key < start if reverse else stop is not None and key >= stop:
                        return
                    changes = len(self.changes)
                    yield key, value
                    passed += 1
                    if changes == len(self.changes):
                        found = cursor.prev() if reverse else cursor.next()
                    else:  # the row under the cursor may be gone: find the place again
                        found = _seek_below(cursor, key) if reverse else _seek_from(cursor, key + b"\0")
            except UNREADABLE as error:
                self.is_spent = True
                raise Damaged(table, key, str(error)) from error
        is_all = not start and stop is None and before == len(self.changes)
        if is_all and passed != (count := self.count(table)):
            raise Damaged(table, key, f"{passed} rows of {count} are to be found")

    def count(self, table: str) -> int:
        return int(self._transaction.stat(self._tables[table])["entries"])

    def _look_around(self, table: str, cursor: lmdb.Cursor[bytes], key: bytes) -> None:
        """Raises Damaged if the row at the place of `key`, or the one before it, is not the one that belongs there. Who
        goes on right behind a damaged row knows of it."""
        if found := cursor.set_range(key):
            at, row = cursor.item()
            self._check(table, at, row)
            if at < key:
                raise Damaged(table, at, "it stands out of order")
        if cursor.prev() if found else cursor.last():
            at, row = cursor.item()
            if at + b"\0" == key:
                return
            self._check(table, at, row)
            if at >= key:
                raise Damaged(table, at, "it stands out of order")

    def _unsealed(self, table: str, key: bytes, row: bytes) -> bytes:
        self._check(table, key, row)
        return row[:-SUM_BYTES]

    def _check(self, table: str, key: bytes, row: bytes) -> None:
        value = memoryview(row)[:-SUM_BYTES]  # no copy: rows beside a missing one may be large, and are only looked at
        if crc32(value, crc32(key, self._seeds[table])) != int.from_bytes(row[-SUM_BYTES:], "big"):
            raise Damaged(table, key, "its checksum is another one")


def _seek_from(cursor: lmdb.Cursor[bytes], start: bytes) -> bool:
    return cursor.set_range(start) if start else cursor.first()


def _seek_below(cursor: lmdb.Cursor[bytes], stop: bytes | None) -> bool:
    """To the last row with key < stop."""
    if stop is None:
        return cursor.last()
    if not stop:
        return False
    return cursor.prev() if cursor.set_range(stop) else cursor.last()


class _Hidden(dict[str, "lmdb._Database"]):
    def __init__(self, tables: Tables, spoilt: Mapping[str, Damaged]) -> None:
        super().__init__((name, table) for name, table in tables.items() if name not in spoilt)
        self._spoilt = spoilt

    def __missing__(self, table: str) -> NoReturn:
        raise self._spoilt[table]


class LmdbTransaction(LmdbReader):
    def put(self, table: str, key: bytes, value: bytes) -> None:
        row = seal(self._seeds[table], key, value)
        self._transaction.put(key, row, True, True, False, self._tables[table])
        self.changes.append((table, key, row))

    def delete(self, table: str, key: bytes) -> bool:
        was_there = self._transaction.delete(key, db=self._tables[table])
        self.changes.append((table, key, None))
        return was_there

    def write(self, table: str, rows: Mapping[bytes, bytes | None]) -> None:
        """In order of key: LMDB goes on where it is, and need not search."""
        self.is_spent, was_spent = True, self.is_spent  # in the middle it holds what no commit may
        seed, sealed, changes = self._seeds[table], [], list[Row]()
        for key in sorted(rows):
            if (value := rows[key]) is None:
                changes.append((table, key, None))
                self._transaction.delete(key, db=self._tables[table])
            else:
                row = seal(seed, key, value)
                changes.append((table, key, row))
                sealed.append((key, row))
        with self._transaction.cursor(self._tables[table]) as cursor:
            cursor.putmulti(sealed)
        self.changes += changes
        self.is_spent = was_spent

    def hide(self, spoilt: Mapping[str, Damaged]) -> None:
        """Who reads or writes one of these tables meets what damaged it."""
        if spoilt:
            self._tables = _Hidden(self._tables, spoilt)

    def redo(self, rows: Sequence[Row]) -> None:
        """Write again what `changes` held. Raises Damaged."""
        for table, key, row in rows:
            try:
                if row is None:
                    self._transaction.delete(key, db=self._tables[table])
                else:
                    self._transaction.put(key, row, db=self._tables[table])
            except UNREADABLE as error:
                raise Damaged(table, key, str(error)) from error
