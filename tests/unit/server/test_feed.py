from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from registry.core.errors import Reason, Unavailable
from registry.core.model import Registry
from registry.server.feed import Feed

LONG_S = 60.0
ACTIVE, CANARY = ("a/b", "active"), ("a/b", "canary")


async def waiting(work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
    """Started, and run up to its wait."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def test_a_switch_wakes_only_those_who_follow_the_pointer() -> None:
    feed = Feed(Registry())
    concerned = await waiting(feed.pointers([ACTIVE, CANARY], LONG_S))
    other = await waiting(feed.pointers([("a/c", "active")], LONG_S))
    feed.publish(Registry(revision=1), [CANARY])
    assert await concerned is True
    assert feed.pollers == 1
    assert not other.done()
    other.cancel()


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


async def test_a_replaced_state_wakes_every_poll_and_the_revisions_it_has() -> None:
    feed = Feed(Registry(revision=5))
    polls = [await waiting(feed.pointers([key], LONG_S)) for key in (ACTIVE, ("a/c", "active"))]
    seven, nine = [await waiting(feed.revision(revision, LONG_S)) for revision in (7, 9)]
    feed.replaced(Registry(revision=8, cluster_id="c1"))
    assert await asyncio.gather(*polls, seven) == [True, True, True]
    assert feed.registry.cluster_id == "c1"
    assert not nine.done()
    nine.cancel()


async def test_a_wait_ends_in_time_and_leaves_nothing_behind() -> None:
    feed = Feed(Registry())
    assert await feed.pointers([ACTIVE], 0.0) is False
    assert await feed.revision(1, 0.0) is False
    cancelled = await waiting(feed.pointers([ACTIVE], LONG_S))
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert feed.pollers == 0
    assert feed._by_pointer == {}
    assert feed._by_revision == {}


async def test_closing_wakes_everyone_and_later_waits_return_at_once() -> None:
    feed = Feed(Registry())
    polls = [await waiting(feed.pointers(keys, LONG_S)) for keys in ([ACTIVE], [])]
    feed.close()
    assert await asyncio.gather(*polls) == [True, True]
    assert await feed.pointers([ACTIVE], LONG_S) is True


async def test_waits_are_bounded() -> None:
    feed = Feed(Registry(), pollers=1, watchers=1)
    held = await waiting(feed.pointers([ACTIVE], LONG_S))
    with pytest.raises(Unavailable) as caught:
        await feed.pointers([ACTIVE], LONG_S)
    assert caught.value.reason is Reason.BUSY
    assert int(caught.value.metadata["retry_ms"]) > 0
    held.cancel()
    with feed.watching(), pytest.raises(Unavailable), feed.watching():
        pass
    assert feed.watchers == 0
