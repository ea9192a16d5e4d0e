"""What one worker asks of its member, answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import structlog

from cluster.api import Cluster, ClusterError
from cluster.kv.api import Damaged
from registry.core.errors import RegistryError
from registry.core.limits import MESSAGE_BYTES
from registry.server.limits import LINK_AHEAD
from registry.server.repair import Repairs
from registry.server.workers import messages as m
from registry.server.workers.remote import failure_of

Unary = Callable[[bytes, float], Awaitable[bytes]]  # request, timeout_s -> reply
Stream = Callable[[bytes], AsyncGenerator[bytes, None]]
log = structlog.get_logger()


class Sender(Protocol):
    def send(self, message: m.Down) -> None: ...


class Answering:
    """`unary` and `streams`: what only the member can do, by method."""

    def __init__(
        self,
        link: Sender,
        *,
        cluster: Cluster,
        unary: Mapping[str, Unary],
        streams: Mapping[str, Stream],
        repairs: Repairs,
    ) -> None:
        self._link, self._cluster, self._repairs = link, cluster, repairs
        self._unary, self._streams = unary, streams
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._untaken: dict[int, asyncio.Semaphore] = {}

    def receive(self, message: m.Propose | m.Barrier | m.Ask | m.Took | m.Cancel) -> None:
        """Raises KeyError for a method that there is not."""
        match message:
            case m.Propose():
                self._run(message.call, self._propose(message))
            case m.Barrier():
                self._run(message.call, self._barrier(message))
            case m.Ask(method=method) if method in self._streams:
                self._run(message.call, self._give(message, self._streams[method]))
            case m.Ask(method=method):
                self._run(message.call, self._reply(message, self._unary[method]))
            case m.Took(call=call):
                if (untaken := self._untaken.get(call)) is not None:
                    untaken.release()
            case m.Cancel(call=call):
                if (task := self._asked.get(call)) is not None:
                    task.cancel()

    def close(self) -> None:
        """The worker is gone: nobody hears what becomes of its calls."""
        for task in self._asked.values():
            task.cancel()

    def _run(self, call: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._asked[call] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._asked.pop(call))

    async def _propose(self, message: m.Propose) -> None:
        try:
            result = await self._cluster.propose(message.command, timeout_s=message.timeout_s)
            self._cluster.checkpoint()
        except ClusterError as error:
            self._link.send(m.Undone(message.call, type(error).__name__, str(error)))
        else:
            self._link.send(m.Done(message.call, result))

    async def _barrier(self, message: m.Barrier) -> None:
        try:
            await self._cluster.barrier(timeout_s=message.timeout_s)
        except ClusterError as error:
            self._link.send(m.Undone(message.call, type(error).__name__, str(error)))
        else:
            self._link.send(m.Done(message.call))

    async def _reply(self, message: m.Ask, operation: Unary) -> None:
        try:
            reply = await operation(message.request, message.timeout_s)
            if len(reply) > MESSAGE_BYTES:
                raise ValueError(f"a reply of {len(reply):,} bytes")
        except Exception as error:  # noqa: BLE001 - the edge of what the member does for a worker
            self._link.send(m.Failed(message.call, self._failure(message.method, error)))
        else:
            self._link.send(m.Done(message.call, reply))

    async def _give(self, message: m.Ask, operation: Stream) -> None:
        call = message.call
        untaken = self._untaken[call] = asyncio.Semaphore(LINK_AHEAD)
        try:
            async with aclosing(operation(message.request)) as replies:
                async for data in replies:
                    await untaken.acquire()
                    self._link.send(m.Item(call, data))
        except asyncio.CancelledError:  # by the worker, or by the operation itself: its caller takes nothing
            self._link.send(m.Failed(call, None))
            raise
        except Exception as error:  # noqa: BLE001
            self._link.send(m.Failed(call, self._failure(message.method, error)))
        else:
            self._link.send(m.Done(call))
        finally:
            del self._untaken[call]

    def _failure(self, method: str, error: Exception) -> m.Failure:
        if isinstance(error, Damaged):
            error = self._repairs.failure(error)
        if isinstance(error, RegistryError):
            return failure_of(error)
        log.error("call of a worker failed inside", method=method, exc_info=error)
        return m.Failure("", f"{method} failed in the member: {type(error).__name__}", "", {})
