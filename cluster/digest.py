"""The digest of a member's state: a chain over every write of every apply, so that members can compare.

Same log, same state: whoever differs at the same index has a defect or a damaged disk, and must not serve. Reading
the state would cost what it holds; the chain costs what an apply writes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from hashlib import blake2b

from cluster.kv.api import Transaction

BYTES = 16
_LENGTHS = struct.Struct(">BHI")


class Recorder:
    """The transaction as apply sees it; `digest` covers all that was written through it, and what came before."""

    def __init__(self, transaction: Transaction, previous: bytes) -> None:
        self._transaction = transaction
        self._hash = blake2b(previous, digest_size=BYTES)
        self.get = transaction.get
        self.count = transaction.count

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._transaction.scan(table, start, stop, reverse=reverse)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        name = table.encode()
        self._hash.update(_LENGTHS.pack(len(name), len(key), len(value)) + name + key)
        self._hash.update(value)
        self._transaction.put(table, key, value)

    def delete(self, table: str, key: bytes) -> bool:
        name = table.encode()
        self._hash.update(_LENGTHS.pack(len(name) | 0x80, len(key), 0) + name + key)
        return self._transaction.delete(table, key)

    def digest(self) -> bytes:
        return self._hash.digest()


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
