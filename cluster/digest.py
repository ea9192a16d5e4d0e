"""The digest of a member's state: a chain over every write of every apply, so that members can compare.

Same log, same state: whoever differs at the same index has a defect or a damaged disk, and must not serve. Reading
the state would cost what it holds; the chain costs what an apply writes.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from hashlib import blake2b

from cluster.kv.api import Writer

BYTES = 16
KNOWN_BYTES = 4096  # larger rows are read again: an entry may have met many contents
_LENGTHS = struct.Struct(">BHI")


class Recorder:
    """The transaction as the apply of one entry sees it; `digest` covers all that was written through it, and what came
    before.

    The commands of an entry read and write much the same rows. What one has read or written, the next finds here; of
    what is written again and again, the transaction gets the newest, once `digest` or a scan asks for it."""

    def __init__(self, transaction: Writer, previous: bytes) -> None:
        self._transaction = transaction
        self._hash = blake2b(previous, digest_size=BYTES)
        self._known: defaultdict[str, dict[bytes, bytes | None]] = defaultdict(dict)  # None: there is no such row
        self._unwritten: list[tuple[str, bytes, bytes | None]] = []  # in order; None: deleted

    def get(self, table: str, key: bytes) -> bytes | None:
        rows = self._known[table]
        if key in rows:
            return rows[key]
        value = self._transaction.get(table, key)
        if value is None or len(value) <= KNOWN_BYTES:
            rows[key] = value
        return value

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._write()
        yield from self._transaction.scan(table, start, stop, reverse=reverse)

    def count(self, table: str) -> int:
        self._write()
        return self._transaction.count(table)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self._known[table][key] = value
        self._unwritten.append((table, key, value))

    def delete(self, table: str, key: bytes) -> bool:
        rows = self._known[table]
        was_there = rows[key] is not None if key in rows else self._transaction.delete(table, key)
        rows[key] = None
        self._unwritten.append((table, key, None))
        return was_there

    def digest(self) -> bytes:
        """To be asked for at the end of the entry: until then, not all that was written is in the transaction."""
        self._write()
        return self._hash.digest()

    def _write(self) -> None:
        newest: defaultdict[str, dict[bytes, bytes | None]] = defaultdict(dict)
        hashed: list[bytes] = []
        pack = _LENGTHS.pack
        for table, key, value in self._unwritten:
            name = table.encode()
            newest[table][key] = value
            if value is None:
                hashed += (pack(len(name) | 0x80, len(key), 0), name, key)
            else:
                hashed += (pack(len(name), len(key), len(value)), name, key, value)
        self._hash.update(b"".join(hashed))
        self._unwritten.clear()
        for table, rows in newest.items():
            self._transaction.write(table, rows)


class Comparison:
    """What this member's digests are at some indexes, and how the others' compare."""

    REMEMBERED = 16

    def __init__(self, every: int) -> None:
        self._every = every
        self._own: dict[int, bytes] = {}
        self.index, self.digest = 0, b""  # the newest, to be told to the others
        self._same: set[str] = set()
        self._other: dict[str, bytes] = {}

    def applied(self, index: int, digest: bytes) -> None:
        if index % self._every == 0:
            self._own[index] = self.digest = digest
            self.index = index
            while len(self._own) > self.REMEMBERED:
                del self._own[next(iter(self._own))]

    def restart(self) -> None:
        """The state was replaced."""
        self._own.clear()
        self._same.clear()
        self._other.clear()
        self.index, self.digest = 0, b""

    def heard(self, peer: str, index: int, digest: bytes) -> None:
        own = self._own.get(index)
        if own is None:
            return
        self._same.discard(peer)
        self._other.pop(peer, None)
        if own == digest:
            self._same.add(peer)
        else:
            self._other[peer] = digest

    def is_wrong(
        self, *, own: str, leader: str | None, voters: Collection[str], is_majority: Callable[[set[str]], bool]
    ) -> bool:
        """A majority of the voters has one other state; or the leader has, and nobody knows better: its results
        are what callers were told."""
        if not self._other:
            return False
        for digest in self._other.values():
            if is_majority({peer for peer, other in self._other.items() if other == digest}):
                return True
        alike = (self._same & set(voters)) | ({own} & set(voters))
        compared = alike | (self._other.keys() & set(voters))
        return leader in self._other and compared >= set(voters) and not is_majority(alike)
