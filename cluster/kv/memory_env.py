"""Tables in memory: the deterministic twin for simulation and tests.

A commit costs what it changes, not what it holds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

KEY_BYTES = 511  # as LMDB


class _Table:
    """Rows, and their keys in order."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.rows:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                insort(self.keys, key)
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]


class _Overlay:
    """Uncommitted changes of one table; None: deleted."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes | None) -> None:
        if key not in self.rows:
            insort(self.keys, key)
        self.rows[key] = value


class MemoryReader:
    """The committed tables themselves: a snapshot is a view, good until the next commit."""

    def __init__(self, tables: Mapping[str, _Table]) -> None:
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables[table].rows.get(key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        key = _beyond(self._keys(table), start, stop, reverse)
        while key is not None:
            value = self.get(table, key)
            if value is not None:  # not deleted in the open transaction
                yield key, value
            key = (
                _beyond(self._keys(table), start, key, True)
                if reverse
                else _beyond(self._keys(table), key + b"\0", stop, False)
            )

    def _keys(self, table: str) -> tuple[list[bytes], ...]:
        return (self._tables[table].keys,)


def _beyond(lists: tuple[list[bytes], ...], start: bytes, stop: bytes | None, reverse: bool) -> bytes | None:
    """The first (reverse: the last) key with start <= key < stop in any of the sorted lists."""
    best: bytes | None = None
    for keys in lists:
        if reverse:
            place = (len(keys) if stop is None else bisect_left(keys, stop)) - 1
            if place >= 0 and keys[place] >= start and (best is None or keys[place] > best):
                best = keys[place]
        else:
            place = bisect_left(keys, start)
            if place < len(keys) and (stop is None or keys[place] < stop) and (best is None or keys[place] < best):
                best = keys[place]
    return best


class MemoryTransaction(MemoryReader):
    def __init__(self, tables: Mapping[str, _Table]) -> None:
        super().__init__(tables)
        self._overlays = {name: _Overlay() for name in tables}

    def get(self, table: str, key: bytes) -> bytes | None:
        changed = self._overlays[table].rows
        return changed[key] if key in changed else self._tables[table].rows.get(key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        if not 1 <= len(key) <= KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; LMDB takes 1 to {KEY_BYTES}")
        self._overlays[table].put(key, bytes(value))

    def delete(self, table: str, key: bytes) -> bool:
        if self.get(table, key) is None:
            return False
        self._overlays[table].put(key, None)
        return True

    def apply(self) -> None:
        for name, overlay in self._overlays.items():
            table = self._tables[name]
            for key, value in overlay.rows.items():
                if value is None:
                    table.delete(key)
                else:
                    table.put(key, value)

    def _keys(self, table: str) -> tuple[list[bytes], ...]:
        return (self._tables[table].keys, self._overlays[table].keys)


class MemoryEnvironment:
    """`crash()` is a power loss: the open transaction is gone, what was committed stays."""

    def __init__(self, tables: Iterable[str]) -> None:
        self._tables = {name: _Table() for name in tables}
        self._transaction: MemoryTransaction | None = None

    def transaction(self) -> MemoryTransaction:
        if self._transaction is None:
            self._transaction = MemoryTransaction(self._tables)
        return self._transaction

    def commit(self) -> None:
        if self._transaction is not None:
            self._transaction.apply()
            self._transaction = None

    @contextmanager
    def snapshot(self) -> Iterator[MemoryReader]:
        """Good until the next commit (LMDB's outlives it): read, then let go."""
        yield MemoryReader(self._tables)

    def crash(self) -> None:
        self._transaction = None

    def close(self) -> None:
        self.crash()
