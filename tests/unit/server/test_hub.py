from __future__ import annotations

import asyncio

import pytest

from registry.core.errors import Reason, Unavailable
from registry.server import hub as hubs
from registry.server.feed import PointerKey
from registry.server.hub import Hub, Wheel
from registry.server.limits import WAKE_SLICE

LONG_S = 60.0
ACTIVE, CANARY, OTHER = ("a/b", "active"), ("a/b", "canary"), ("a/c", "active")


class Waiter:
    def __init__(self, *keys: PointerKey, size_bytes: int = 0) -> None:
        self.keys = keys
        self.size_bytes = size_bytes
        self.slot = 0
        self.looked = 0
        self.is_late = asyncio.Event()

    def look(self) -> None:
        self.looked += 1

    def late(self) -> None:
        self.is_late.set()


class Leaving(Waiter):
    """Is told what it waited for."""

    def __init__(self, hub: Hub, *keys: PointerKey) -> None:
        super().__init__(*keys)
        self._hub = hub

    def look(self) -> None:
        super().look()
        if self.looked == 1:
            self._hub.remove(self)


def hub(**bounds: int) -> Hub:
    return Hub(**bounds)


def added(to: Hub, *waiters: Waiter, timeout_s: float = LONG_S) -> list[Waiter]:
    for waiter in waiters:
        to.add(waiter, timeout_s)
    return list(waiters)


async def turn() -> None:
    await asyncio.sleep(0)


async def test_only_those_who_follow_a_touched_pointer_look_again() -> None:
    waiting = hub()
    both, canary, other = added(waiting, Waiter(ACTIVE, CANARY), Waiter(CANARY), Waiter(OTHER))
    waiting.wake([ACTIVE])
    assert both.looked == 0, "never inside of a commit"
    await turn()
    assert [each.looked for each in (both, canary, other)] == [1, 0, 0]
    waiting.wake([CANARY, ("a/b", "unfollowed")])
    await turn()
    assert [each.looked for each in (both, canary, other)] == [2, 1, 0]
    assert waiting.woken == 3
    waiting.wake(None)
    await turn()
    assert other.looked == 1


async def test_a_switch_of_what_nobody_follows_wakes_nobody() -> None:
    waiting = hub()
    added(waiting, *(Waiter(ACTIVE) for _ in range(10)))
    waiting.wake([OTHER])
    await turn()
    assert waiting.woken == 0


async def test_many_are_woken_in_slices_with_turns_of_the_loop_between() -> None:
    waiting = hub()
    waiters = added(waiting, *(Waiter(ACTIVE) for _ in range(3 * WAKE_SLICE + 1)))
    waiting.wake([ACTIVE])
    seen: list[int] = []
    while not seen or seen[-1] < len(waiters):
        await turn()
        seen.append(sum(each.looked for each in waiters))
    assert seen == [WAKE_SLICE, 2 * WAKE_SLICE, 3 * WAKE_SLICE, 3 * WAKE_SLICE + 1]


async def test_polls_that_follow_much_make_short_slices() -> None:
    waiting = hub()
    keys = tuple((f"a/{number}", "active") for number in range(WAKE_SLICE))
    waiters = added(waiting, *(Waiter(*keys) for _ in range(3)))
    waiting.wake([keys[0]])
    for count in (1, 2, 3):
        await turn()
        assert sum(each.looked for each in waiters) == count


async def test_one_that_breaks_does_not_keep_the_others_asleep() -> None:
    class Broken(Waiter):
        def look(self) -> None:
            raise RuntimeError("a defect")

    waiting = hub()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    _, fine = added(waiting, Broken(ACTIVE), Waiter(OTHER))
    waiting.wake([ACTIVE, OTHER])
    await turn()
    await turn()
    assert fine.looked == 1
    assert isinstance(told[0], RuntimeError)


async def test_nothing_is_left_of_those_who_leave() -> None:
    waiting = hub()
    waiters = added(waiting, Waiter(ACTIVE, CANARY, size_bytes=7), Waiter(), Waiter(ACTIVE, size_bytes=5))
    assert waiting.waiting == 3
    for waiter in waiters:
        waiting.remove(waiter)
    assert (waiting.waiting, waiting._kept_bytes) == (0, 0)
    await turn()
    assert waiting._by_pointer == {}
    assert all(not items for items in waiting._wheel._slots.values())


async def test_everybody_is_told_before_those_who_left_are_tidied_away() -> None:
    waiting = hub()
    waiters = added(waiting, *(Leaving(waiting, ACTIVE) for _ in range(2 * WAKE_SLICE)))
    waiting.wake([ACTIVE])
    await turn()
    assert sum(waiter.looked for waiter in waiters) == WAKE_SLICE
    assert len(waiting._by_pointer[ACTIVE]) == 2 * WAKE_SLICE
    for _ in range(3):
        await turn()
    assert all(waiter.looked == 1 for waiter in waiters)
    assert waiting._by_pointer == {}


async def test_those_who_left_are_not_woken_again_while_others_are_told() -> None:
    """Else, where wakes never pause, the dead would be looked at instead of the living, and kept for ever."""
    waiting = hub()
    added(waiting, *(Leaving(waiting, ACTIVE) for _ in range(2 * WAKE_SLICE)))
    for _ in range(10):
        waiting.wake([ACTIVE])
        await turn()
        added(waiting, *(Leaving(waiting, ACTIVE) for _ in range(WAKE_SLICE // 2)))
    assert waiting.waiting <= len(waiting._by_pointer[ACTIVE]) <= waiting.waiting + WAKE_SLICE


async def test_waiting_polls_are_bounded_in_number_and_in_what_they_keep() -> None:
    waiting = hub(limit=2, limit_bytes=100)
    first, _ = added(waiting, Waiter(ACTIVE, size_bytes=60), Waiter(ACTIVE))
    with pytest.raises(Unavailable) as caught:
        waiting.add(Waiter(ACTIVE), LONG_S)
    assert caught.value.reason is Reason.BUSY
    assert int(caught.value.metadata["retry_ms"]) > 0
    waiting.remove(first)
    with pytest.raises(Unavailable, match="as much as it keeps"):
        waiting.add(Waiter(ACTIVE, size_bytes=101), LONG_S)
    added(waiting, Waiter(ACTIVE, size_bytes=100))
    assert waiting.waiting == 2


async def test_those_who_are_told_busy_together_come_back_apart() -> None:
    waiting, told = hub(limit=0), set[str]()
    for _ in range(50):
        with pytest.raises(Unavailable) as caught:
            waiting.add(Waiter(ACTIVE), LONG_S)
        told.add(caught.value.metadata["retry_ms"])
    assert len(told) > 10


async def test_closing_wakes_everyone_also_who_follows_nothing() -> None:
    waiting = hub()
    waiters = added(waiting, Waiter(ACTIVE), Waiter())
    waiting.close()
    await turn()
    assert waiting.closed
    assert [each.looked for each in waiters] == [1, 1]


async def test_when_all_may_have_moved_each_looks_once_however_much_it_follows() -> None:
    waiting = hub()
    (waiter,) = added(waiting, Waiter(ACTIVE, CANARY, OTHER))
    waiting.wake(None)
    await turn()
    assert waiter.looked == 1


async def test_deadlines_come_for_those_who_still_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "WHEEL_TICK_S", 0.001)
    wheel = Wheel()
    dropped, moved, due = Waiter(), Waiter(), Waiter()
    for item in (dropped, moved, due):
        wheel.put(item, 0.002)
    wheel.drop(dropped)
    wheel.put(moved, LONG_S)
    await asyncio.wait_for(due.is_late.wait(), 5.0)
    assert due.slot == 0
    assert not dropped.is_late.is_set()
    assert not moved.is_late.is_set()
    assert moved.slot > 0


async def test_many_deadlines_at_once_are_worked_off_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "WHEEL_TICK_S", 0.001)
    wheel = Wheel()
    items = [Waiter() for _ in range(2 * WAKE_SLICE + 1)]
    for item in items:
        wheel.put(item, 0.0)
    steps: list[int] = []
    while not steps or steps[-1] < len(items):
        await turn()
        late = sum(item.is_late.is_set() for item in items)
        if late and (not steps or late != steps[-1]):
            steps.append(late)
    assert max(after - before for before, after in zip([0, *steps], steps, strict=False)) <= WAKE_SLICE
    assert not wheel._slots
    assert not wheel._is_armed, "no timer while there is nothing to wait for"
