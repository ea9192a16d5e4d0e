"""Tables in memory: the deterministic twin for simulation and tests.

A commit costs what it changes, not what it holds; only while a snapshot is open, the tables it changes are copied.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from cluster.kv.api import CompactionLost, Damaged, Environment

KEY_BYTES = 511  # as LMDB
CAPACITY_BYTES = 64 * 1024**3


class _Table:
    """Rows, and their keys in order."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.damaged: set[bytes] = set()
        self.size_bytes = 0

    def copy(self) -> _Table:
        copy = _Table()
        copy.rows, copy.keys, copy.size_bytes = self.rows.copy(), self.keys.copy(), self.size_bytes
        copy.damaged = self.damaged.copy()
        return copy

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.rows:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                insort(self.keys, key)
        self.size_bytes += _size_bytes(key, value) - _size_bytes(key, self.rows.get(key))
        self.rows[key] = value
        self.damaged.discard(key)

    def delete(self, key: bytes) -> None:
        value = self.rows.pop(key, None)
        self.damaged.discard(key)
        if value is not None:
            self.size_bytes -= _size_bytes(key, value)
            del self.keys[bisect_left(self.keys, key)]


class _Overlay:
    """Uncommitted changes of one table; None: deleted."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.keys: list[bytes] = []
        self.count = 0  # rows added less those deleted
        self.size_bytes = 0  # likewise

    def put(self, key: bytes, before: bytes | None, value: bytes | None) -> None:
        if key not in self.rows:
            insort(self.keys, key)
        self.rows[key] = value
        self.count += (value is not None) - (before is not None)
        self.size_bytes += _size_bytes(key, value) - _size_bytes(key, before)

    def apply(self, table: _Table) -> None:
        for key, value in self.rows.items():
            if value is None:
                table.delete(key)
            else:
                table.put(key, value)


def _size_bytes(key: bytes, value: bytes | None) -> int:
    return 0 if value is None else len(key) + len(value)


class MemoryReader:
    """One version of the tables."""

    def __init__(self, tables: Mapping[str, _Table]) -> None:
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        if key in self._tables[table].damaged:
            raise Damaged(table, key, "damaged by a test")
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

    def count(self, table: str) -> int:
        return len(self._tables[table].rows)

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
        return changed[key] if key in changed else super().get(table, key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        if not 1 <= len(key) <= KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; LMDB takes 1 to {KEY_BYTES}")
        self._overlays[table].put(key, self._unread(table, key), bytes(value))

    def delete(self, table: str, key: bytes) -> bool:
        before = self._unread(table, key)
        if before is None:
            return False
        self._overlays[table].put(key, before, None)
        return True

    def write(self, table: str, rows: Mapping[bytes, bytes | None]) -> None:
        for key, value in rows.items():
            if value is None:
                self.delete(table, key)
            else:
                self.put(table, key, value)

    def _unread(self, table: str, key: bytes) -> bytes | None:
        """Damaged or not: who writes does not read."""
        changed = self._overlays[table].rows
        return changed[key] if key in changed else self._tables[table].rows.get(key)

    def count(self, table: str) -> int:
        return super().count(table) + self._overlays[table].count

    def size_bytes(self, table: str) -> int:
        return self._tables[table].size_bytes + self._overlays[table].size_bytes

    def changes(self) -> Iterator[tuple[str, _Overlay]]:
        return ((name, overlay) for name, overlay in self._overlays.items() if overlay.rows)

    def _keys(self, table: str) -> tuple[list[bytes], ...]:
        return (self._tables[table].keys, self._overlays[table].keys)


class _Version(dict[str, _Table]):
    """The tables as committed, by name. Once a snapshot shows it, it stays as it is, and the next version shares its
    tables until it changes them."""

    def __init__(self, tables: Mapping[str, _Table], shared: Iterable[str] = ()) -> None:
        super().__init__(tables)
        self.snapshots = 0
        self._shared = set(shared)

    def after(self, transaction: MemoryTransaction) -> _Version:
        version = _Version(self, self) if self.snapshots else self
        for name, overlay in transaction.changes():
            if name in version._shared:
                version[name] = version[name].copy()
                version._shared.remove(name)
            overlay.apply(version[name])
        return version


class MemoryCompaction:
    """There is nothing to gain in memory: it only ends, and is lost, as one on a disk."""

    def __init__(self) -> None:
        self._is_copied = self._is_lost = False

    def copy(self) -> int:
        self._check()
        self._is_copied = True
        return 0

    def changed(self) -> int:
        return 0

    def finish(self) -> int:
        self._check()
        assert self._is_copied, "nothing was copied"
        self._is_lost = True
        return 0

    def abandon(self) -> None:
        self._is_lost = True

    def _check(self) -> None:
        if self._is_lost:
            raise CompactionLost("the environment was replaced or closed, or this compaction has ended")


class MemoryEnvironment:
    """`crash()` is a power loss: the open transaction and the incoming environment are gone, and what was committed
    since the last synced commit. A subclass may fail before or after `commit` and `replace`: each is one step.
    `capacity_bytes` is what headroom is reckoned from; nothing is refused beyond it."""

    def __init__(self, tables: Iterable[str]) -> None:
        self._tables = _Version({name: _Table() for name in tables})
        self._transaction: MemoryTransaction | None = None
        self._durable: dict[tuple[str, bytes], bytes | None] = {}  # rows before the commits that a crash undoes
        self._peeks = 0
        self._incoming: MemoryEnvironment | None = None
        self._compaction: MemoryCompaction | None = None
        self.capacity_bytes = CAPACITY_BYTES
        self.before_snapshot: Callable[[], None] = lambda: None
        self.failed: Callable[[BaseException], None] = lambda _error: None

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(self._tables)

    def transaction(self) -> MemoryTransaction:
        assert not self._peeks, "a transaction while somebody looks at what it changes"
        if self._transaction is None:
            self._transaction = MemoryTransaction(self._tables)
        return self._transaction

    def commit(self, *, synced: bool = True) -> None:
        if synced:
            self._durable.clear()
        if self._transaction is None:
            return
        if not synced:
            for name, overlay in self._transaction.changes():
                for key in overlay.rows:
                    self._durable.setdefault((name, key), self._tables[name].rows.get(key))
        self._tables = self._tables.after(self._transaction)
        self._transaction = None

    @property
    def is_behind(self) -> bool:
        return False

    def checkpoint(self) -> None: ...

    def check(self) -> None: ...

    def abort(self) -> None:
        self._transaction = None

    @contextmanager
    def snapshot(self) -> Iterator[MemoryReader]:
        self.before_snapshot()
        shown = self._tables
        shown.snapshots += 1
        try:
            yield MemoryReader(shown)
        finally:
            shown.snapshots -= 1

    @contextmanager
    def peek(self) -> Iterator[MemoryReader]:
        self.before_snapshot()
        self._peeks += 1
        try:
            yield self._transaction or MemoryReader(self._tables)
        finally:
            self._peeks -= 1

    def size_bytes(self, table: str) -> int:
        if self._transaction is not None:
            return self._transaction.size_bytes(table)
        return self._tables[table].size_bytes

    def headroom_bytes(self) -> int:
        return max(0, self.capacity_bytes - sum(table.size_bytes for table in self._tables.values()))

    def set_aside(self, size_bytes: int) -> None: ...

    def damage(self, table: str, key: bytes) -> None:
        """This committed row cannot be read any more, until it is overwritten or deleted, or all is replaced."""
        assert key in self._tables[table].rows, "no such row"
        self._tables[table].damaged.add(key)

    def compaction(self) -> MemoryCompaction:
        """One begun before is abandoned."""
        self._lose_compaction()
        self._compaction = MemoryCompaction()
        return self._compaction

    def _lose_compaction(self) -> None:
        if self._compaction is not None:
            self._compaction.abandon()
            self._compaction = None

    def incoming(self) -> MemoryEnvironment:
        self._incoming = MemoryEnvironment(self.tables)
        return self._incoming

    def sync(self) -> None: ...

    def replace(self, incoming: Environment) -> None:
        assert isinstance(incoming, MemoryEnvironment), "not an environment in memory"
        assert incoming is self._incoming, "not the latest incoming environment of this one"
        assert self._transaction is None, "a transaction is open"
        assert incoming._transaction is None, "a transaction of the incoming environment is open"
        assert not incoming._tables.snapshots, "a snapshot of the incoming environment is open"
        self._lose_compaction()
        self._tables, self._incoming = incoming._tables, None
        self._durable.clear()

    def crash(self) -> None:
        self.close()
        undo = MemoryTransaction(self._tables)
        for (table, key), value in self._durable.items():
            undo.write(table, {key: value})
        self._durable.clear()
        self._tables = self._tables.after(undo)

    def close(self) -> None:
        self._lose_compaction()
        self._transaction = self._incoming = None
