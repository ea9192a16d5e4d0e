"""A run: beat after beat, over a file of sources that may be edited meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from registry.core.errors import Invalid
from registry.source import limits
from registry.source.home import Home
from registry.source.watcher import Event, Watcher


async def run(watcher: Watcher, home: Home, tell: Callable[[Event], None]) -> None:
    """Until it is stopped. A file of sources that has become unreadable is told, and the sources of before go on.
    Raises Invalid when it is so from the start, OSError when notes cannot be saved."""
    watcher.watch(home.sources())
    while not watcher.stop.is_set():
        wait_s = await watcher.beat()
        try:
            async with asyncio.timeout(min(wait_s, limits.BEAT_MAX_S)):
                await watcher.stop.wait()
        except TimeoutError:
            _reload(watcher, home, tell)


async def run_once(watcher: Watcher, home: Home) -> None:
    """Looks at every source, publishes what has changed and settles soon, and returns. Raises as `run`."""
    watcher.watch(home.sources())
    wait_s = await watcher.beat()
    while watcher.settling and watcher.waiting < limits.ONCE_WAITING and not watcher.stop.is_set():
        try:
            async with asyncio.timeout(wait_s):
                await watcher.stop.wait()
        except TimeoutError:
            wait_s = await watcher.beat()


def _reload(watcher: Watcher, home: Home, tell: Callable[[Event], None]) -> None:
    if not home.has_changed():
        return
    try:
        watcher.watch(home.sources())
    except Invalid as error:
        problem = str(error)
    except OSError as error:
        problem = f"{home.file} cannot be read: {error.strerror}"
    else:
        return
    tell(Event(event="problem", text=f"{problem}. The sources of before go on", path=str(home.file)))
