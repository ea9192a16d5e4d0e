"""How often is copied, and what becomes of a compaction that ends otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cluster.api import Compacted, CompactionRefused
from cluster.compact import Compactor
from cluster.journal import APPLIED, TABLES
from cluster.kv.memory_env import MemoryCompaction, MemoryEnvironment
from cluster.limits import COMPACTION_COPIES, COMPACTION_ROWS


class Changing(MemoryCompaction):
    """So many rows change during each copy; the last one repeats. An exception is raised instead."""

    def __init__(self, changed: list[int | Exception]) -> None:
        super().__init__()
        self._changed, self.copies, self.finished, self.abandoned = changed, 0, 0, 0

    def copy(self) -> int:
        super().copy()
        self.copies += 1
        changed = self._changed[min(self.copies, len(self._changed)) - 1]
        if isinstance(changed, Exception):
            raise changed
        return 0

    def changed(self) -> int:
        changed = self._changed[min(self.copies, len(self._changed)) - 1]
        assert not isinstance(changed, Exception)
        return changed

    def finish(self) -> int:
        super().finish()
        self.finished += 1
        return 1000

    def abandon(self) -> None:
        super().abandon()
        self.abandoned += 1


class Disk(MemoryEnvironment):
    def __init__(self, *changed: int | Exception) -> None:
        super().__init__(TABLES)
        self.transaction().put(APPLIED, b"key", bytes(97))
        self.commit()
        self.begun = Changing(list(changed))

    def compaction(self) -> Changing:
        self._compaction = self.begun
        return self.begun


async def at_once(call: Callable[[], int]) -> int:
    return call()


@pytest.mark.parametrize(
    ("changed", "copies"),
    [([0], 1), ([COMPACTION_ROWS], 1), ([10**6, COMPACTION_ROWS + 1, 5], 3), ([10**6], COMPACTION_COPIES)],
)
async def test_it_is_copied_again_until_little_is_left(changed: list[int | Exception], copies: int) -> None:
    disk = Disk(*changed)
    compacted = await Compactor(disk, at_once).run()
    assert (disk.begun.copies, disk.begun.finished, disk.begun.abandoned) == (copies, 1, 0)
    assert compacted == Compacted(1100, 100, compacted.seconds)


async def test_one_that_is_lost_is_abandoned_and_says_so() -> None:
    disk = Disk(0)
    compactor = Compactor(disk, at_once)
    disk.begun.abandon()
    with pytest.raises(CompactionRefused, match="was replaced or closed"):
        await compactor.run()
    assert disk.begun.abandoned == 2
    disk.begun = Changing([0])
    await compactor.run()


async def test_one_that_has_no_room_is_abandoned() -> None:
    disk = Disk(10**6, OSError("no space left on device"))
    with pytest.raises(OSError, match="no space left"):
        await Compactor(disk, at_once).run()
    assert (disk.begun.finished, disk.begun.abandoned) == (0, 1)


async def test_one_that_nobody_waits_for_any_more_is_abandoned() -> None:
    disk, never = Disk(0), asyncio.Event()

    async def not_yet(call: Callable[[], int]) -> int:
        await never.wait()
        return call()

    running = asyncio.create_task(Compactor(disk, not_yet).run())
    while not disk.begun.copies:
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (disk.begun.finished, disk.begun.abandoned) == (0, 1)


async def test_one_at_a_time() -> None:
    disk, may_end = Disk(0), asyncio.Event()

    async def later(call: Callable[[], int]) -> int:
        await may_end.wait()
        return call()

    compactor = Compactor(disk, later)
    first = asyncio.create_task(compactor.run())
    await asyncio.sleep(0)
    with pytest.raises(CompactionRefused, match="going on already"):
        await compactor.run()
    may_end.set()
    await first
