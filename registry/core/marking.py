"""Statuses, labels and holds of versions that are there."""

from __future__ import annotations

from msgspec import structs

from registry.core import fences, limits, policies
from registry.core.commands import Hold, Label, Mark
from registry.core.decisions import accept, content_removed, find_version, reject, semver_taken
from registry.core.errors import Reason
from registry.core.model import SEMVER_LABEL, Change, Pointer, Status, Version
from registry.core.names import semver_key
from registry.core.outcomes import Held, Labelled, Marked, Rejected
from registry.core.state import State

# From feature level 2 on. What was taken out of use comes back as a candidate only: proven again, with a reason. It can
# always be fenced: that must not need a way through `candidate`.
TRANSITIONS: dict[Status, tuple[Status, ...]] = {
    "candidate": ("stable", "failed", "fenced", "archived"),
    "stable": ("candidate", "failed", "fenced", "archived"),
    "failed": ("candidate", "fenced", "archived"),
    "fenced": ("candidate",),
    "archived": ("candidate", "fenced"),
}


def mark(state: State, command: Mark, *, level: int) -> Marked | Rejected:
    version = find_version(state, command.workflow, command.version)
    if isinstance(version, Rejected):
        return version
    in_use = _in_use(state, command, version, level)
    if in_use is not None:
        return in_use
    previous = version.status
    if command.status == previous:
        return Marked(revision=state.registry().revision, version=version, previous_status=previous)
    if level >= 2 and command.status not in TRANSITIONS[previous]:
        return _no_transition(state, command, version)
    revision = state.registry().revision + 1
    version = structs.replace(version, status=command.status)
    state.put_version(version)
    if "fenced" in (previous, command.status):
        fences.keep(state, version, level=level)
    accept(
        state,
        Change(
            revision=revision,
            time_ms=command.time_ms,
            principal=command.principal,
            action="mark",
            reason=command.reason,
            request_id=command.request_id,
            workflows=(version.workflow,),
            version=version,
            previous_status=previous,
        ),
    )
    return Marked(revision=revision, version=version, previous_status=previous)


def _in_use(state: State, command: Mark, version: Version, level: int) -> Rejected | None:
    """A pointer must not name what is archived, nor the bytes that are fenced or their twin."""
    for pointer in state.pointers(version.workflow):
        if command.status == "archived":
            same = "" if pointer.version == version.number else None
        else:
            same = _sameness(state, pointer, version, level) if command.status == "fenced" else None
        if same is not None:
            return reject(
                state,
                Reason.VERSION_IN_USE,
                f"{pointer.pointer} of {version.workflow} names version {pointer.version}{same}"
                f"; it was not marked {command.status}",
                hint="move the pointer first: "
                f"regctl rollback {version.workflow} --pointer {pointer.pointer} --reason WHY",
                metadata={
                    "workflow": version.workflow,
                    "version": str(version.number),
                    "pointer": pointer.pointer,
                    "generation": str(pointer.generation),
                },
            )
    return None


def _sameness(state: State, pointer: Pointer, version: Version, level: int) -> str | None:
    """How what a pointer names is the same as `version`, as an apposition; None: it is not."""
    if pointer.version == version.number:
        return ""
    if pointer.digest == version.digest:
        return f", the same bytes as version {version.number}"
    if level >= 2:
        named = state.version(pointer.workflow, pointer.version)
        if named is None:
            raise KeyError(f"version {pointer.version} of {pointer.workflow} is missing")
        if fences.mean_the_same(named, version):
            return f", which means the same as version {version.number}"
    return None


def _no_transition(state: State, command: Mark, version: Version) -> Rejected:
    target = f"{version.workflow}@{version.number}"
    return reject(
        state,
        Reason.STATUS_TRANSITION,
        f"version {version.number} of {version.workflow} is {version.status}: it cannot become {command.status}; "
        "nothing was changed",
        hint=f"mark it candidate first, with a reason: regctl mark {target} candidate --reason WHY",
        metadata={
            "workflow": version.workflow,
            "version": str(version.number),
            "status": version.status,
            "allowed": ",".join(TRANSITIONS[version.status]),
        },
    )


def label(state: State, command: Label) -> Labelled | Rejected:
    """All labels are set and removed, or none."""
    version = find_version(state, command.workflow, command.version)
    if isinstance(version, Rejected):
        return version
    kept = {key: value for key, value in version.labels.items() if key not in command.remove}
    labels = kept | command.labels
    if labels == version.labels:
        return Labelled(revision=state.registry().revision, version=version)
    if len(labels) > limits.LABELS:
        return reject(
            state,
            Reason.TOO_LARGE,
            f"version {version.number} of {version.workflow} would have {len(labels)} labels; nothing was changed",
            hint=f"at most {limits.LABELS} are kept; remove some",
            metadata={"workflow": version.workflow, "version": str(version.number), "limit": str(limits.LABELS)},
        )
    immutable = _immutable(state, version, labels)
    if immutable is not None:
        return immutable
    semver = semver_key(labels[SEMVER_LABEL]) if SEMVER_LABEL in labels.keys() - version.labels.keys() else ""
    taken = state.semver(version.workflow, semver) if semver else None
    if taken is not None:
        return semver_taken(state, version.workflow, taken, semver, "nothing was changed")
    revision = state.registry().revision + 1
    version = structs.replace(version, labels=labels)
    state.put_version(version)
    if semver:
        state.put_semver(version.workflow, semver, version.number)
    accept(
        state,
        Change(
            revision=revision,
            time_ms=command.time_ms,
            principal=command.principal,
            action="label",
            reason=command.reason,
            request_id=command.request_id,
            workflows=(version.workflow,),
            version=version,
        ),
    )
    return Labelled(revision=revision, version=version)


def _immutable(state: State, version: Version, labels: dict[str, str]) -> Rejected | None:
    """The first label that is set, would change or go, and must stay."""
    policy = policies.effective(state, version.workflow)
    for key, value in sorted(version.labels.items()):
        if labels.get(key) == value or not (key == SEMVER_LABEL or policies.is_immutable(policy, key)):
            continue
        scope = "" if key == SEMVER_LABEL else policies.source(state, version.workflow, "immutable_labels")
        why = f"policy immutable_labels of {scope} keeps it" if scope else "the registry keeps it"
        return reject(
            state,
            Reason.LABEL_IMMUTABLE,
            f"version {version.number} of {version.workflow} has the label {key}={value}, and {why}; "
            "nothing was changed",
            hint="publish another version, or use another label",
            metadata={
                "workflow": version.workflow,
                "version": str(version.number),
                "label": key,
                "value": value,
                "scope": scope,
            },
        )
    return None


def hold(state: State, command: Hold) -> Held | Rejected:
    """The reason is what is kept with the version: another one is a change too."""
    version = find_version(state, command.workflow, command.version)
    if isinstance(version, Rejected):
        return version
    why = command.reason if command.hold else ""
    if why and version.removed is not None:
        return content_removed(state, version, version.removed, "it was not held")
    if version.hold == why:
        return Held(revision=state.registry().revision, version=version)
    revision = state.registry().revision + 1
    version = structs.replace(version, hold=why)
    state.put_version(version)
    accept(
        state,
        Change(
            revision=revision,
            time_ms=command.time_ms,
            principal=command.principal,
            action="hold",
            reason=command.reason,
            request_id=command.request_id,
            workflows=(version.workflow,),
            version=version,
        ),
    )
    return Held(revision=revision, version=version)
