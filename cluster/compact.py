"""Giving the free pages of the environment back to the file system, while everything goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from cluster.api import Compacted, CompactionRefused
from cluster.kv.api import Compaction, CompactionLost, Environment
from cluster.limits import COMPACTION_COPIES, COMPACTION_ROWS

BetweenTicks = Callable[[Callable[[], int]], Awaitable[int]]


class Compactor:
    """One at a time. `between_ticks` calls when no transaction is open."""

    def __init__(self, environment: Environment, between_ticks: BetweenTicks) -> None:
        self._environment, self._between_ticks = environment, between_ticks
        self._running: Compaction | None = None

    async def run(self) -> Compacted:
        """Raises CompactionRefused, and what the environment raises where it has no room for a second file."""
        if self._running:
            raise CompactionRefused("a compaction is going on already: wait for it")
        began_s = time.monotonic()
        self._running = compaction = self._environment.compaction()
        try:
            given_back_bytes = await self._rewrite(compaction)
        except CompactionLost as lost:
            compaction.abandon()
            raise CompactionRefused(f"it was given up: {lost}") from None
        except BaseException:
            compaction.abandon()
            raise
        finally:
            self._running = None
        after_bytes = sum(map(self._environment.size_bytes, self._environment.tables))
        return Compacted(after_bytes + given_back_bytes, after_bytes, time.monotonic() - began_s)

    async def _rewrite(self, compaction: Compaction) -> int:
        """What changes during a copy is copied again, until so little does that it can be done between two ticks."""
        loop = asyncio.get_running_loop()
        for _ in range(COMPACTION_COPIES):
            await loop.run_in_executor(None, compaction.copy)
            if await self._between_ticks(compaction.changed) <= COMPACTION_ROWS:
                break
        return await self._between_ticks(compaction.finish)

    def abandon(self) -> None:
        """The environment is about to be closed."""
        if self._running:
            self._running.abandon()
