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


class Transaction(Reader, Protocol):
    """The write transaction of the current tick; sees its own writes."""

    def put(self, table: str, key: bytes, value: bytes) -> None: ...

    def delete(self, table: str, key: bytes) -> bool: ...


class Environment(Protocol):
    def transaction(self) -> Transaction:
        """The open write transaction, begun if there is none."""
        ...

    def commit(self) -> None:
        """Make the open transaction durable (synced) and visible; nothing to do if none was begun."""
        ...

    def snapshot(self) -> AbstractContextManager[Reader]:
        """The last committed state."""
        ...

    def close(self) -> None: ...
