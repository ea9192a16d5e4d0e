"""The Raft log, term, vote and configuration in the member's environment, as the engine wants to see them.

The engine takes it for its own journal (a list of (bytes, index, term)). Nothing here syncs: a tick's writes become
durable with the tick's one commit, before any promise about them leaves (`replica.Replica.tick`). Newest entries are
cached; open-ended slices are lazy, since the engine takes one of the whole tail for every message it handles.

What is in OWN belongs to this member alone. The table APPLIED is part of the state: how far it is applied, under which
configuration, and its digest. A state that is given to another member carries it along.

A row that cannot be read ends the member where the log, the term or the vote may have been promised: what it promised
must not be forgotten. Everything else is replaced: old log rows are dropped, a state is fetched (`damaged`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import overload

from cluster import configuration, entries
from cluster.api import DataDamaged
from cluster.configuration import NOBODY, Configuration
from cluster.kv.api import Damaged, Environment, Reader, Transaction
from cluster.limits import LOG_CACHE_BYTES

LOG = "raft_log"  # u64 index -> u64 term, entry
CONFIGURATIONS = "raft_configurations"  # u64 index of each log entry that is one -> nothing
META = "raft_meta"  # term, vote, diverged, damaged, forget
APPLIED = "raft_applied"  # index, configuration, digest
OWN = (LOG, CONFIGURATIONS, META)
TABLES = (*OWN, APPLIED)

Entry = tuple[bytes, int, int]  # bytes, index, term: the engine's order

MARK_CHARACTERS = 1000
REPLACE = (
    "What this member has promised to the others may be gone with it: replace the member. Start it with --join on a "
    "new data directory, then `regctl cluster replace` its name"
)

_U64 = struct.Struct(">Q")
_TERM, _VOTE, _DIVERGED, _DAMAGED, _FORGET = b"term", b"vote", b"diverged", b"damaged", b"forget"
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
    the log, committed or not, else the applied one. `damaged` says why the state must be replaced; empty: it need not.
    Raises DataDamaged where what was promised cannot be read."""

    applied_configuration: Configuration
    diverged: int  # the index at which it was found out; 0: it does not differ
    damaged: str

    def __init__(self, environment: Environment, founding: Configuration = NOBODY) -> None:
        """`founding`: the configuration of an environment that has none yet."""
        self._environment = environment
        self._has_promises = False  # whether the open transaction holds what the others may be told to rely on
        self.load()
        if self.applied_configuration == NOBODY and founding != NOBODY:
            environment.transaction().put(APPLIED, _CONFIGURATION, configuration.encode(founding))
            self._has_promises = True
            self.applied_configuration = founding
            self._choose_configuration()

    def load(self) -> None:
        """Read everything anew, after the environment was replaced too."""
        self._cache: list[Entry] = []  # the newest entries, contiguous up to `last`
        self._cache_bytes = 0
        self._configurations: list[tuple[int, Configuration]] = []  # above `applied`, in order
        with self._environment.peek() as reader:
            with _promised():
                self._load_own(reader)
                self.first, self.last = _ends_of_log(reader)
            self._load_applied(reader)
            unreadable = self._load_log(reader)
        if unreadable:
            self._drop(unreadable)
        self._choose_configuration()

    def _load_own(self, reader: Reader) -> None:
        rows = dict(reader.scan(META))  # a key that has changed is met in no other way
        self._term = _number(rows.get(_TERM))
        self._vote = rows[_VOTE].decode() if _VOTE in rows else None
        self.diverged, self._forget_to = _number(rows.get(_DIVERGED)), _number(rows.get(_FORGET))
        self.damaged = rows.get(_DAMAGED, b"").decode()

    def _load_applied(self, reader: Reader) -> None:
        """Where it cannot be read how far the state is applied, the log reaches as far at least."""
        rows: dict[bytes, bytes | None] = {}
        try:
            rows.update(reader.scan(APPLIED))
        except Damaged as damage:
            self.damaged, is_unreadable = self.damaged or str(damage), True
            for key in (_INDEX, _CONFIGURATION, _DIGEST):
                with suppress(Damaged):
                    rows[key] = reader.get(APPLIED, key)
        else:
            is_unreadable = False
        self.applied = _number(rows.get(_INDEX)) or (self.last if is_unreadable else 1)  # the log starts with a no-op
        self.digest = rows.get(_DIGEST) or b""
        if stored := rows.get(_CONFIGURATION):
            self.applied_configuration = configuration.decode(stored)
        else:
            with _promised():
                self.applied_configuration = self._configuration_in_log(reader) if is_unreadable else NOBODY

    def _configuration_in_log(self, reader: Reader) -> Configuration:
        """An older one than the applied one, perhaps: it tells whom to ask for a state."""
        for key, _ in reader.scan(CONFIGURATIONS, stop=_U64.pack(self.applied + 1), reverse=True):
            if found := entries.unpack_configuration((reader.get(LOG, key) or b"")[8:]):
                return found
        raise DataDamaged(f"{self.damaged}: the configuration. {REPLACE}")

    def _load_log(self, reader: Reader) -> int:
        """Read all that is not applied, and what fits in the cache. Returns the index of an applied row that cannot be
        read, and can be dropped; 0: there is none so far."""
        newest: list[Entry] = []
        index = self.last
        try:
            for key, row in reader.scan(LOG, reverse=True):
                if key != _U64.pack(index):
                    raise Damaged(LOG, key, f"it stands in the place of {index}")
                if index > self.applied and (found := entries.unpack_configuration(row[8:])):
                    self._configurations.insert(0, (index, found))
                if self._cache_bytes <= LOG_CACHE_BYTES // 2:
                    newest.append((row[8:], index, _U64.unpack_from(row)[0]))
                    self._cache_bytes += len(row)
                elif index <= self.applied:
                    break
                index -= 1
        except Damaged as damage:
            if index > self.applied:
                raise DataDamaged(f"{damage}. {REPLACE}") from damage
            newest = newest or [(entries.NO_OP, index, 0)]  # its term is gone with it
            self._cache = newest[::-1]
            if index < self.applied and damage.key == _U64.pack(index):
                return index
            self.damaged = self.damaged or str(damage)
            return 0
        self._cache = newest[::-1]
        return 0

    def _drop(self, index: int) -> None:
        """The log up to `index`, as far as it is not needed here: as if it was trimmed."""
        up_to = min(index, self.applied - 1)
        self._delete_rows(self.first, up_to + 1)
        self.first = max(self.first, up_to + 1)

    def _choose_configuration(self) -> None:
        newest = self._configurations[-1] if self._configurations else (0, self.applied_configuration)
        self.configuration_index, self.configuration = newest  # 0: the applied one

    def commit(self) -> None:
        """Of a tick that has only applied, a crash leaves nothing to mend: what it applied is committed by a majority
        and is applied again. So that is made durable along with the next promise."""
        self._environment.commit(synced=self._has_promises)
        self._has_promises = False

    def at(self, index: int) -> Entry:
        """The entry at `index`, first <= index <= last."""
        offset = index - (self.last - len(self._cache) + 1)
        if offset >= 0:
            return self._cache[offset]
        row = self._environment.transaction().get(LOG, _U64.pack(index))
        if row is None:
            if index < self.first:
                raise LookupError(f"log entry {index} was trimmed (log {self.first}..{self.last})")
            raise Damaged(LOG, b"", f"log entry {index} is missing (log {self.first}..{self.last})")
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
        self._has_promises = True  # a removed member must know it in its next life, since nobody talks to it any more
        self.applied_configuration = applied
        self._configurations = self._configurations[1:]
        self._choose_configuration()

    def set_diverged(self, index: int) -> None:
        self._environment.transaction().put(META, _DIVERGED, _U64.pack(index))
        self._has_promises = True

    def mark_damaged(self, why: str) -> None:
        """The state must be replaced by that of another member."""
        self.damaged = why[:MARK_CHARACTERS]
        self._environment.transaction().put(META, _DAMAGED, self.damaged.encode())

    def drop_unreadable(self, index: int) -> None:
        """The log up to a row that cannot be read, and that is below the last applied one on the disk."""
        self._delete_rows(self.first, index + 1)

    def forget(self, index: int) -> None:
        """What is in the log up to `index`, which is applied, must leave it soon, by `trim`."""
        self._forget_to = index
        self._environment.transaction().put(META, _FORGET, _U64.pack(index))

    @property
    def forgetting(self) -> bool:
        """Whether `trim` has something to do for `forget` now. The last applied entry stays until another one is."""
        return self.first <= min(self._forget_to, self.applied - 1)

    @property
    def forgets_last(self) -> bool:
        """Whether the last entry of all is to leave, which takes another one to be applied."""
        return self._forget_to == self.applied == self.last

    def trim(self, most_entries: int, most_bytes: int, at_once: int, needed: int) -> None:
        """Delete at most `at_once` of the oldest entries past `most_entries` kept behind what is applied, but not
        `needed` nor what follows it; and past `most_bytes`, or to be forgotten, needed or not."""
        excess = min(self.applied - self.first - most_entries, needed - self.first)
        size_bytes = self._environment.size_bytes(LOG)
        if size_bytes > most_bytes:
            excess = max(excess, int(len(self) * (1 - most_bytes / size_bytes)) + 1)
        excess = min(max(excess, self._forget_to + 1 - self.first), self.applied - self.first)
        if excess <= 0:
            return
        first, self.first = self.first, self.first + min(excess, at_once)
        self._delete_rows(first, self.first)
        self._forget_cached(max(0, self.first - (self.last - len(self._cache) + 1)))
        if 0 < self._forget_to < self.first:
            self._forget_to = 0
            self._environment.transaction().delete(META, _FORGET)

    def prepare(self, incoming: Environment, index: int, term: int, *, keep_rest: bool = False) -> None:
        """Give an environment with a fetched state, applied up to `index`, what is this member's own: its term and
        vote, and a log that goes on from there; `keep_rest`: with the entries that this one has behind it."""
        transaction = incoming.transaction()
        _put_term(transaction, self._term, self._vote)
        transaction.put(LOG, _U64.pack(index), _U64.pack(term) + entries.NO_OP)
        # Each by its key: a scan looks at the row before them too, which may be the damaged one.
        for kept in range(index + 1, self.last + 1 if keep_rest else 0):
            entry, _, entry_term = self.at(kept)
            transaction.put(LOG, _U64.pack(kept), _U64.pack(entry_term) + entry)
            if entries.unpack_configuration(entry):
                transaction.put(CONFIGURATIONS, _U64.pack(kept), b"")
        incoming.commit()
        self._environment.abort()  # `at` may have begun a transaction, to read

    # ---- what the engine calls
    def add(self, command: bytes, idx: int, term: int) -> None:
        assert idx == self.last + 1, f"a gap in the log: {idx} after {self.last}"
        transaction = self._environment.transaction()
        transaction.put(LOG, _U64.pack(idx), _U64.pack(term) + command)
        self._has_promises = True
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
        self._delete_rows(keep, self.last + 1)
        self._has_promises = True
        while self._configurations and self._configurations[-1][0] >= keep:
            self._configurations.pop()
        self._choose_configuration()
        removed = min(self.last - keep + 1, len(self._cache))
        if removed > 0:
            self._cache_bytes -= sum(len(entry[0]) + 8 for entry in self._cache[-removed:])
            del self._cache[-removed:]
        self.last = min(self.last, keep - 1)

    def _delete_rows(self, start: int, stop: int) -> None:
        transaction = self._environment.transaction()
        for index in range(start, stop):
            transaction.delete(LOG, _U64.pack(index))
            transaction.delete(CONFIGURATIONS, _U64.pack(index))

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
        self._has_promises = True
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


def log_index(damage: Damaged) -> int:
    """Of the row of the log that cannot be read; 0: it is another one, or it is not known which."""
    if damage.table not in (LOG, CONFIGURATIONS) or len(damage.key) != _U64.size:
        return 0
    return _U64.unpack(damage.key)[0]  # type: ignore[no-any-return]


def _ends_of_log(reader: Reader) -> tuple[int, int]:
    """The indexes of the first and the last row, one of which may be damaged: there are no gaps between them."""
    count, last = reader.count(LOG), _end_of_log(reader, reverse=True)
    if not count:
        return 1, 0
    if not last:
        last = (_end_of_log(reader, reverse=False) or applied_in(reader)) + count - 1
    return last - count + 1, last


def _end_of_log(reader: Reader, *, reverse: bool) -> int:
    """0: it cannot be read."""
    try:
        key, _ = next(reader.scan(LOG, reverse=reverse), (b"", b""))
    except Damaged:
        return 0
    return _number(key)


@contextmanager
def _promised() -> Iterator[None]:
    try:
        yield
    except Damaged as damage:
        raise DataDamaged(f"{damage}. {REPLACE}") from damage


def forgets_in(reader: Reader) -> bool:
    """Whether the log that `reader` shows holds entries that are to leave it."""
    forget, first = reader.get(META, _FORGET), _end_of_log(reader, reverse=False)
    return forget is not None and 0 < first <= _U64.unpack(forget)[0]


def applied_in(reader: Reader) -> int:
    """How far the state that `reader` shows is applied; 0: nowhere."""
    return _number(reader.get(APPLIED, _INDEX))


def _number(row: bytes | None) -> int:
    return _U64.unpack(row)[0] if row else 0


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
