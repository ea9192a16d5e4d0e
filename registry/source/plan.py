"""What follows from what was found: which file is which workflow, and what a publish that failed means. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import PurePath

from registry.core import names
from registry.core.errors import Invalid, Reason, RegistryError
from registry.source import limits
from registry.source.config import Source

# Said of the bytes: they are not asked about again.
_FINAL = frozenset(
    {
        Reason.INVALID_CONTENT,
        Reason.INVALID_NAME,
        Reason.UNKNOWN_KIND,
        Reason.TOO_LARGE,
        Reason.KIND_MISMATCH,
        Reason.DIGEST_FENCED,
        Reason.SAME_SEMANTICS,
        Reason.CHECKS_FAILED,
        Reason.SECRETS_FOUND,
        Reason.CONTENT_PURGED,
    }
)
# Said of the request id: the bytes need another one. Should the first have taken effect, they are the newest version,
# and publishing them again stores nothing.
_SPENT = frozenset({Reason.REQUEST_EXPIRED, Reason.REQUEST_REUSED, Reason.INVALID_REQUEST})


def is_final(error: RegistryError) -> bool:
    return error.reason in _FINAL


def spends_request_id(error: RegistryError) -> bool:
    return error.reason in _SPENT


def backoff_s(failures: int) -> float:
    """After so many in a row, from 1: doubling from the first to the longest."""
    first, longest = limits.BACKOFF_S
    return min(longest, first * 2.0 ** min(failures - 1, 32))


def files_of(source: Source, found: Sequence[str], taken: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Paths by workflow, and what is wrong with the rest. `found`: names in the directory, if it is one. `taken`:
    workflows that have a source of their own."""
    if source.workflow:
        return {source.workflow: source.path}, []
    if len(found) > limits.FILES:
        return {}, [f"{source.path}: more than {limits.FILES} files match {source.glob}; none of them is published"]
    claims: dict[str, list[str]] = {}
    problems: list[str] = []
    for name in found:
        stem = PurePath(name).stem
        try:
            names.check_name(stem, "workflow")
        except Invalid as error:
            problems.append(f"{name!a} in {source.path} is not published: {error}")
            continue
        if name.isprintable():
            claims.setdefault(f"{source.namespace}/{stem}", []).append(name)
        else:
            problems.append(f"{name!a} in {source.path} is not published: no path of one line")
    files: dict[str, str] = {}
    for workflow, claimants in claims.items():
        if workflow in taken:
            problems.append(f"{claimants[0]} in {source.path} is not published: {workflow} has a source of its own")
        elif len(claimants) > 1:
            problems.append(f"{workflow} is not published: in {source.path} it could be {' or '.join(claimants)}")
        else:
            files[workflow] = str(PurePath(source.path, claimants[0]))
    return files, problems
