"""Why an attempt failed, as an error of `registry.core.errors`, and whether to try again. One table for both edges:
the status of a call, and the status of one operation in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from registry.core import errors
from registry.core.errors import Ambiguous, Reason, RegistryError, Unavailable

_DETAILS_KEY = "grpc-status-details-bin"
_UNKNOWN_CALL = "the member does not know this call"
_NEVER_SENT = ("failed to connect to all addresses", "DNS resolution failed", "errors resolving")  # gRPC core's words

_BY_CODE: dict[grpc.StatusCode, Reason] = {
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: Reason.INVALID_REQUEST,
    grpc.StatusCode.UNIMPLEMENTED: Reason.INVALID_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: Reason.INVALID_REQUEST,
    grpc.StatusCode.PERMISSION_DENIED: Reason.INVALID_REQUEST,
    grpc.StatusCode.NOT_FOUND: Reason.VERSION_NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Reason.LABEL_TAKEN,
    grpc.StatusCode.FAILED_PRECONDITION: Reason.KIND_MISMATCH,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.BUSY,
    grpc.StatusCode.UNAVAILABLE: Reason.NO_MEMBER,
    grpc.StatusCode.ABORTED: Reason.OUTCOME_UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.NO_MEMBER,
}  # a status without a reason that this release knows; others: NO_MEMBER
_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Failure:
    """`executed`: a write of this attempt may have taken effect."""

    error: RegistryError
    executed: bool

    @property
    def retry(self) -> bool:
        return isinstance(self.error, Unavailable | Ambiguous)


def is_unknown_call(error: RegistryError) -> bool:
    """Whether the member's release has no such call; another one's may."""
    return error.reason is Reason.INVALID_REQUEST and error.message == _UNKNOWN_CALL


class AttemptError(Exception):
    """One attempt failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


def of_call(error: grpc.aio.AioRpcError) -> Failure:
    """Of a call's status: with google.rpc.ErrorInfo if the member sent one, else of its code alone."""
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == _DETAILS_KEY:
            return of_status(status_pb2.Status.FromString(value))
    return _of_code(error.code(), error.details() or "")


def of_status(status: status_pb2.Status) -> Failure:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return _of_info(info, status)
    return _of_code(_CODE_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN), status.message)


def no_answer(timeout_s: float, *, sent: bool) -> Failure:
    """The attempt's own time is over."""
    where = "no answer" if sent else "the request still waited to be sent"
    return Failure(Unavailable(Reason.NO_MEMBER, f"{where} within {timeout_s:.1f} s"), executed=sent)


def _of_info(info: error_details_pb2.ErrorInfo, status: status_pb2.Status) -> Failure:
    metadata = dict(info.metadata)
    hint = metadata.pop("hint", "")
    try:
        reason = Reason(info.reason)
    except ValueError:
        unknown = _of_code(_CODE_BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN), status.message)
        unknown.error.hint = hint or unknown.error.hint
        unknown.error.metadata.update(metadata, reason=info.reason)
        return unknown
    error = errors.error(reason, status.message, hint=hint, metadata=metadata)
    return Failure(error, executed=isinstance(error, Ambiguous))


def _of_code(code: grpc.StatusCode, details: str) -> Failure:
    reason = _BY_CODE.get(code, Reason.NO_MEMBER)
    message, hint = details or "no details given", ""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        message, hint = _UNKNOWN_CALL, "check that the address and the releases are right"
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        reason, hint = Reason.TOO_LARGE, "the message exceeds what gRPC carries here"
    elif code is grpc.StatusCode.UNAVAILABLE and any(words in details for words in _NEVER_SENT):
        cause = details.rpartition(": ")[2].strip("[]") or details
        return Failure(Unavailable(reason, f"cannot connect: {cause}"), executed=False)
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = "no answer in time"
    elif code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT):
        message = f"{code.name}: {message}"
    error = errors.error(reason, message, hint=hint)
    return Failure(error, executed=isinstance(error, Unavailable | Ambiguous))
