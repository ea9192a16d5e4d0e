"""The newest committed state's identity and revision, those who wait for a later one, and word of pointers that moved.

Everything happens on the loop that applies (or, in another process, on the one that hears of it). A caller looks
and then waits without yielding in between, so no change can pass unseen. A look may itself commit what callers were
told: who takes several checks whether `registry` is still the one it began with.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from registry.core import limits
from registry.core.errors import Reason, Unavailable
from registry.core.model import Registry
from registry.server.limits import BUSY_RETRY_MS

PointerKey = tuple[str, str]  # workflow, pointer
Moved = Callable[[Iterable[PointerKey] | None], None]  # None: any of them may have; asked to leave too
Reported = Mapping[PointerKey, Collection[str]]  # names of agents
Heard = Callable[[Reported | None], None]  # None: any of them may have; asked to leave too


class Feed:
    def __init__(self, registry: Registry, *, watchers: int = limits.WATCHERS) -> None:
        self.registry = registry
        self.closed = False
        self._watchers_limit = watchers
        self._watching = 0
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}  # by the revision they wait for
        self._followers: list[Moved] = []
        self._hearers: list[Heard] = []

    @property
    def watchers(self) -> int:
        """Streams open now."""
        return self._watching

    def follow(self, moved: Moved) -> None:
        """`moved` hears which pointers were touched, at every commit that touched some, and when the feed closes."""
        self._followers.append(moved)

    def hear(self, heard: Heard) -> None:
        """`heard` hears which agents reported for which pointers, or were forgotten, at every commit with some."""
        self._hearers.append(heard)

    def publish(self, registry: Registry, touched: Iterable[PointerKey], reported: Reported | None = None) -> None:
        """Tell of the `touched` pointers and of those for which agents reported, and wake those who wait for a revision
        up to the new one."""
        self.registry = registry
        if touched:
            self._tell(touched)
        if reported:
            self._tell_reported(reported)
        for revision in [revision for revision in self._waiting if revision <= registry.revision]:
            _wake(self._waiting[revision])

    def replaced(self, registry: Registry) -> None:
        """All of the state is another one now: any pointer may have moved."""
        self.registry = registry
        self._tell(None)
        self._tell_reported(None)
        self.publish(registry, ())

    def close(self) -> None:
        """Wake everyone for good: the member is leaving. Later waits return at once."""
        self.closed = True
        self._tell(None)
        self._tell_reported(None)
        for waiters in self._waiting.values():
            _wake(waiters)

    async def revision(self, revision: int, timeout_s: float) -> bool:
        """Wait until `revision` is committed here, at most timeout_s; whether it is (or the member leaves)."""
        if self.registry.revision >= revision or self.closed:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(revision, set())
        waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
            return True
        except TimeoutError:
            return False
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._waiting.pop(revision, None)

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

    def _tell(self, touched: Iterable[PointerKey] | None) -> None:
        for moved in self._followers:
            moved(touched)

    def _tell_reported(self, reported: Reported | None) -> None:
        for heard in self._hearers:
            heard(reported)


def busy(what: str) -> Unavailable:
    """Past a bound of this member: another one may have room. Those who are told together come back apart."""
    return Unavailable(
        Reason.BUSY,
        what,
        hint="retry after retry_ms, or ask another member",
        metadata={"retry_ms": str(random.randint(BUSY_RETRY_MS // 2, BUSY_RETRY_MS * 2))},
    )


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
