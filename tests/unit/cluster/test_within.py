"""A future and a timer: what a caller of a member waits with."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from cluster.member import _Late, _settle, _within


class Held:
    """Something large that a caller holds while it waits."""


async def test_a_result_in_time_is_returned_and_the_timer_is_gone() -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes | _Late] = loop.create_future()
    loop.call_soon(_settle, future, b"1")
    result: bytes = await _within(future, 3600.0)
    assert result == b"1"
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]


async def test_a_result_of_the_same_turn_wins_over_a_timer_behind_it() -> None:
    future: asyncio.Future[bytes | _Late] = asyncio.get_running_loop().create_future()
    _settle(future, b"1")
    result: bytes = await _within(future, 0.0)
    assert result == b"1"


async def test_what_is_late_keeps_nothing_of_its_caller() -> None:
    """Callers come again and again while there is no leader, with large contents."""

    async def call() -> weakref.ref[Held]:
        held = Held()
        future: asyncio.Future[bytes | _Late] = asyncio.get_running_loop().create_future()
        try:
            await _within(future, 0.0)
        except TimeoutError:
            return weakref.ref(held)
        raise AssertionError("there was a result")

    gc.disable()
    try:
        assert (await asyncio.create_task(call()))() is None
    finally:
        gc.enable()


async def test_whoever_is_cancelled_is_told_so() -> None:
    future: asyncio.Future[bytes | _Late] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(_within(future, 3600.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert future.cancelled()
