"""The Raft log, term, vote and configuration in the member's environment, as the engine wants to see them.

The engine takes it for its own journal (a list of (bytes, index, term)). Nothing here syncs: a tick's writes become
durable with the tick's one commit, before any promise about them leaves (`replica.Replica.tick`). Newest entries are
cached; open-ended slices are lazy, since the engine takes one of the whole tail for every message it handles.

What is in OWN belongs to this member alone. The table APPLIED is part of the state: how far it is applied, under which
configuration, and its digest. A state that is given to another member carries it along.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from cluster import configuration, entries
from cluster.configuration import NOBODY, Configuration
from cluster.kv.api import Environment, Reader, Transaction
from cluster.limits import LOG_CACHE_BYTES

LOG = "raft_log"  # u64 index -> u64 term, entry
CONFIGURATIONS = "raft_configurations"  # u64 index of each log entry that is one -> nothing
META = "raft_meta"  # term, vote, diverged
APPLIED = "raft_applied"  # index, configuration, digest
OWN = (LOG, CONFIGURATIONS, META)
TABLES = (*OWN, APPLIED)

Entry = tuple[bytes, int, int]  # bytes, index, term: the engine's order

_U64 = struct.Struct(">Q")
_TERM, _VOTE, _DIVERGED = b"term", b"vote", b"diverged"
_INDEX, _CONFIGURATION, _DIGEST = b"index", b"configuration", b"digest"


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
    """`first` and `last` are the indexes of the log's ends; `last` is first - 1 while it is empty. `applied` is the
    newest index whose effects are in the state, `digest` that of all of them. `configuration` is the newest one in
    the log, committed or not, else the applied one."""

    applied_configuration: Configuration

    def __init__(self, environment: Environment, founding: Configuration = NOBODY) -> None:
        """`founding`: the configuration of an environment that has none yet."""
        self._environment = environment
        self.load()
        if self.applied_configuration == NOBODY and founding != NOBODY:
            environment.transaction().put(APPLIED, _CONFIGURATION, configuration.encode(founding))
            self.applied_configuration = founding
            self._choose_configuration()

    def load(self) -> None:
        """Read everything anew, after the environment was replaced too."""
        self._cache: list[Entry] = []  # the newest entries, contiguous up to `last`
        self._cache_bytes = 0
        with self._environment.snapshot() as snapshot:
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
            diverged = snapshot.get(META, _DIVERGED)
            self.diverged: int = _U64.unpack(diverged)[0] if diverged else 0  # index at which it was found out
            applied = snapshot.get(APPLIED, _INDEX)
            self.applied: int = _U64.unpack(applied)[0] if applied else 1  # the log starts with a no-op at 1
            self.digest: bytes = snapshot.get(APPLIED, _DIGEST) or b""
            stored = snapshot.get(APPLIED, _CONFIGURATION)
            self.applied_configuration = configuration.decode(stored) if stored else NOBODY
            self._configurations: list[tuple[int, Configuration]] = []  # above `applied`, in order
            for key, _ in snapshot.scan(CONFIGURATIONS, _U64.pack(self.applied + 1)):
                row = snapshot.get(LOG, key) or b""
                if found := entries.unpack_configuration(row[8:]):
                    self._configurations.append((_U64.unpack(key)[0], found))
        self._choose_configuration()

    def _choose_configuration(self) -> None:
        newest = self._configurations[-1] if self._configurations else (0, self.applied_configuration)
        self.configuration_index, self.configuration = newest  # 0: the applied one

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

    def set_applied(self, index: int, digest: bytes) -> None:
        transaction = self._environment.transaction()
        transaction.put(APPLIED, _INDEX, _U64.pack(index))
        transaction.put(APPLIED, _DIGEST, digest)
        self.applied, self.digest = index, digest

    def set_configuration(self, applied: Configuration) -> None:
        """The entry that is being applied is this configuration."""
        self._environment.transaction().put(APPLIED, _CONFIGURATION, configuration.encode(applied))
        self.applied_configuration = applied
        self._configurations = self._configurations[1:]
        self._choose_configuration()

    def set_diverged(self, index: int) -> None:
        self._environment.transaction().put(META, _DIVERGED, _U64.pack(index))

    def trim(self, most_entries: int, most_bytes: int, at_once: int, needed: int) -> None:
        """Delete at most `at_once` of the oldest entries past `most_entries` kept behind what is applied, but not
        `needed` nor what follows it; and past `most_bytes`, needed or not."""
        excess = min(self.applied - self.first - most_entries, needed - self.first)
        size_bytes = self._environment.size_bytes(LOG)
        if size_bytes > most_bytes:
            excess = max(excess, int(len(self) * (1 - most_bytes / size_bytes)) + 1)
        excess = min(excess, self.applied - self.first)
        if excess <= 0:
            return
        transaction = self._environment.transaction()
        for index in range(self.first, self.first + min(excess, at_once)):
            transaction.delete(LOG, _U64.pack(index))
            transaction.delete(CONFIGURATIONS, _U64.pack(index))
        self.first += min(excess, at_once)
        self._forget_cached(max(0, self.first - (self.last - len(self._cache) + 1)))

    def prepare(self, incoming: Environment, index: int, term: int) -> None:
        """Give an environment with a fetched state, applied up to `index`, what is this member's own: its term and
        vote, and a log that goes on from there."""
        transaction = incoming.transaction()
        _put_term(transaction, self._term, self._vote)
        transaction.put(LOG, _U64.pack(index), _U64.pack(term) + entries.NO_OP)
        incoming.commit()

    # ---- what the engine calls
    def add(self, command: bytes, idx: int, term: int) -> None:
        assert idx == self.last + 1, f"a gap in the log: {idx} after {self.last}"
        transaction = self._environment.transaction()
        transaction.put(LOG, _U64.pack(idx), _U64.pack(term) + command)
        self.last = idx
        if found := entries.unpack_configuration(command):
            transaction.put(CONFIGURATIONS, _U64.pack(idx), b"")
            self._configurations.append((idx, found))
            self._choose_configuration()
        self._cache.append((command, idx, term))
        self._cache_bytes += len(command) + 8
        if self._cache_bytes > LOG_CACHE_BYTES and len(self._cache) > 1:
            self._forget_cached(len(self._cache) // 2)

    def _forget_cached(self, count: int) -> None:
        if count:
            self._cache_bytes -= sum(len(entry[0]) + 8 for entry in self._cache[:count])
            del self._cache[:count]

    def deleteEntriesFrom(self, position: int) -> None:
        keep = self.first + position
        assert keep > self.applied, f"truncation at {keep} would undo applied {self.applied}"
        transaction = self._environment.transaction()
        for index in range(keep, self.last + 1):
            transaction.delete(LOG, _U64.pack(index))
            transaction.delete(CONFIGURATIONS, _U64.pack(index))
        while self._configurations and self._configurations[-1][0] >= keep:
            self._configurations.pop()
        self._choose_configuration()
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
        _put_term(self._environment.transaction(), term, vote)
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


def applied_in(reader: Reader) -> int:
    """How far the state that `reader` shows is applied; 0: nowhere."""
    return _U64.unpack(reader.get(APPLIED, _INDEX) or bytes(8))[0]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Standing:
    index: int
    term: int  # of the entry at it
    configuration: Configuration


def standing_in(reader: Reader) -> Standing:
    """How far a member is applied, and under which configuration. `reader` shows the whole environment, its log too.
    Raises LookupError where nothing was applied."""
    index = applied_in(reader)
    row, stored = reader.get(LOG, _U64.pack(index)), reader.get(APPLIED, _CONFIGURATION)
    if row is None or stored is None:
        raise LookupError("nothing was applied here")
    return Standing(index, _U64.unpack_from(row)[0], configuration.decode(stored))


def _put_term(transaction: Transaction, term: int, vote: str | None) -> None:
    transaction.put(META, _TERM, _U64.pack(term))
    if vote is None:
        transaction.delete(META, _VOTE)
    else:
        transaction.put(META, _VOTE, vote.encode())
