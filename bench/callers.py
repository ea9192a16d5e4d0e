"""Callers of one SDK client, in a process of their own: the load generator for what a program sees.

    python -m bench.callers '{"endpoints": [...], "mode": "switch", "callers": 64, "seconds": 5}'

Each caller has its own workflow, `load/w000001` and on, with versions 1 and 2 (to publish: `load/p000001` and on,
`load/f000001` of files), and makes one call after the other.
Concurrent calls of one client are coalesced by it. The last line of stdout says what came of it (`loading.Loaded`).
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop

from bench.loading import Loaded
from bench.summary import percentile_ms
from registry.client import Client
from registry.core.errors import RegistryError


class Order(msgspec.Struct):
    """`mode`: switch, read, publish. `first`: number of the first caller's workflow."""

    endpoints: tuple[str, ...]
    mode: str
    callers: int
    seconds: float
    warm_s: float = 1.0
    size_bytes: int = 0
    contents: tuple[str, ...] = ()  # of `publish`: files, in turns, each made new by a comment; none: random bytes


class Caller:
    def __init__(self, client: Client, order: Order, number: int) -> None:
        self._client, self._order = client, order
        self._workflow = workflow(number, _series(order))
        self._contents = [Path(path).read_bytes() for path in order.contents]
        self._calls = 0
        self.generation = 0
        self.took_ms: list[float] = []
        self.failures: Counter[str] = Counter()

    async def begin(self) -> None:
        if self._order.mode != "publish":
            self.generation = (await self._client.pointer(self._workflow)).generation

    async def run(self, until_s: float) -> None:
        call: Callable[[], Awaitable[None]] = getattr(self, f"_{self._order.mode}")
        while (began := time.perf_counter()) < until_s:
            self._calls += 1
            try:
                await call()
            except RegistryError as error:
                self.failures[str(error.reason)] += 1
                await self.begin()
            else:
                self.took_ms.append((time.perf_counter() - began) * 1000)

    async def _switch(self) -> None:
        target = 1 + self._calls % 2
        pointer = await self._client.switch(self._workflow, target, reason="bench", expected_generation=self.generation)
        self.generation = pointer.generation

    async def _read(self) -> None:
        await self._client.pointer(self._workflow)

    async def _publish(self) -> None:
        if self._contents:
            content = self._contents[self._calls % len(self._contents)]
            content += b"\n# %s\n" % os.urandom(8).hex().encode()
            await self._client.publish(self._workflow, content, kind="dify")
        else:
            await self._client.publish(self._workflow, os.urandom(self._order.size_bytes), kind="binary")


def workflow(number: int, series: str = "w") -> str:
    return f"load/{series}{number + 1:06d}"


def _series(order: Order) -> str:
    """A workflow has versions of one kind."""
    if order.mode != "publish":
        return "w"
    return "f" if order.contents else "p"


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(order: Order) -> Loaded:
    async with Client(order.endpoints, timeout_s=30.0) as client:
        callers = [Caller(client, order, number) for number in range(order.callers)]
        await asyncio.gather(*(caller.begin() for caller in callers))
        if order.warm_s:
            await _all(callers, order.warm_s)
        warmed = sum(len(caller.took_ms) for caller in callers)
        for caller in callers:
            caller.took_ms.clear()
        cpu_s, began = _cpu_s(), time.perf_counter()
        await _all(callers, order.seconds)
        seconds = time.perf_counter() - began
        cpu_s = _cpu_s() - cpu_s
    took_ms = [each for caller in callers for each in caller.took_ms]
    codes = sum((caller.failures for caller in callers), Counter[str]())
    if not took_ms:
        raise RuntimeError(f"no call succeeded: {dict(codes)}")
    return Loaded(
        mode=order.mode,
        callers=order.callers,
        connections=1,
        seconds=seconds,
        done=len(took_ms),
        warmed=warmed,
        per_second=len(took_ms) / seconds,
        p50_ms=percentile_ms(took_ms, 50),
        p99_ms=percentile_ms(took_ms, 99),
        max_ms=max(took_ms),
        failures=codes.total(),
        codes=dict(codes),
        cpu_s=cpu_s,
        generations=[caller.generation for caller in callers],
    )


async def _all(callers: list[Caller], seconds: float) -> None:
    until_s = time.perf_counter() + seconds
    await asyncio.gather(*(caller.run(until_s) for caller in callers))


def main() -> int:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(order))) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
