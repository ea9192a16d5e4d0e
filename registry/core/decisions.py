"""What every decision of the machine ends in: an accepted change with its audit entry, or a rejection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import structs

from registry.core import limits
from registry.core.errors import NotFound, Reason
from registry.core.model import Change, Removed, Version
from registry.core.outcomes import Rejected
from registry.core.state import State, View


def accept(state: State, change: Change) -> None:
    """Write the audit entry; its revision is the registry's from now on."""
    registry = state.registry()
    if change.revision != registry.revision + 1:
        raise ValueError(f"change {change.revision} after revision {registry.revision}")
    state.put_change(change)
    state.put_registry(structs.replace(registry, revision=change.revision))


def reject(
    state: View, reason: Reason, message: str, *, hint: str = "", metadata: Mapping[str, str] | None = None
) -> Rejected:
    return Rejected(
        revision=state.registry().revision,
        reason=reason.value,
        message=message,
        hint=hint,
        metadata=dict(metadata or {}),
    )


def no_workflow(state: View, workflow: str) -> Rejected:
    return reject(
        state,
        Reason.WORKFLOW_NOT_FOUND,
        f"there is no workflow {workflow}",
        hint="see all with: regctl workflows",
        metadata={"workflow": workflow},
    )


def find_version(state: View, workflow: str, number: int) -> Version | Rejected:
    version = state.version(workflow, number)
    if version is not None:
        return version
    found = state.workflow(workflow)
    if found is None:
        return no_workflow(state, workflow)
    return reject(
        state,
        Reason.VERSION_NOT_FOUND,
        f"{workflow} has no version {number}",
        hint=f"its newest is {found.versions}; see them with: regctl versions {workflow}",
        metadata={"workflow": workflow, "version": str(number), "newest": str(found.versions)},
    )


def semver_taken(state: View, workflow: str, taken: int, semver: str, kept: str) -> Rejected:
    return reject(
        state,
        Reason.LABEL_TAKEN,
        f"version {taken} of {workflow} has the label semver {semver} already; {kept}",
        hint="choose the next version label",
        metadata={"workflow": workflow, "version": str(taken), "semver": semver},
    )


def removed_content(version: Version, removed: Removed) -> NotFound:
    """The content of this version is not kept any more."""
    how = "was purged" if removed.cause == "purge" else "was let go of by retention"
    return NotFound(
        Reason.CONTENT_REMOVED,
        f"the content of version {version.number} of {version.workflow} {how} ({told(removed)})",
        hint="its row and its digest stay; publish the bytes again to have them back"
        if removed.cause == "retention"
        else "its row and its digest stay; these bytes are refused from now on",
        metadata={
            "workflow": version.workflow,
            "version": str(version.number),
            "digest": version.digest,
            "cause": removed.cause,
            "revision": str(removed.revision),
        },
    )


def content_removed(state: View, version: Version, removed: Removed, kept: str) -> Rejected:
    error = removed_content(version, removed)
    return reject(state, error.reason, f"{error.message}; {kept}", hint=error.hint, metadata=error.metadata)


def not_indexed(state: View, kept: str) -> Rejected:
    return reject(
        state,
        Reason.NOT_INDEXED,
        f"which version holds which content is not known in full yet, after an upgrade; {kept}",
        hint="the members find out by themselves within minutes; repeat it then",
        metadata={"indexed": state.registry().indexed},
    )


def told(removed: Removed) -> str:
    """Who, when and why, for people."""
    when = datetime.fromtimestamp(min(removed.time_ms, limits.TIME_MAX_MS) // 1000, UTC).strftime(
        "%Y-%m-%d %H:%M:%S UTC"
    )
    return f"{removed.principal or 'someone'} on {when}: {removed.reason}"
