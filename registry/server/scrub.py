"""Reading everything a member has, and checking it, slowly, while it serves.

A walk over all tables, in slices of a few milliseconds; each slice has a snapshot of its own, so that the database can
reuse its pages, and compares only what stands in one snapshot. Tables with large rows, and those that lead to them, are
read beside the loop: a row of some megabytes takes longer than a heartbeat may wait. Contents are unpacked in the order
of versions, whose chains share their links.

Two kinds of damage. A row that is not what was written: the state is fetched anew from another member. A row that is
what was written and does not make sense (bytes of another digest, a version without content): the others may have the
same, so that is only told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import msgspec

from cluster import journal
from cluster.kv.api import Damaged, Environment, Reader
from registry.core.errors import RegistryError
from registry.server.contents import Contents
from registry.server.limits import INLINE_WORK_BYTES, SCRUB_DAMAGE, SCRUB_KEPT_BYTES, SCRUB_REST, SCRUB_SLICE_S
from registry.server.reading import beside
from registry.store import checks, content, tables
from registry.store.content import Chain
from registry.store.state import Rows

_LARGE = {journal.LOG, tables.VERSIONS, tables.CONTENTS, tables.CHUNKS}  # of rows, or leading to them
_WRONG = (RegistryError, checks.WrongError, msgspec.MsgspecError, ValueError)


class Damage(NamedTuple):
    table: str
    key: bytes
    what: str
    in_row: bool = True  # it is not what was written

    @property
    def in_state(self) -> bool:
        """Replaced by fetching a state. The log is not: what is needed of it is read, and ends the member."""
        return self.in_row and self.table not in journal.OWN

    def __str__(self) -> str:
        return f"table {self.table}, key {self.key[:80]!r}: {self.what}"


class _Later(NamedTuple):
    """Bytes to be unpacked once the snapshot has ended."""

    key: bytes
    of: Chain | checks.Stored


@dataclass
class Scrub:
    """One walk, and how far it is."""

    environment: Environment
    now: Callable[[], float] = time.perf_counter
    rows: int = 0
    contents: int = 0  # unpacked, chunks too
    size_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.estimated_bytes = sum(map(self.environment.size_bytes, self.environment.tables))
        self._kept = Contents(hot_bytes=SCRUB_KEPT_BYTES)

    async def run(self) -> AsyncIterator[None]:
        """Yields after every slice. Stops at SCRUB_DAMAGE."""
        for table in self.environment.tables:
            walk = _Walk(table)
            while not walk.ended and len(self.damage) < SCRUB_DAMAGE:
                began_s = self.now()
                later = await self._read(walk)
                for each in later:
                    await self._unpack(walk, each)
                    await asyncio.sleep(0)
                yield
                await asyncio.sleep((self.now() - began_s) * SCRUB_REST)

    async def _read(self, walk: _Walk) -> list[_Later]:
        if walk.table in _LARGE:
            return await beside(self.environment, partial(self._slice, walk))
        with self.environment.peek() as reader:
            return self._slice(walk, reader)

    def _slice(self, walk: _Walk, reader: Reader) -> list[_Later]:
        """Some rows of the table, and what of them is to be unpacked."""
        until_s, later, work_bytes = self.now() + SCRUB_SLICE_S, list[_Later](), 0
        try:
            walk.begin(reader)
            for key, value in reader.scan(walk.table, walk.position):
                if not walk.passes(key):
                    self._add(Damage(walk.table, key, "it stands out of order"))
                    return later
                self.rows += 1
                self.size_bytes += len(key) + len(value)
                if (each := self._look(walk, reader, key)) is not None:
                    later.append(each)
                    work_bytes += _work_bytes(each.of)
                if self.now() >= until_s or work_bytes > INLINE_WORK_BYTES:
                    return later
            walk.ended = True
            if lost := walk.lost(reader):
                self._add(Damage(walk.table, b"", lost))
        except Damaged as damage:
            self._add(_of(damage))
            walk.skip(damage)
        return later

    def _look(self, walk: _Walk, reader: Reader, key: bytes) -> _Later | None:
        rows = Rows(reader)
        try:
            stored = checks.look(rows, walk.table, key)
            if stored is None or stored.is_chunk:
                return stored and _Later(key, stored)
            return _Later(key, self._kept.chain(rows, stored.digest, stored.row))
        except Damaged as damage:
            self._add(_of(damage))
        except _WRONG as error:
            self._tell(walk, key, error)
        return None

    async def _unpack(self, walk: _Walk, each: _Later) -> None:
        try:
            if isinstance(each.of, Chain):
                self.contents += each.of.whole is None
                await self._kept.exact(each.of)
            else:
                self.contents += 1
                await asyncio.to_thread(content.decode, each.of.row, each.of.digest)
        except _WRONG as error:
            self._tell(walk, each.key, error)

    def _tell(self, walk: _Walk, key: bytes, error: Exception) -> None:
        what = error.message if isinstance(error, RegistryError) else str(error)
        self._add(Damage(walk.table, key, what, in_row=False))

    def _add(self, damage: Damage) -> None:
        """Several rows may lead to the same one."""
        if damage not in self.damage:
            self.damage.append(damage)


def _of(damage: Damaged) -> Damage:
    return Damage(damage.table, damage.key, str(damage).rpartition("': ")[2])


class _Walk:
    """Where in a table."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.position = b""
        self.ended = False
        self._last: bytes | None = None
        self._rows = 0
        self._first_index: int | None = None  # applied in the first slice's snapshot
        self._skipped = False

    def begin(self, reader: Reader) -> None:
        if self._first_index is None:
            self._first_index = journal.applied_in(reader)

    def passes(self, key: bytes) -> bool:
        """False, and the end: this key is not behind the last one, so that rows are where nobody finds them."""
        self.ended = self._last is not None and key <= self._last
        self._last, self.position = key, key + b"\0"
        self._rows += 1
        return not self.ended

    def lost(self, reader: Reader) -> str:
        """At the end: whether fewer rows were met than there are, as far as nothing has changed meanwhile."""
        if self._skipped or self.table in journal.OWN or journal.applied_in(reader) != self._first_index:
            return ""
        if (count := reader.count(self.table)) == self._rows:
            return ""
        return f"it has {count} rows, and {self._rows} were found"

    def skip(self, damage: Damaged) -> None:
        """Go on behind a damaged row. Where it is not a row, but what leads to rows, the rest cannot be reached."""
        self.ended = damage.table != self.table or damage.key < self.position or damage.key == self._last
        self._skipped = True
        self._last, self.position = damage.key, damage.key + b"\0"


def _work_bytes(of: Chain | checks.Stored) -> int:
    return of.work_bytes if isinstance(of, Chain) else of.row.size_bytes
