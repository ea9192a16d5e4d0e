"""Reads that come together share a barrier, and never one that began before them."""

from __future__ import annotations

import asyncio

import pytest

from cluster.api import NotAttempted
from registry.server.barriers import Barriers

LONG_S = 10.0


class Asked:
    """Barriers as the cluster was asked for them; the test ends them."""

    def __init__(self) -> None:
        self.timeouts_s: list[float] = []
        self.answers: list[asyncio.Future[None]] = []

    async def ask(self, timeout_s: float) -> None:
        self.timeouts_s.append(timeout_s)
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]

    async def count(self, count: int) -> None:
        """Wait until so many were asked for."""
        while len(self.answers) < count:
            await asyncio.sleep(0)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def barriers(asked: Asked) -> Barriers:
    return Barriers(asked.ask)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_comes_meanwhile_shares_the_next_one(asked: Asked, barriers: Barriers) -> None:
    first = asyncio.create_task(barriers.wait(LONG_S))
    await asked.count(1)
    later = [asyncio.create_task(barriers.wait(timeout_s)) for timeout_s in (1.0, LONG_S, 2.0)]
    await settled()
    assert len(asked.answers) == 1
    asked.answers[0].set_result(None)
    await first
    await asked.count(2)
    assert not any(each.done() for each in later), "served by a barrier that began before they came"
    asked.answers[1].set_result(None)
    await asyncio.gather(*later)
    assert asked.timeouts_s == [LONG_S, LONG_S]


async def test_all_of_one_barrier_fail_with_it_and_nobody_else(asked: Asked, barriers: Barriers) -> None:
    first = asyncio.create_task(barriers.wait(LONG_S))
    await asked.count(1)
    second = asyncio.create_task(barriers.wait(LONG_S))
    await settled()
    asked.answers[0].set_exception(NotAttempted("no majority"))
    with pytest.raises(NotAttempted, match="no majority"):
        await first
    await asked.count(2)
    asked.answers[1].set_result(None)
    await second


async def test_each_has_a_time_of_its_own(asked: Asked, barriers: Barriers) -> None:
    patient = asyncio.create_task(barriers.wait(LONG_S))
    await asked.count(1)
    with pytest.raises(NotAttempted, match=r"within 0\.0 s"):
        await barriers.wait(0.0)
    assert not patient.done()
    asked.answers[0].set_result(None)
    await patient


async def test_one_that_gives_up_takes_nobody_with_it(asked: Asked, barriers: Barriers) -> None:
    first = asyncio.create_task(barriers.wait(LONG_S))
    await asked.count(1)
    leaving, staying = (asyncio.create_task(barriers.wait(LONG_S)) for _ in range(2))
    await settled()
    leaving.cancel()
    asked.answers[0].set_result(None)
    await asked.count(2)
    asked.answers[1].set_result(None)
    await asyncio.gather(first, staying)
    assert leaving.cancelled()


async def test_one_whose_answer_is_lost_holds_up_nobody(
    asked: Asked, barriers: Barriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.barriers.BARRIER_LATE_S", 0.0)
    lost = asyncio.create_task(barriers.wait(LONG_S))
    await asked.count(1)
    next_one = asyncio.create_task(barriers.wait(LONG_S))
    await asked.count(2)
    asked.answers[1].set_result(None)
    await next_one
    assert not lost.done()
    asked.answers[0].set_result(None)
    await lost
