from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from cluster.kv.api import Damaged
from registry.core import errors, outcomes
from registry.core.errors import Reason
from registry.server import rpc, status
from registry.server.limits import CALL_MAX_S, CALL_S, ERROR_BYTES
from registry.server.metrics import Metrics
from registry.server.repair import Repairs


def info(of: errors.RegistryError) -> error_details_pb2.ErrorInfo:
    detail = error_details_pb2.ErrorInfo()
    assert status.rich(of).details[0].Unpack(detail)
    return detail


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.INVALID_NAME, grpc.StatusCode.INVALID_ARGUMENT),
        (Reason.REVISION_IN_FUTURE, grpc.StatusCode.OUT_OF_RANGE),
        (Reason.VERSION_NOT_FOUND, grpc.StatusCode.NOT_FOUND),
        (Reason.GENERATION_MISMATCH, grpc.StatusCode.FAILED_PRECONDITION),
        (Reason.LABEL_TAKEN, grpc.StatusCode.ALREADY_EXISTS),
        (Reason.VERSION_FENCED, grpc.StatusCode.FAILED_PRECONDITION),
        (Reason.CORRUPT_CONTENT, grpc.StatusCode.DATA_LOSS),
        (Reason.NO_QUORUM, grpc.StatusCode.UNAVAILABLE),
        (Reason.BUSY, grpc.StatusCode.UNAVAILABLE),
        (Reason.OUTCOME_UNKNOWN, grpc.StatusCode.ABORTED),
    ],
)
def test_reasons_have_their_codes(reason: Reason, code: grpc.StatusCode) -> None:
    assert status.code_of(status.rich(errors.error(reason, "x"))) is code


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_travels_with_its_metadata_and_hint(reason: Reason) -> None:
    sent = info(errors.error(reason, "what happened", hint="do this", metadata={"generation": "3"}))
    assert (sent.reason, sent.domain) == (reason, "workflow-registry")
    assert dict(sent.metadata) == {"generation": "3", "hint": "do this"}


def test_trailers_stay_small() -> None:
    long = errors.error(Reason.INVALID_NAME, "界" * 100_000, hint="h" * 100_000, metadata={"k": "v" * 100_000})
    assert len(status.rich(long).SerializeToString()) < 4 * ERROR_BYTES + 512


def test_a_rejected_outcome_becomes_the_exception_of_its_class() -> None:
    rejected = outcomes.Rejected(
        revision=7, reason="GENERATION_MISMATCH", message="m", hint="h", metadata={"generation": "2"}
    )
    error = status.rejection(rejected)
    assert isinstance(error, errors.Conflict)
    assert (error.reason, error.message, error.hint) == (Reason.GENERATION_MISMATCH, "m", "h")
    assert error.metadata == {"generation": "2"}


def test_a_defect_leaves_as_a_number_without_its_text() -> None:
    sent = rpc.Rpc(Metrics()).failed("Switch", ZeroDivisionError("secret detail"))
    assert status.code_of(sent) is grpc.StatusCode.INTERNAL
    assert b"secret" not in sent.SerializeToString()


def test_damage_is_told_to_the_caller_and_to_who_repairs_it() -> None:
    repairs = Repairs()
    sent = rpc.Rpc(Metrics(), repairs).failed(
        "GetVersion", Damaged("versions", b"a/b\0", "its checksum is another one")
    )
    assert status.code_of(sent) is grpc.StatusCode.UNAVAILABLE
    info = error_details_pb2.ErrorInfo()
    assert sent.details[0].Unpack(info)
    assert info.reason == Reason.DATA_DAMAGED
    assert "checksum" in repairs.needed


def test_calls_answer_before_their_deadline() -> None:
    assert rpc.budget_s(None) == CALL_S
    assert rpc.budget_s(None, 60.0) == 60.0
    assert rpc.budget_s(1e6) == CALL_MAX_S
    assert 0.9 < rpc.budget_s(1.0) < 1.0
    assert 0 < rpc.budget_s(0.01) < 0.01
    assert rpc.budget_s(0.0) == 0.0
