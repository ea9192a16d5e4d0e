"""Ordered tables of bytes, one write transaction at a time: what the journal, the engine and the state machine share.

Two twins pass the same contract tests (tests/unit/cluster/test_kv.py): `lmdb_env` on a disk, `memory_env` for
simulation. One environment holds log and state, so that one synced commit makes both durable together.

A commit is durable at once or with the next one that is: a crash leaves what some commit has left, the last synced one
or a later one. A checkpoint is the step at which what was committed reaches those who read the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class Damaged(Exception):
    """A row, or what leads to it, is not what was written. Nothing of it was given out.

    Raised by whatever reads; `table` and `key` may be empty where the damage is not that of one row."""

    def __init__(self, table: str, key: bytes, what: str) -> None:
        super().__init__(f"table {table or '?'}, key {key[:80]!r}: {what}")
        self.table, self.key = table, key


class CompactionLost(Exception):
    """The environment was replaced or closed meanwhile, or written to faster than it was copied: nothing is left to do,
    and nothing was changed."""


class Compaction(Protocol):
    """A second file that takes the place of the first, without its free pages, while writing goes on."""

    def copy(self) -> int:
        """Copy what has changed since the last copy, as of the last checkpoint, at first everything, and make it
        durable. Long: may run in a worker thread, one at a time. Returns how many rows have changed since it began.
        Raises CompactionLost, OSError and what a store raises (no room): then call `abandon`."""
        ...

    def changed(self) -> int:
        """How many rows have changed since the last copy began, between two transactions."""
        ...

    def finish(self) -> int:
        """Copy the rest and take the place, in one durable step, between two transactions. Short after a `copy` that
        returned little. Returns the bytes given back to the file system, without what was
        set aside. Raises as `copy`."""
        ...

    def abandon(self) -> None:
        """What was copied is deleted."""
        ...


class Reader(Protocol):
    """One consistent view of all tables. What it reads is checked: raises Damaged."""

    def get(self, table: str, key: bytes) -> bytes | None: ...

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop, in order of key, or from the last down. Tables may change while it runs
        only through `Transaction.delete` of rows already passed."""
        ...

    def count(self, table: str) -> int:
        """Rows of the table, without walking them."""
        ...


class Transaction(Reader, Protocol):
    """The write transaction of the current tick; sees its own writes."""

    def put(self, table: str, key: bytes, value: bytes) -> None: ...

    def delete(self, table: str, key: bytes) -> bool: ...


class Writer(Transaction, Protocol):
    """A transaction that takes many rows at once for less."""

    def write(self, table: str, rows: Mapping[bytes, bytes | None]) -> None:
        """Puts, and where there is no value deletes."""
        ...


class Snapshots(Protocol):
    """All that a process needs that only reads."""

    def snapshot(self) -> AbstractContextManager[Reader]:
        """The last committed state, or if a transaction is open, that of the last checkpoint. Stays as it is while
        commits and a replacement go on; a disk keeps what it shows until it ends, so a long one (a minute) costs
        space, and asking for one a checkpoint."""
        ...

    def peek(self) -> AbstractContextManager[Reader]:
        """A short look at everything written so far, for far less: nothing may be written until it ends."""
        ...


class Environment(Snapshots, Protocol):
    """Used by one thread, but for `sync` and `Compaction.copy`."""

    before_snapshot: Callable[[], None]
    """Called whenever somebody wants to read: who holds back a commit that others know of makes it then."""

    failed: Callable[[BaseException], None]
    """Called when what was committed cannot be kept, wherever that is found out: nothing can be read or written any
    more, and the process must end."""

    @property
    def tables(self) -> tuple[str, ...]: ...

    def transaction(self) -> Writer:
        """The open write transaction, begun if there is none."""
        ...

    def commit(self, *, synced: bool = True) -> None:
        """End the open transaction, if there is one. It is durable afterwards, with all before it; or not `synced`,
        with the next one that is."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether a checkpoint is due some time."""
        ...

    def checkpoint(self) -> None:
        """Readers of the disk in other processes see what was committed. Long after many commits; nothing is done
        while a transaction is open."""
        ...

    def check(self) -> None:
        """Raises Damaged of a table that cannot take in what was committed: there is no checkpoint until all of it is
        replaced."""
        ...

    def abort(self) -> None:
        """What was written since the last commit is lost."""
        ...

    def size_bytes(self, table: str) -> int:
        """About what the table takes, without walking it: in the open transaction, else in the last commit."""
        ...

    def headroom_bytes(self) -> int:
        """About how much more can be written before the disk (or the map) is full: free pages of the file, what is set
        aside for it, and what is free on its file system. Cheap enough for once a second."""
        ...

    def set_aside(self, size_bytes: int) -> None:
        """Let the file system keep that much for this environment beyond what it uses now, where it has it: nobody else
        can take it. Called again as the file grows."""
        ...

    def compaction(self) -> Compaction:
        """Begin to rewrite this environment without its free pages; one at a time: one begun before is abandoned. Of
        what was deleted and committed before, nothing is left then."""
        ...

    def incoming(self) -> Environment:
        """A fresh, empty environment with the same tables beside this one, to `replace` it or be thrown away. There
        is one at a time: asking again discards the one before, which must not be in a `sync`. Its commits are not
        synced, it has no incoming environment of its own, and a crash takes it along."""
        ...

    def sync(self) -> None:
        """Make everything committed durable. Long when much was committed unsynced: may run in a worker thread."""
        ...

    def replace(self, incoming: Environment) -> None:
        """`incoming` becomes this environment, in one durable step: whenever a crash comes, what is opened again is
        the old whole or the new whole. Commits are synced again afterwards.

        No transaction may be open in either and no snapshot of `incoming`. Short if `incoming` was synced before."""
        ...

    def close(self) -> None:
        """The open transaction and the incoming environment, if any, are lost."""
        ...
