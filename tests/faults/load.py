"""A constant load of switches, and what must be true of it afterwards.

Every switch carries a reason of its own, so that the audit log tells exactly which calls took effect and in which
order.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from registry.client import Client
from registry.core.errors import Ambiguous, Rejected, Unavailable

TIMEOUT_S = 8.0
LOOK_S = 0.01
SLACK_S = 1.0  # past a call's deadline, on a machine that runs everything at once

Outcome = Literal["done", "refused", "unknown", "unavailable"]


@dataclass(frozen=True)
class Call:
    client: int
    reason: str
    began: float
    ended: float
    outcome: Outcome
    generation: int = 0
    version: int = 0


class Load:
    """`clients` callers that switch one pointer between versions until told to stop."""

    def __init__(self, endpoints: list[str], workflow: str, versions: list[int], *, clients: int = 3) -> None:
        self._endpoints, self._workflow, self._versions = endpoints, workflow, versions
        self._count, self._stop = clients, asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.calls: list[Call] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(self._count)]

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    def done(self) -> int:
        return sum(call.outcome == "done" for call in self.calls)

    async def progress(self, more: int, *, limit_s: float) -> None:
        """Wait until `more` further calls have succeeded."""
        goal = self.done() + more
        async with asyncio.timeout(limit_s):
            while self.done() < goal:
                await asyncio.sleep(LOOK_S)
                for task in self._tasks:
                    if task.done():
                        task.result()

    async def _run(self, number: int) -> None:
        endpoints = self._endpoints[number:] + self._endpoints[:number]
        async with Client(endpoints, principal=f"client-{number}", timeout_s=TIMEOUT_S) as client:
            sequence = 0
            while not self._stop.is_set():
                sequence += 1
                await self._one(client, number, f"client {number} call {sequence} {time.time_ns()}", sequence)

    async def _one(self, client: Client, number: int, reason: str, sequence: int) -> None:
        version = self._versions[sequence % len(self._versions)]
        began, outcome, generation = time.monotonic(), "done", 0
        try:
            pointer = await client.switch(self._workflow, version, reason=reason)
            generation = pointer.generation
        except Ambiguous:
            outcome = "unknown"
        except Unavailable:
            outcome = "unavailable"
        except Rejected:
            outcome = "refused"
        self.calls.append(Call(number, reason, began, time.monotonic(), outcome, generation, version))  # type: ignore[arg-type]


async def check(load: Load, client: Client, workflow: str) -> Counter[str]:
    """Compare what callers were told with what every member's audit log says. Raises AssertionError."""
    audited: dict[str, tuple[int, int]] = {}
    generations = []
    async for change in client.history(workflow, "active", page_size=1000):
        for pointer in change.pointers:
            assert change.reason not in audited, f"took effect twice: {change.reason}"
            audited[change.reason] = (pointer.generation, pointer.version)
            generations.append(pointer.generation)
    assert generations == list(range(len(generations), 0, -1)), "a generation is missing, repeated or out of order"
    for call in load.calls:
        if call.outcome == "done":
            assert audited.get(call.reason) == (call.generation, call.version), f"acknowledged and lost: {call}"
        elif call.outcome in ("refused", "unavailable"):
            assert call.reason not in audited, f"told that it did not happen, but it did: {call}"
        assert call.ended - call.began <= TIMEOUT_S + SLACK_S, f"past its deadline: {call}"
    done = sorted((call for call in load.calls if call.outcome == "done"), key=lambda call: call.ended)
    highest_ended = 0
    starts = sorted(done, key=lambda call: call.began)
    position = 0
    for call in starts:
        while position < len(done) and done[position].ended < call.began:
            highest_ended = max(highest_ended, done[position].generation)
            position += 1
        assert call.generation > highest_ended, f"generation below one acknowledged before it began: {call}"
    current = await client.pointer(workflow)
    assert current.generation == len(generations)
    return Counter(call.outcome for call in load.calls)
