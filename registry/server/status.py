"""Errors of the registry as gRPC statuses: one table, used by every handler."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from registry.core import errors, outcomes
from registry.core.errors import Reason, RegistryError
from registry.server.limits import ERROR_BYTES

DOMAIN = "workflow-registry"
DETAILS_KEY = "grpc-status-details-bin"

_CODE_OF_CLASS: dict[type[RegistryError], grpc.StatusCode] = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Ambiguous: grpc.StatusCode.ABORTED,
}
_CODE_OF_REASON: dict[Reason, grpc.StatusCode] = {
    Reason.REVISION_IN_FUTURE: grpc.StatusCode.OUT_OF_RANGE,
    Reason.LABEL_TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    Reason.CORRUPT_CONTENT: grpc.StatusCode.DATA_LOSS,
    Reason.NO_SPACE: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
CODES: dict[Reason, grpc.StatusCode] = {
    reason: _CODE_OF_REASON.get(reason, _CODE_OF_CLASS[errors.CLASS_OF[reason]]) for reason in Reason
}


def rejection(outcome: outcomes.Rejected) -> RegistryError:
    """What apply decided against, as the exception of its class."""
    return errors.error(Reason(outcome.reason), outcome.message, hint=outcome.hint, metadata=outcome.metadata)


def rich(error: RegistryError) -> status_pb2.Status:
    """google.rpc.Status with one ErrorInfo: reason, domain, metadata (with `hint` if there is one)."""
    metadata = {key: _short(value) for key, value in error.metadata.items()}
    if error.hint:
        metadata["hint"] = _short(error.hint)
    return _status(CODES[error.reason], _short(error.message), error.reason, metadata)


def internal(incident: str) -> status_pb2.Status:
    """A fault of ours: users get a number to ask the operator about, the log has the rest."""
    return _status(
        grpc.StatusCode.INTERNAL,
        f"internal error {incident}",
        "INTERNAL",
        {"incident": incident, "hint": "the member's log has the details under this number"},
    )


async def abort(context: grpc.aio.ServicerContext[Any, Any], status: status_pb2.Status) -> None:
    """End the call with `status`, details in the trailers. Raises grpc.aio.AbortError."""
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code_of(status), status.message, details)


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    return _CODE_BY_NUMBER[status.code]


def _status(code: grpc.StatusCode, message: str, reason: str, metadata: dict[str, str]) -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return status_pb2.Status(code=code.value[0], message=message, details=[detail])


def _short(text: str) -> str:
    data = text.encode()
    return text if len(data) <= ERROR_BYTES else data[: ERROR_BYTES - 3].decode(errors="ignore") + "…"


_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
