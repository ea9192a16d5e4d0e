"""Sides take turns, so that what changes on the machine meanwhile falls on all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

Found = TypeVar("Found")

ROUNDS = 5


async def take_turns(sides: Mapping[str, Callable[[], Awaitable[Found]]], rounds: int) -> dict[str, list[Found]]:
    """What each side found in each round. Every other round goes the other way round."""
    found: dict[str, list[Found]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in tuple(sides)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(await sides[name]())
    return found
