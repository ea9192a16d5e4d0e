"""Reading much, beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from cluster.kv.api import Reader, Snapshots

T = TypeVar("T")


async def beside(environment: Snapshots, read: Callable[[Reader], T]) -> T:
    """What `read` makes of a snapshot, in a thread. The snapshot ends here, after the thread, also where the caller is
    cancelled: what reads one that has ended reads pages that were written anew."""
    with environment.snapshot() as reader:
        reading = asyncio.get_running_loop().run_in_executor(None, read, reader)
        try:
            return await asyncio.shield(reading)
        finally:
            while not reading.done():
                with suppress(asyncio.CancelledError):  # the first one is on its way
                    await asyncio.wait([reading])
