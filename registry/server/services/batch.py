"""Batch: independent operations in one message, each with its own success or failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from google.rpc import status_pb2

from registry.core import limits
from registry.core.errors import Invalid, Reason
from registry.server.rpc import Unary
from registry.v1 import registry_pb2

_RESULT = {"rollback": "switch"}  # operation: field of its result, where the names differ


class Batch:
    """operations: by field of Operation. failed: the status of one that failed."""

    def __init__(self, operations: Mapping[str, Unary], failed: Callable[[str, Exception], status_pb2.Status]) -> None:
        self._operations = operations
        self._failed = failed

    async def batch(self, request: registry_pb2.BatchRequest, timeout_s: float) -> registry_pb2.BatchResponse:
        if len(request.operations) > limits.BATCH_OPERATIONS:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{len(request.operations)} operations in one batch; none was done",
                hint=f"send at most {limits.BATCH_OPERATIONS}",
                metadata={"limit": str(limits.BATCH_OPERATIONS)},
            )
        results = await asyncio.gather(*(self._one(each, timeout_s) for each in request.operations))
        return registry_pb2.BatchResponse(results=results)

    async def _one(self, operation: registry_pb2.Operation, timeout_s: float) -> registry_pb2.OperationResult:
        kind: Any = operation.WhichOneof("operation")
        try:
            if kind is None:
                raise Invalid(
                    Reason.INVALID_REQUEST, "an operation without content", hint="set one of its fields; see the API"
                )
            reply = await self._operations[kind](getattr(operation, kind), timeout_s)
        except Exception as error:  # noqa: BLE001 - one operation's failure is its own
            return registry_pb2.OperationResult(error=self._failed(f"Batch.{kind}", error))
        return registry_pb2.OperationResult(**{_RESULT.get(kind, kind): reply})
