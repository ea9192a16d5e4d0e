"""Statuses become the errors of registry.core.errors, with and without ErrorInfo."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import status_pb2
from grpc.aio import AioRpcError, Metadata

from registry.client import failures
from registry.core.errors import CLASS_OF, Ambiguous, Invalid, NotFound, Reason, Unavailable
from tests.unit.client.member import Fail


def rpc_error(code: grpc.StatusCode, details: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_arrives_as_its_class(reason):
    fault = Fail(grpc.StatusCode.UNKNOWN, reason, "what happened", {"hint": "what next", "limit": "7"})
    failure = failures.of_status(fault.status())
    assert type(failure.error) is CLASS_OF[reason]
    assert failure.error.reason is reason
    assert failure.error.message == "what happened"
    assert failure.error.hint == "what next"
    assert failure.error.metadata == {"limit": "7"}
    assert failure.retry == isinstance(failure.error, Unavailable | Ambiguous)
    assert failure.executed == isinstance(failure.error, Ambiguous)


def test_the_same_from_the_trailers_of_a_call():
    status = Fail(grpc.StatusCode.NOT_FOUND, Reason.VERSION_NOT_FOUND, "no version 9").status()
    trailers = Metadata(("grpc-status-details-bin", status.SerializeToString()))
    failure = failures.of_call(AioRpcError(grpc.StatusCode.NOT_FOUND, Metadata(), trailers, "no version 9"))
    assert type(failure.error) is NotFound
    assert failure.error.reason is Reason.VERSION_NOT_FOUND


def test_a_reason_of_a_later_release_falls_back_to_the_code_and_is_kept():
    fault = Fail(grpc.StatusCode.NOT_FOUND, "SITE_NOT_FOUND", "no such site", {"hint": "add it", "site": "eu"})
    failure = failures.of_status(fault.status())
    assert isinstance(failure.error, NotFound)
    assert failure.error.hint == "add it"
    assert failure.error.metadata == {"site": "eu", "reason": "SITE_NOT_FOUND"}


@pytest.mark.parametrize(
    ("code", "details", "cls", "executed"),
    [
        (
            grpc.StatusCode.UNAVAILABLE,
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:5: Connection refused",
            Unavailable,
            False,
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            "errors resolving nowhere.invalid:1: [Domain name not found]",
            Unavailable,
            False,
        ),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", Unavailable, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Unavailable, True),
        (grpc.StatusCode.CANCELLED, "", Unavailable, True),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM", Unavailable, True),
        (grpc.StatusCode.ABORTED, "", Ambiguous, True),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", Invalid, False),
        (grpc.StatusCode.INVALID_ARGUMENT, "bad", Invalid, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (9 vs. 4)", Invalid, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams", Unavailable, True),
    ],
)
def test_plain_statuses(code, details, cls, executed):
    failure = failures.of_call(rpc_error(code, details))
    assert type(failure.error) is cls
    assert failure.executed == executed
    assert failure.error.message


def test_a_status_without_details():
    failure = failures.of_status(status_pb2.Status(code=3, message="bad"))
    assert failure.error.reason is Reason.INVALID_REQUEST
