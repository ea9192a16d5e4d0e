"""One HTTP connection, whatever is said on it: written no further ahead than its client reads, and its deadline."""

from __future__ import annotations

import asyncio
import math

from registry.server import limits


class Connection(asyncio.Protocol):
    __slots__ = ("_transport", "_writable", "deadline_s")

    def __init__(self) -> None:
        self.deadline_s = math.inf  # of the loop's clock
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None  # there while the client is behind

    async def write(self, data: bytes | memoryview) -> None:
        """Returns once there is room for more. Raises ConnectionError where the client takes nothing for long."""
        view = memoryview(data)
        for start in range(0, len(view), limits.HTTP_WRITE_BYTES):
            if self._transport is None or self._transport.is_closing():
                raise ConnectionResetError("the client has left")
            self._transport.write(view[start : start + limits.HTTP_WRITE_BYTES])
            if self._writable is not None:
                await self._room(self._writable)

    async def _room(self, writable: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(limits.HTTP_STALL_S):
                await asyncio.shield(writable)
        except TimeoutError:
            raise ConnectionAbortedError("the client takes nothing") from None

    def close(self) -> None:
        """What was written may still go out, for a while."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.close()
            self.deadline_s = after(limits.HTTP_IDLE_S)

    def late(self) -> None:
        """Its deadline has passed."""
        if self._transport is None:
            return
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self.close()

    # asyncio.Protocol

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        waiting, self._writable = self._writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


def after(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
