from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.unit.client.member import Member, World


@pytest.fixture
async def members() -> AsyncIterator[Callable[[int], Awaitable[list[Member]]]]:
    """Starts this many members of one world; none is the leader unless the test says so."""
    started: list[Member] = []

    async def start(count: int) -> list[Member]:
        world = World()
        started.extend([await Member(world, f"n{number}").start() for number in range(1, count + 1)])
        return started

    yield start
    for member in started:
        member.gate.set()
        await member.stop()
