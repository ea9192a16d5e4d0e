"""Ordered tables of bytes, one write transaction at a time: what the journal, the engine and the state machine share.

Two twins pass the same contract tests (tests/unit/cluster/test_kv.py): `lmdb_env` on a disk, `memory_env` for
simulation. One environment holds log and state, so that one synced commit makes both durable together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Reader(Protocol):
    """One consistent view of all tables."""

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


class Environment(Protocol):
    """Used by one thread, but for `sync`."""

    @property
    def tables(self) -> tuple[str, ...]: ...

    def transaction(self) -> Transaction:
        """The open write transaction, begun if there is none."""
        ...

    def commit(self) -> None:
        """Make the open transaction durable (synced) and visible; nothing to do if none was begun."""
        ...

    def snapshot(self) -> AbstractContextManager[Reader]:
        """The last committed state. Stays as it is while commits and a replacement go on; a disk keeps what it shows
        until it ends, so a long one (a minute) costs space."""
        ...

    def size_bytes(self, table: str) -> int:
        """About what the table takes, without walking it: in the open transaction, else in the last commit."""
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
