"""An asyncio event loop in virtual time: where it would wait, its clock moves on. No threads, no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
FAR_S = 1e9  # nothing sleeps as long as that: everything waits for everything


class Deadlock(RuntimeError):
    """Nothing can happen any more."""


class _Clock:
    """Stands where a loop has its selector."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None or timeout_s > FAR_S:
            raise Deadlock
        self.now_s += max(0.0, timeout_s)
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """What is given to threads runs in the loop's own: at once, or some milliseconds later, also when who asked for it
    was cancelled meanwhile, as a thread would."""

    def __init__(self, rng: Random, block_s: float) -> None:
        super().__init__()
        self._selector = _Clock()
        self._clock_resolution = 1e-9
        self._rng = rng
        self._block_s = block_s

    def time(self) -> float:
        return self._selector.now_s

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        if self._rng.random() < 0.5:
            _finish(future, func, args)
        else:
            self.call_later(self._rng.uniform(0, self._block_s), _finish, future, func, args)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _finish(future: asyncio.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
    try:
        result = func(*args)
    except BaseException as problem:
        if not future.done():
            future.set_exception(problem)
    else:
        if not future.done():
            future.set_result(result)
