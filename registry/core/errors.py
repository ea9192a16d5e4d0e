"""Everything that can go wrong, once.

A rejection inside the machine is a value (`outcomes.Rejected`); at the edges it becomes one of these:

    RegistryError                reason, message, hint, metadata
      Rejected                   decided: no. Nothing changed; the same request will be refused again
        NotFound                 exit 3  NOT_FOUND
        Conflict                 exit 4  FAILED_PRECONDITION / ALREADY_EXISTS  generation or duplicate
        Refused                  exit 6  FAILED_PRECONDITION  a rule says no
        Invalid                  exit 2  INVALID_ARGUMENT  the request itself is wrong
      Unavailable                exit 5  UNAVAILABLE  not attempted; retry
      Ambiguous                  exit 7  ABORTED  outcome unknown; retry with the same request id
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Stable reasons, as clients see them in google.rpc.ErrorInfo."""

    # Invalid
    INVALID_NAME = "INVALID_NAME"
    INVALID_REFERENCE = "INVALID_REFERENCE"
    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_STATUS = "INVALID_STATUS"
    INVALID_CONTENT = "INVALID_CONTENT"
    UNKNOWN_KIND = "UNKNOWN_KIND"
    TOO_LARGE = "TOO_LARGE"
    REASON_REQUIRED = "REASON_REQUIRED"
    REVISION_IN_FUTURE = "REVISION_IN_FUTURE"
    # NotFound
    WORKFLOW_NOT_FOUND = "WORKFLOW_NOT_FOUND"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND"
    POINTER_NOT_FOUND = "POINTER_NOT_FOUND"
    UNKNOWN_MEMBER = "UNKNOWN_MEMBER"
    NOT_WAITING = "NOT_WAITING"
    CONTENT_REMOVED = "CONTENT_REMOVED"
    CHUNK_NOT_FOUND = "CHUNK_NOT_FOUND"
    # Conflict
    GENERATION_MISMATCH = "GENERATION_MISMATCH"
    LABEL_TAKEN = "LABEL_TAKEN"
    AMBIGUOUS_REFERENCE = "AMBIGUOUS_REFERENCE"
    CLUSTER_MISMATCH = "CLUSTER_MISMATCH"
    REQUEST_REUSED = "REQUEST_REUSED"
    AMBIGUOUS_MEMBER = "AMBIGUOUS_MEMBER"
    VERDICT_OUTDATED = "VERDICT_OUTDATED"
    BASE_OUTDATED = "BASE_OUTDATED"
    NAME_TAKEN = "NAME_TAKEN"
    # Refused
    KIND_MISMATCH = "KIND_MISMATCH"
    DIGEST_FENCED = "DIGEST_FENCED"
    VERSION_FENCED = "VERSION_FENCED"
    VERSION_FAILED = "VERSION_FAILED"
    VERSION_ARCHIVED = "VERSION_ARCHIVED"
    VERSION_IN_USE = "VERSION_IN_USE"
    STATUS_TRANSITION = "STATUS_TRANSITION"
    SAME_SEMANTICS = "SAME_SEMANTICS"
    CHECKS_FAILED = "CHECKS_FAILED"
    SECRETS_FOUND = "SECRETS_FOUND"
    VERDICT_REFUSED = "VERDICT_REFUSED"
    LABEL_IMMUTABLE = "LABEL_IMMUTABLE"
    LEVEL_TOO_LOW = "LEVEL_TOO_LOW"
    NO_ROLLBACK_TARGET = "NO_ROLLBACK_TARGET"
    REQUEST_EXPIRED = "REQUEST_EXPIRED"
    COMPARE_LIMIT = "COMPARE_LIMIT"
    CHUNKS_MISSING = "CHUNKS_MISSING"
    CONTENT_PURGED = "CONTENT_PURGED"
    NOT_INDEXED = "NOT_INDEXED"
    NOT_CAUGHT_UP = "NOT_CAUGHT_UP"
    TRANSFER_REFUSED = "TRANSFER_REFUSED"
    LAST_VOTER = "LAST_VOTER"
    QUORUM_AT_RISK = "QUORUM_AT_RISK"
    TOO_MANY_MEMBERS = "TOO_MANY_MEMBERS"
    TOO_MANY_VOTERS = "TOO_MANY_VOTERS"
    RELEASE_TOO_OLD = "RELEASE_TOO_OLD"
    MEMBERSHIP_REFUSED = "MEMBERSHIP_REFUSED"
    # Unavailable
    NO_QUORUM = "NO_QUORUM"
    TRANSFER_FAILED = "TRANSFER_FAILED"
    NOT_ADMITTED = "NOT_ADMITTED"
    NO_MEMBER = "NO_MEMBER"
    BUSY = "BUSY"
    NO_SPACE = "NO_SPACE"
    CORRUPT_CONTENT = "CORRUPT_CONTENT"
    DATA_DAMAGED = "DATA_DAMAGED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    # Ambiguous
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"


class RegistryError(Exception):
    """What happened, what was kept, what to do next.

    `metadata` holds what a program needs (the current generation, the limit): strings only, as on the wire.
    """

    def __init__(
        self, reason: Reason, message: str, *, hint: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.metadata = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class Rejected(RegistryError):
    """Decided: no. Nothing changed."""


class NotFound(Rejected):
    pass


class Conflict(Rejected):
    pass


class Refused(Rejected):
    pass


class Invalid(Rejected):
    pass


class Unavailable(RegistryError):
    """Not attempted; retry."""


class Ambiguous(RegistryError):
    """Outcome unknown; retry with the same request id."""


_CLASSES: dict[type[RegistryError], frozenset[Reason]] = {
    NotFound: frozenset(
        {
            Reason.WORKFLOW_NOT_FOUND,
            Reason.VERSION_NOT_FOUND,
            Reason.POINTER_NOT_FOUND,
            Reason.UNKNOWN_MEMBER,
            Reason.NOT_WAITING,
            Reason.CONTENT_REMOVED,
            Reason.CHUNK_NOT_FOUND,
        }
    ),
    Conflict: frozenset(
        {
            Reason.GENERATION_MISMATCH,
            Reason.LABEL_TAKEN,
            Reason.AMBIGUOUS_REFERENCE,
            Reason.CLUSTER_MISMATCH,
            Reason.REQUEST_REUSED,
            Reason.AMBIGUOUS_MEMBER,
            Reason.VERDICT_OUTDATED,
            Reason.BASE_OUTDATED,
            Reason.NAME_TAKEN,
        }
    ),
    Refused: frozenset(
        {
            Reason.KIND_MISMATCH,
            Reason.DIGEST_FENCED,
            Reason.VERSION_FENCED,
            Reason.VERSION_FAILED,
            Reason.VERSION_ARCHIVED,
            Reason.VERSION_IN_USE,
            Reason.STATUS_TRANSITION,
            Reason.SAME_SEMANTICS,
            Reason.CHECKS_FAILED,
            Reason.SECRETS_FOUND,
            Reason.VERDICT_REFUSED,
            Reason.LABEL_IMMUTABLE,
            Reason.LEVEL_TOO_LOW,
            Reason.NO_ROLLBACK_TARGET,
            Reason.REQUEST_EXPIRED,
            Reason.COMPARE_LIMIT,
            Reason.CHUNKS_MISSING,
            Reason.CONTENT_PURGED,
            Reason.NOT_INDEXED,
            Reason.NOT_CAUGHT_UP,
            Reason.TRANSFER_REFUSED,
            Reason.LAST_VOTER,
            Reason.QUORUM_AT_RISK,
            Reason.TOO_MANY_MEMBERS,
            Reason.TOO_MANY_VOTERS,
            Reason.RELEASE_TOO_OLD,
            Reason.MEMBERSHIP_REFUSED,
        }
    ),
    Unavailable: frozenset(
        {
            Reason.NO_QUORUM,
            Reason.TRANSFER_FAILED,
            Reason.NOT_ADMITTED,
            Reason.NO_MEMBER,
            Reason.BUSY,
            Reason.NO_SPACE,
            Reason.CORRUPT_CONTENT,
            Reason.DATA_DAMAGED,
            Reason.SHUTTING_DOWN,
        }
    ),
    Ambiguous: frozenset({Reason.OUTCOME_UNKNOWN}),
}
CLASS_OF: dict[Reason, type[RegistryError]] = dict.fromkeys(Reason, Invalid) | {
    reason: cls for cls, reasons in _CLASSES.items() for reason in reasons
}


def error(reason: Reason, message: str, *, hint: str = "", metadata: Mapping[str, str] | None = None) -> RegistryError:
    """The exception of the class that `reason` belongs to."""
    return CLASS_OF[reason](reason, message, hint=hint, metadata=metadata)
