"""Who waits for what: calls sleep here until a commit concerns them.

Everything happens on the loop that applies. A caller reads a snapshot and then waits without yielding in between,
so no change can pass unseen; a wake-up says only "look again", never what changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from registry.core import limits
from registry.core.errors import Reason, Unavailable
from registry.core.model import Registry
from registry.server.limits import BUSY_RETRY_MS

PointerKey = tuple[str, str]  # workflow, pointer
K = TypeVar("K")


class Feed:
    """The newest committed state's identity and revision, and those who wait for a later one."""

    def __init__(self, registry: Registry, *, pollers: int = limits.POLLERS, watchers: int = limits.WATCHERS) -> None:
        self.registry = registry
        self.closed = False
        self._pollers_limit = pollers
        self._watchers_limit = watchers
        self._watching = 0
        self._waiting: set[asyncio.Future[None]] = set()  # all of them, also who follows nothing yet
        self._by_pointer: dict[PointerKey, set[asyncio.Future[None]]] = {}
        self._by_revision: dict[int, set[asyncio.Future[None]]] = {}
        self._polling = 0

    @property
    def pollers(self) -> int:
        """Polls waiting now."""
        return self._polling

    @property
    def watchers(self) -> int:
        """Streams open now."""
        return self._watching

    def publish(self, registry: Registry, touched: Iterable[PointerKey]) -> None:
        """Wake those who wait for one of the `touched` pointers or for a revision up to the new one."""
        self.registry = registry
        for key in touched:
            _wake(self._by_pointer.get(key, ()))
        for revision in [revision for revision in self._by_revision if revision <= registry.revision]:
            _wake(self._by_revision[revision])

    def replaced(self, registry: Registry) -> None:
        """All of the state is another one now: any pointer may have moved."""
        self.publish(registry, list(self._by_pointer))

    def close(self) -> None:
        """Wake everyone for good: the member is leaving. Later waits return at once."""
        self.closed = True
        _wake(self._waiting)

    async def pointers(self, keys: Iterable[PointerKey], timeout_s: float) -> bool:
        """Wait until one of the pointers was touched, at most timeout_s; whether one was (or the member leaves).
        Raises Unavailable(BUSY) past the bound of waiting polls."""
        if self._polling >= self._pollers_limit:
            raise busy(f"{self._polling} polls wait on this member, as many as it takes")
        self._polling += 1
        try:
            return await self._wait(self._by_pointer, set(keys), timeout_s)
        finally:
            self._polling -= 1

    async def revision(self, revision: int, timeout_s: float) -> bool:
        """Wait until `revision` is committed here, at most timeout_s; whether it is (or the member leaves)."""
        if self.registry.revision >= revision:
            return True
        return await self._wait(self._by_revision, {revision}, timeout_s)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """One open stream. Raises Unavailable(BUSY) past the bound."""
        if self._watching >= self._watchers_limit:
            raise busy(f"{self._watching} watches are open on this member, as many as it takes")
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1

    async def _wait(self, table: dict[K, set[asyncio.Future[None]]], keys: set[K], timeout_s: float) -> bool:
        if self.closed:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        for key in keys:
            table.setdefault(key, set()).add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiter)
            for key in keys:
                waiters = table[key]
                waiters.discard(waiter)
                if not waiters:
                    del table[key]


def busy(what: str) -> Unavailable:
    """Past a bound of this member: another one may have room."""
    return Unavailable(
        Reason.BUSY,
        what,
        hint="retry after retry_ms, or ask another member",
        metadata={"retry_ms": str(BUSY_RETRY_MS)},
    )


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
