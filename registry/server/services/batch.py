"""Batch: independent operations in one message, each with its own success or failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from google.rpc import status_pb2

from registry.core import limits
from registry.core.errors import Invalid, Reason
from registry.server.rpc import Unary
from registry.v1 import registry_pb2

_RESULT = {"rollback": "switch"}  # operation: field of its result, where the names differ
GetPointers = Callable[
    [Sequence[registry_pb2.GetPointerRequest], float], Awaitable[Sequence[registry_pb2.GetPointerResponse | Exception]]
]


class Batch:
    """operations: by field of Operation. get_pointers: linearizable reads, made together. failed: the status of an
    operation that failed."""

    def __init__(
        self,
        operations: Mapping[str, Unary],
        failed: Callable[[str, Exception], status_pb2.Status],
        *,
        get_pointers: GetPointers,
    ) -> None:
        self._operations = operations
        self._failed = failed
        self._get_pointers = get_pointers

    async def batch(self, request: registry_pb2.BatchRequest, timeout_s: float) -> registry_pb2.BatchResponse:
        if len(request.operations) > limits.BATCH_OPERATIONS:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{len(request.operations)} operations in one batch; none was done",
                hint=f"send at most {limits.BATCH_OPERATIONS}",
                metadata={"limit": str(limits.BATCH_OPERATIONS)},
            )
        operations = [(each, _reads_pointer(each)) for each in request.operations]
        together = [each.get_pointer for each, is_read in operations if is_read]
        alone = [self._one(each, timeout_s) for each, is_read in operations if not is_read]
        read, done = map(iter, await asyncio.gather(self._read(together, timeout_s), asyncio.gather(*alone)))
        results = [next(read if is_read else done) for _, is_read in operations]
        return registry_pb2.BatchResponse(results=results)

    async def _read(
        self, requests: Sequence[registry_pb2.GetPointerRequest], timeout_s: float
    ) -> list[registry_pb2.OperationResult]:
        replies = await self._get_pointers(requests, timeout_s) if requests else ()
        return [
            self._error("get_pointer", reply)
            if isinstance(reply, Exception)
            else registry_pb2.OperationResult(get_pointer=reply)
            for reply in replies
        ]

    async def _one(self, operation: registry_pb2.Operation, timeout_s: float) -> registry_pb2.OperationResult:
        kind: Any = operation.WhichOneof("operation")
        try:
            if kind is None:
                raise Invalid(
                    Reason.INVALID_REQUEST, "an operation without content", hint="set one of its fields; see the API"
                )
            reply = await self._operations[kind](getattr(operation, kind), timeout_s)
        except Exception as error:  # noqa: BLE001 - one operation's failure is its own
            return self._error(kind, error)
        return registry_pb2.OperationResult(**{_RESULT.get(kind, kind): reply})

    def _error(self, kind: Any, error: Exception) -> registry_pb2.OperationResult:
        return registry_pb2.OperationResult(error=self._failed(f"Batch.{kind}", error))


def _reads_pointer(operation: registry_pb2.Operation) -> bool:
    """Linearizably."""
    return operation.WhichOneof("operation") == "get_pointer" and not operation.get_pointer.stale
