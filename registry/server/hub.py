"""Polls that wait, ten thousand and more: a wait costs no task, no future and no timer.

Each waits under the pointers it follows. A commit wakes those of the touched pointers only, some at a time, so that
the loop's other work goes on between; a wake-up says only "look again", never what changed. Deadlines lie on a coarse
wheel with one timer for all. Those who have left are tidied away when everybody has been told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from registry.core import limits
from registry.server.feed import PointerKey, busy
from registry.server.limits import POLLS_BYTES, WAKE_SLICE, WHEEL_TICK_S

_NOTHING: tuple[PointerKey, ...] = (("", ""),)  # what those wait under who follow nothing yet


class Timed(Protocol):
    slot: int  # of the wheel; 0: in none

    def late(self) -> None:
        """Its time is over. It may have left meanwhile: nothing is to be done then."""
        ...


class Wheel:
    """Deadlines, up to WHEEL_TICK_S late. An item has one at most."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Timed]] = {}
        self._is_armed = False

    def put(self, item: Timed, timeout_s: float) -> None:
        if item.slot:
            self.drop(item)
        loop = asyncio.get_running_loop()
        slot = int((loop.time() + timeout_s) / WHEEL_TICK_S) + 1
        item.slot = slot
        items = self._slots.get(slot)
        if items is None:
            items = self._slots[slot] = set()
        items.add(item)
        if not self._is_armed:
            self._is_armed = True
            loop.call_later(WHEEL_TICK_S, self._turn)

    def drop(self, item: Timed) -> None:
        items = self._slots.get(item.slot)
        item.slot = 0
        if items is not None:
            items.discard(item)

    def _turn(self) -> None:
        """Many may be due together: WAKE_SLICE of them in one go."""
        loop = asyncio.get_running_loop()
        now = int(loop.time() / WHEEL_TICK_S)
        left = WAKE_SLICE
        try:
            for slot in [slot for slot in self._slots if slot <= now]:
                items = self._slots[slot]
                while items and left:
                    item = items.pop()
                    item.slot = 0
                    left -= 1
                    item.late()
                if not items:
                    del self._slots[slot]
        finally:  # whatever one of them made of it, the others' time comes
            self._is_armed = bool(self._slots)
            if self._slots:
                loop.call_later(WHEEL_TICK_S if left else 0, self._turn)


class Waiter(Timed, Protocol):
    keys: tuple[PointerKey, ...]
    size_bytes: int  # what it keeps, about

    def look(self) -> None:
        """What it waits for may be there. It may have left meanwhile: nothing is to be done then."""
        ...


class Hub:
    """`waiting` polls now; `woken`: wake-ups given so far."""

    def __init__(self, *, limit: int = limits.POLLERS, limit_bytes: int = POLLS_BYTES) -> None:
        self.waiting = self.woken = 0
        self.closed = False
        self._wheel = Wheel()
        self._limit, self._limit_bytes = limit, limit_bytes
        self._kept_bytes = 0
        self._by_pointer: dict[PointerKey, set[Waiter]] = {}
        self._ready: deque[Waiter] = deque()
        self._left: list[Waiter] = []
        self._is_draining = self._is_tidying = False

    def add(self, waiter: Waiter, timeout_s: float) -> None:
        """Raises Unavailable(BUSY) past a bound."""
        if self.waiting >= self._limit:
            raise busy(f"{self.waiting} polls wait on this member, as many as it takes")
        if self._kept_bytes + waiter.size_bytes > self._limit_bytes:
            raise busy(f"the {self.waiting} polls that wait on this member follow as much as it keeps")
        self.waiting += 1
        self._kept_bytes += waiter.size_bytes
        for key in waiter.keys or _NOTHING:
            waiters = self._by_pointer.get(key)
            if waiters is None:
                waiters = self._by_pointer[key] = set()
            waiters.add(waiter)
        self._wheel.put(waiter, timeout_s)

    def remove(self, waiter: Waiter) -> None:
        """Of one that was added, once. It may still be looked at."""
        self.waiting -= 1
        self._kept_bytes -= waiter.size_bytes
        self._left.append(waiter)
        self._tidy_soon()

    def _tidy_soon(self) -> None:
        if not (self._is_tidying or self._is_draining):
            self._is_tidying = True
            asyncio.get_running_loop().call_soon(self._tidy)

    def _tidy(self) -> None:
        """Whoever waits to be told comes first."""
        self._is_tidying = False
        if self._is_draining:
            return
        self._tidy_some()
        if self._left:
            self._tidy_soon()

    def _tidy_some(self) -> None:
        for waiter in self._left[-WAKE_SLICE:]:
            self._wheel.drop(waiter)
            for key in waiter.keys or _NOTHING:
                waiters = self._by_pointer[key]
                waiters.discard(waiter)
                if not waiters:
                    del self._by_pointer[key]
        del self._left[-WAKE_SLICE:]

    def wake(self, touched: Iterable[PointerKey] | None) -> None:
        """Those who follow one of these; None: everyone."""
        while self._left:  # else they would be woken again, for nothing, and without end where wakes never pause
            self._tidy_some()
        if touched is None:  # once each: a look is at all that one follows
            self.again(dict.fromkeys(waiter for waiters in self._by_pointer.values() for waiter in waiters))
            return
        for key in touched:
            self.again(self._by_pointer.get(key, ()))

    def again(self, waiters: Iterable[Waiter]) -> None:
        """Let these look again, soon: never inside of a commit."""
        self._ready.extend(waiters)
        if self._ready and not self._is_draining:
            self._is_draining = True
            asyncio.get_running_loop().call_soon(self._drain)

    def close(self) -> None:
        """Everyone is woken for good: the member is leaving."""
        self.closed = True
        self.wake(None)

    def _drain(self) -> None:
        """A look is at all that a poll follows: one may be as long as many."""
        ready, left = self._ready, WAKE_SLICE
        try:
            while ready and left > 0:
                waiter = ready.popleft()
                left -= max(1, len(waiter.keys))
                self.woken += 1
                waiter.look()
        finally:
            self._is_draining = bool(ready)
            if ready:
                asyncio.get_running_loop().call_soon(self._drain)
            elif self._left:
                self._tidy_soon()
