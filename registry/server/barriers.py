"""Barriers of a cluster, each for as many reads as there are: it costs a round over the members, however many wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cluster.api import NotAttempted
from registry.server.limits import BARRIER_LATE_S

Ask = Callable[[float], Awaitable[None]]  # timeout_s; raises NotAttempted


class Barriers:
    """Who comes while one is under way shares the next. One that takes long holds nobody up: its answer may be lost."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._waiting: list[asyncio.Future[None]] = []  # for the next
        self._timeout_s = 0.0  # the longest of theirs
        self._newest: asyncio.Task[None] | None = None  # None: none is under way, or it is late

    async def wait(self, timeout_s: float) -> None:
        """Return once a barrier is over that began after this call. Raises NotAttempted."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append(waiter)
        self._timeout_s = max(self._timeout_s, timeout_s)
        if self._newest is None:
            self._begin()
        timer = loop.call_later(timeout_s, _give_up, waiter, timeout_s)
        try:
            await waiter
        finally:
            timer.cancel()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        waiters, self._waiting = self._waiting, []
        timeout_s, self._timeout_s = self._timeout_s, 0.0
        task = self._newest = loop.create_task(self._run(waiters, timeout_s))
        late = loop.call_later(BARRIER_LATE_S, self._go_on, task)
        task.add_done_callback(lambda _: late.cancel())
        task.add_done_callback(self._go_on)

    def _go_on(self, after: asyncio.Task[None]) -> None:
        if after is not self._newest:
            return
        self._newest = None
        if self._waiting:
            self._begin()

    async def _run(self, waiters: list[asyncio.Future[None]], timeout_s: float) -> None:
        failure: Exception | None = None
        try:
            await self._ask(timeout_s)
        except Exception as error:  # noqa: BLE001 - it is theirs who wait
            failure = error
        for waiter in waiters:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(failure)


def _give_up(waiter: asyncio.Future[None], timeout_s: float) -> None:
    if not waiter.done():
        waiter.set_exception(NotAttempted(f"no majority confirmed the leader within {timeout_s:.1f} s"))
