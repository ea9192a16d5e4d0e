"""What a switch or a purge would do now: decided by the code that decides in apply, over a snapshot; not written."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.kv.api import Reader, Transaction
from registry.core import commands, outcomes, removing, switching
from registry.store.state import StoreState


def switch(reader: Reader, command: commands.Switch, *, level: int) -> outcomes.Switched | outcomes.Rejected:
    """`command` is well-formed (validation.check). The outcome's revision and times are those of no change."""
    return switching.switch(StoreState(_Unwritten(reader), level=level), command, level=level)


def purge(reader: Reader, command: commands.Purge) -> outcomes.Purged | outcomes.Rejected:
    """Likewise. That other contents lie over this one is no reason: they are packed again before."""
    return removing.purge(_Purging(_Unwritten(reader), level=2), command)


class _Purging(StoreState):
    """Of what it writes itself, a purge reads since when a backup may hold the bytes."""

    def __init__(self, transaction: Transaction, *, level: int) -> None:
        super().__init__(transaction, level=level)
        self._since: dict[str, int] = {}

    def deltas(self, base: str) -> Iterator[str]:
        return iter(())

    def let_go(self, digest: str) -> int | None:
        return self._since.get(digest) or super().let_go(digest)

    def put_let_go(self, digest: str, revision: int) -> None:
        self._since[digest] = revision


class _Unwritten:
    """A transaction over a snapshot that drops what is written. A switch reads nothing that it wrote itself."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._reader.get(table, key)

    def scan(
        self, table: str, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._reader.scan(table, start, stop, reverse=reverse)

    def count(self, table: str) -> int:
        return self._reader.count(table)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        pass

    def delete(self, table: str, key: bytes) -> bool:
        return False
