"""Exact bytes of stored contents, and their form for who has others already: unpacked or packed once, kept while there
is room, and beside the loop where it takes long."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

from registry.core.errors import RegistryError
from registry.core.model import Content
from registry.server.limits import COMPACT_BYTES, HOT_BYTES, INLINE_BYTES, INLINE_WORK_BYTES
from registry.store import content
from registry.store.content import Base, Chain
from registry.store.state import Rows

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Compact(NamedTuple):
    """encoding: raw, zstd or delta; delta: a frame over the exact bytes of `base_digest`."""

    encoding: str
    base_digest: str
    data: bytes


class Contents:
    """Of one member. `clear` forgets all; what is unpacked meanwhile is not kept either."""

    def __init__(self, *, hot_bytes: int = HOT_BYTES, compact_bytes: int = COMPACT_BYTES) -> None:
        self._hot: _Recent[str, bytes] = _Recent(hot_bytes, len)
        self._compact: _Recent[tuple[str, str], Compact] = _Recent(compact_bytes, lambda each: len(each.data))
        self._running: dict[Hashable, asyncio.Future[Any]] = {}
        self._cleared = 0

    def clear(self) -> None:
        self._hot.clear()
        self._compact.clear()
        self._running.clear()
        self._cleared += 1

    def chain(self, rows: Rows, digest: str, row: Content | None = None) -> Chain:
        """To be unpacked after the snapshot has ended; `row`: its row, if it was read already. Raises as
        content.chain."""
        return content.chain(rows, digest, row, self._hot.get)

    def base(self, rows: Rows, digest: str) -> Chain | None:
        """To pack over. None: it is not here, in chunks, or damaged, which is for those to say who want it."""
        try:
            return self.chain(rows, digest) if rows.has_content(digest) else None
        except RegistryError:
            return None

    async def pack(self, data: bytes, over: Iterable[Chain]) -> Content:
        """Over one of them, without those that turn out to be damaged, or alone."""
        bases = []
        for chain in over:
            with suppress(RegistryError):
                bases.append(Base(chain.digest, await self.exact(chain), chain.row.depth))
        longest = max(len(each) for each in (data, *[base.data for base in bases]))
        return await beside(longest, lambda: content.pack(data, bases))

    async def exact(self, chain: Chain) -> bytes:
        """The exact bytes, checked. Raises CORRUPT_CONTENT."""
        if chain.whole is not None:
            return chain.whole
        if chain.work_bytes <= INLINE_WORK_BYTES:
            data = content.exact(chain)
            self._hot.put(chain.digest, data)
            return data
        cleared = self._cleared
        return await self._once(chain.digest, lambda: self._unpack(chain, cleared))

    async def compact(self, chain: Chain, over: Chain | None) -> Compact:
        """What one who has the bytes of `over` needs: the same for all of them. As it is stored, where that is all they
        need; otherwise packed over what they have, or alone. Raises CORRUPT_CONTENT."""
        key = chain.digest, over.digest if over else ""
        known = self._compact.get(key)
        if known is not None:
            return known
        cleared = self._cleared
        return await self._once(key, lambda: self._pack(chain, over, cleared))

    async def _unpack(self, chain: Chain, cleared: int) -> bytes:
        data = await asyncio.to_thread(content.exact, chain)
        if cleared == self._cleared:
            self._hot.put(chain.digest, data)
        return data

    async def _pack(self, chain: Chain, over: Chain | None, cleared: int) -> Compact:
        row = chain.row
        data = await self.exact(chain)  # also where the row goes out as it is: never unchecked
        if row.base == (over.digest if over else ""):
            packed = row
        else:
            packed = await self.pack(data, [over] if over is not None else [])
        made = Compact(packed.encoding, packed.base, packed.data)
        if cleared == self._cleared:
            self._compact.put((chain.digest, over.digest if over else ""), made)
        return made

    async def _once(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Callers that come while it runs share it; one that gives up does not stop it."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.ensure_future(make())
            running.add_done_callback(lambda done: self._end(key, done))
        made: T = await asyncio.shield(running)
        return made

    def _end(self, key: Hashable, done: asyncio.Future[Any]) -> None:
        if self._running.get(key) is done:
            del self._running[key]
        if not done.cancelled():
            done.exception()  # its callers have got it, if there are any left


async def beside(size_bytes: int, work: Callable[[], T]) -> T:
    """Beside the loop where it is long: the codecs let go of the interpreter."""
    return work() if size_bytes <= INLINE_BYTES else await asyncio.to_thread(work)


class _Recent(Generic[K, T]):
    """The most recently used, up to so many bytes."""

    def __init__(self, limit_bytes: int, size_of: Callable[[T], int]) -> None:
        self._limit_bytes, self._size_of = limit_bytes, size_of
        self._kept: OrderedDict[K, T] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> T | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: K, value: T) -> None:
        if key in self._kept or self._size_of(value) > self._limit_bytes:
            return
        self._kept[key] = value
        self._bytes += self._size_of(value)
        while self._bytes > self._limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= self._size_of(oldest)

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0
