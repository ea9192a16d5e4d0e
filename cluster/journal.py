"""The Raft log, term and vote in the member's environment, as the engine wants to see them.

The engine takes it for its own journal (a list of (bytes, index, term)). Nothing here syncs: a tick's writes become
durable with the tick's one commit, before any promise about them leaves (`replica.Replica.tick`). Newest entries are
cached; open-ended slices are lazy, since the engine takes one of the whole tail for every message it handles.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import overload

from cluster.kv.api import Environment
from cluster.limits import LOG_CACHE_BYTES

LOG = "raft_log"  # u64 index -> u64 term, entry
META = "raft_meta"  # term, vote, applied
TABLES = (LOG, META)

Entry = tuple[bytes, int, int]  # bytes, index, term: the engine's order

_U64 = struct.Struct(">Q")
_TERM, _VOTE, _APPLIED = b"term", b"vote", b"applied"


class Entries(Sequence[Entry]):
    """A lazy run of log positions; indexing reads the journal."""

    __slots__ = ("_journal", "_start", "_stop")

    def __init__(self, journal: Journal, start: int, stop: int) -> None:
        self._journal, self._start, self._stop = journal, start, max(start, stop)

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(position, slice):
            start, stop, step = position.indices(len(self))
            assert step == 1
            return Entries(self._journal, self._start + start, self._start + stop)
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        return self._journal.at(self._journal.first + self._start + position % len(self))

    def __iter__(self) -> Iterator[Entry]:
        first = self._journal.first
        for position in range(self._start, self._stop):
            yield self._journal.at(first + position)


class Journal:
    """`first` and `last` are the indexes of the log's ends; `last` is first - 1 while it is empty."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._cache: list[Entry] = []  # the newest entries, contiguous up to `last`
        self._cache_bytes = 0
        with environment.snapshot() as snapshot:
            head = next(snapshot.scan(LOG), None)
            self.first = _U64.unpack(head[0])[0] if head else 1
            self.last = self.first - 1
            for key, row in snapshot.scan(LOG, reverse=True):
                self.last = max(self.last, _U64.unpack(key)[0])
                self._cache.append((row[8:], _U64.unpack(key)[0], _U64.unpack_from(row)[0]))
                self._cache_bytes += len(row)
                if self._cache_bytes > LOG_CACHE_BYTES // 2:
                    break
            self._cache.reverse()
            term, vote = snapshot.get(META, _TERM), snapshot.get(META, _VOTE)
            self._term = _U64.unpack(term)[0] if term else 0
            self._vote = vote.decode() if vote else None
            applied = snapshot.get(META, _APPLIED)
            self.applied: int = _U64.unpack(applied)[0] if applied else 1  # the log starts with a no-op at 1

    def at(self, index: int) -> Entry:
        """The entry at `index`, first <= index <= last."""
        offset = index - (self.last - len(self._cache) + 1)
        if offset >= 0:
            return self._cache[offset]
        row = self._environment.transaction().get(LOG, _U64.pack(index))
        if row is None:
            raise LookupError(f"log entry {index} is missing (log {self.first}..{self.last})")
        return row[8:], index, _U64.unpack_from(row)[0]

    def term_at(self, index: int) -> int:
        return self.at(index)[2]

    def holds(self, index: int, term: int) -> bool:
        return self.first <= index <= self.last and self.term_at(index) == term

    def set_applied(self, index: int) -> None:
        self._environment.transaction().put(META, _APPLIED, _U64.pack(index))
        self.applied = index

    # ---- what the engine calls
    def add(self, command: bytes, idx: int, term: int) -> None:
        assert idx == self.last + 1, f"a gap in the log: {idx} after {self.last}"
        self._environment.transaction().put(LOG, _U64.pack(idx), _U64.pack(term) + command)
        self.last = idx
        self._cache.append((command, idx, term))
        self._cache_bytes += len(command) + 8
        if self._cache_bytes > LOG_CACHE_BYTES and len(self._cache) > 1:
            half = len(self._cache) // 2
            self._cache_bytes -= sum(len(entry[0]) + 8 for entry in self._cache[:half])
            del self._cache[:half]

    def deleteEntriesFrom(self, position: int) -> None:
        keep = self.first + position
        assert keep > self.applied, f"truncation at {keep} would undo applied {self.applied}"
        transaction = self._environment.transaction()
        for index in range(keep, self.last + 1):
            transaction.delete(LOG, _U64.pack(index))
        removed = min(self.last - keep + 1, len(self._cache))
        if removed > 0:
            self._cache_bytes -= sum(len(entry[0]) + 8 for entry in self._cache[-removed:])
            del self._cache[-removed:]
        self.last = min(self.last, keep - 1)

    def deleteEntriesTo(self, position: int) -> None:
        raise AssertionError("the engine must not compact: its limits are at infinity")

    def clear(self) -> None:
        raise AssertionError("the engine must not clear the log: it has no dumps")

    def __len__(self) -> int:
        return self.last - self.first + 1

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(position, slice):
            start, stop, _ = position.indices(len(self))
            return Entries(self, start, stop)
        return self.at(self.last + 1 + position if position < 0 else self.first + position)

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        transaction = self._environment.transaction()
        transaction.put(META, _TERM, _U64.pack(term))
        if vote is None:
            transaction.delete(META, _VOTE)
        else:
            transaction.put(META, _VOTE, vote.encode())
        self._term, self._vote = term, vote

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def getRaftCommitIndex(self) -> int:
        return self.applied

    def setRaftCommitIndex(self, index: int) -> None:
        """Not kept: on start everything applied is committed, and the leader tells the rest."""

    def onOneSecondTimer(self) -> None: ...

    def _destroy(self) -> None: ...
