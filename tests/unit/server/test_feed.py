from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest

from registry.core.errors import Unavailable
from registry.core.model import Registry
from registry.server.feed import Feed, PointerKey

LONG_S = 60.0
ACTIVE = ("a/b", "active")


class Follower:
    def __init__(self, feed: Feed) -> None:
        self.told: list[list[PointerKey] | None] = []
        self.revisions: list[int] = []
        self._feed = feed
        feed.follow(self.moved)

    def moved(self, touched: Iterable[PointerKey] | None) -> None:
        self.told.append(None if touched is None else list(touched))
        self.revisions.append(self._feed.registry.revision)


async def waiting(work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
    """Started, and run up to its wait."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


def test_who_follows_hears_of_touched_pointers_with_the_new_state() -> None:
    feed = Feed(Registry())
    follower = Follower(feed)
    feed.publish(Registry(revision=1), [])
    feed.publish(Registry(revision=2), [ACTIVE])
    feed.replaced(Registry(revision=9, cluster_id="c1"))
    feed.close()
    assert follower.told == [[ACTIVE], None, None]
    assert follower.revisions == [2, 9, 9]
    assert feed.closed


async def test_a_revision_wakes_those_who_wait_for_it_or_an_earlier_one() -> None:
    feed = Feed(Registry(revision=5))
    assert await feed.revision(5, LONG_S) is True
    six, seven, nine = [await waiting(feed.revision(revision, LONG_S)) for revision in (6, 7, 9)]
    feed.publish(Registry(revision=7), [])
    assert await six
    assert await seven
    assert not nine.done()
    feed.close()
    assert await nine
    assert await feed.revision(10, LONG_S) is True, "nobody waits for a member that leaves"


async def test_a_replaced_state_wakes_the_revisions_it_has() -> None:
    feed = Feed(Registry(revision=5))
    seven, nine = [await waiting(feed.revision(revision, LONG_S)) for revision in (7, 9)]
    feed.replaced(Registry(revision=8, cluster_id="c1"))
    assert await seven
    assert feed.registry.cluster_id == "c1"
    assert not nine.done()
    nine.cancel()


async def test_a_wait_ends_in_time_and_leaves_nothing_behind() -> None:
    feed = Feed(Registry())
    assert await feed.revision(1, 0.0) is False
    cancelled = await waiting(feed.revision(1, LONG_S))
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert feed._waiting == {}


async def test_streams_are_bounded() -> None:
    feed = Feed(Registry(), watchers=1)
    with feed.watching(), pytest.raises(Unavailable), feed.watching():
        pass
    assert feed.watchers == 0


def test_who_hears_of_reports_hears_of_the_agents_and_of_a_state_that_is_another_one() -> None:
    feed, heard = Feed(Registry()), list[object]()
    feed.hear(heard.append)
    feed.publish(Registry(revision=1), [ACTIVE])
    assert heard == []
    feed.publish(Registry(revision=1), [], {ACTIVE: {"edge-1"}})
    feed.replaced(Registry(revision=8))
    feed.close()
    assert heard == [{ACTIVE: {"edge-1"}}, None, None]
