"""Concurrent operations towards one member, gathered into Batch calls.

What is submitted while nothing is in flight goes at once; what arrives while batches are in flight is gathered and
goes with the next one. Each operation has its own time and outcome. An operation alone travels as its own rpc.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from registry.client import failures, limits
from registry.client.failures import AttemptError, Failure
from registry.core.errors import Reason, Unavailable
from registry.core.limits import BATCH_OPERATIONS
from registry.v1 import registry_pb2

_RPC = {
    "publish": "Publish",
    "switch": "Switch",
    "rollback": "Rollback",
    "mark": "Mark",
    "label": "Label",
    "get_pointer": "GetPointer",
    "get_version": "GetVersion",
}


class _Waiting:
    __slots__ = ("expires", "operation", "outcome", "sent", "size_bytes")

    def __init__(self, operation: registry_pb2.Operation, expires: float, outcome: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.size_bytes = operation.ByteSize()
        self.expires = expires  # loop time
        self.outcome = outcome
        self.sent = False


class Batcher:
    """`registry`: the stub of one member."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self._waiting: deque[_Waiting] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._pump_due = False

    async def submit(self, operation: registry_pb2.Operation, timeout_s: float) -> Any:
        """The response of the operation's kind. Raises AttemptError."""
        if len(self._waiting) >= limits.WAITING:
            busy = Unavailable(Reason.BUSY, f"{limits.WAITING} calls of this client wait already")
            raise AttemptError(Failure(busy, executed=False))
        loop = asyncio.get_running_loop()
        waiting = _Waiting(operation, loop.time() + timeout_s, loop.create_future())
        self._waiting.append(waiting)
        self._pump_soon(loop)
        timer = loop.call_later(timeout_s, _give_up, waiting, timeout_s)  # far cheaper than asyncio.timeout
        try:
            return await waiting.outcome
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Whatever still waits or is in flight fails."""
        while self._waiting:
            _resolve(self._waiting.popleft(), _closed(executed=False))
        tasks = tuple(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _pump_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        # one turn of the loop later, so that calls started together travel together
        if not self._pump_due:
            self._pump_due = True
            loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        while len(self._in_flight) < limits.BATCHES_IN_FLIGHT and (batch := self._take()):
            task = asyncio.get_running_loop().create_task(self._send(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._waiting:
            self._pump()

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(batch) < BATCH_OPERATIONS:
            waiting = self._waiting[0]
            if batch and size_bytes + waiting.size_bytes > limits.BATCH_BYTES:
                break
            self._waiting.popleft()
            if waiting.outcome.done():  # cancelled, or out of time
                continue
            waiting.sent = True
            size_bytes += waiting.size_bytes
            batch.append(waiting)
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        timeout_s = max(waiting.expires for waiting in batch) - asyncio.get_running_loop().time()
        try:
            outcomes = await (self._alone(batch[0], timeout_s) if len(batch) == 1 else self._together(batch, timeout_s))
        except grpc.aio.AioRpcError as error:
            failure = failures.of_call(error)
            outcomes = [failure] * len(batch)
        except asyncio.CancelledError:
            outcomes = [_closed(executed=True)] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            _resolve(waiting, outcome)

    async def _alone(self, waiting: _Waiting, timeout_s: float) -> list[Any]:
        kind = waiting.operation.WhichOneof("operation")
        assert kind is not None
        rpc: Callable[..., Any] = getattr(self._registry, _RPC[kind])
        return [await rpc(getattr(waiting.operation, kind), timeout=timeout_s)]

    async def _together(self, batch: list[_Waiting], timeout_s: float) -> list[Any]:
        request = registry_pb2.BatchRequest(operations=[waiting.operation for waiting in batch])
        response = await self._registry.Batch(request, timeout=timeout_s)
        if len(response.results) != len(batch):
            wrong = Unavailable(
                Reason.NO_MEMBER, f"{len(response.results)} results for {len(batch)} operations: a faulty member"
            )
            return [Failure(wrong, executed=True)] * len(batch)
        return [_outcome(result) for result in response.results]


def _resolve(waiting: _Waiting, outcome: Any) -> None:
    if waiting.outcome.done():
        return
    if isinstance(outcome, Failure):
        waiting.outcome.set_exception(AttemptError(outcome))
    else:
        waiting.outcome.set_result(outcome)


def _give_up(waiting: _Waiting, timeout_s: float) -> None:
    _resolve(waiting, failures.no_answer(timeout_s, sent=waiting.sent))


def _closed(*, executed: bool) -> Failure:
    return Failure(Unavailable(Reason.NO_MEMBER, "this client was closed"), executed=executed)


def _outcome(result: registry_pb2.OperationResult) -> Any:
    kind = result.WhichOneof("result")
    if kind is None:
        return Failure(Unavailable(Reason.NO_MEMBER, "an empty result: a faulty member"), executed=True)
    return failures.of_status(result.error) if kind == "error" else getattr(result, kind)
