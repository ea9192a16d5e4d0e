"""Errors of the registry as HTTP replies: one table."""

from __future__ import annotations

import secrets
from http import HTTPStatus

import structlog

from cluster.kv.api import Damaged
from registry.core import errors
from registry.core.errors import RegistryError
from registry.server.http_messages import Failed, Response, refusal
from registry.server.limits import BUSY_RETRY_MS
from registry.server.repair import Repairs

_STATUSES: dict[type[RegistryError], HTTPStatus] = {
    errors.Invalid: HTTPStatus.BAD_REQUEST,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.Refused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Ambiguous: HTTPStatus.GATEWAY_TIMEOUT,
}
log = structlog.get_logger()


def failure(error: RegistryError) -> Response:
    """What gRPC callers get as ErrorInfo, as JSON."""
    cls = errors.CLASS_OF[error.reason]
    metadata = dict(error.metadata)
    if cls is errors.Unavailable:
        metadata.setdefault("retry_ms", str(BUSY_RETRY_MS))
    return refusal(_STATUSES[cls], error.message, reason=error.reason, hint=error.hint, metadata=metadata)


def failures(repairs: Repairs) -> Failed:
    """Replies of what handlers raise. Damaged rows are noted; what is no error of ours gets a number and a line in the
    log."""

    def failed(route: str, error: Exception) -> Response:
        if isinstance(error, Damaged):
            error = repairs.failure(error)
        if isinstance(error, RegistryError):
            return failure(error)
        incident = secrets.token_hex(4)
        log.error("request failed inside", route=route, incident=incident, exc_info=error)
        return refusal(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            f"internal error {incident}",
            reason="INTERNAL",
            hint="the member's log has the details under this number",
            metadata={"incident": incident},
        )

    return failed
