"""Publishing: whether bytes become the next version of a workflow, and what is written then."""

from __future__ import annotations

from msgspec import structs

from registry.core import contents, fences, policies
from registry.core.commands import Publish
from registry.core.decisions import accept, reject, semver_taken, told
from registry.core.errors import Reason
from registry.core.model import SEMVER_LABEL, Change, Digest, Version, Workflow
from registry.core.names import semver_key
from registry.core.outcomes import Published, Rejected
from registry.core.state import State, View


def publish(state: State, command: Publish, *, level: int) -> Published | Rejected:
    """Decide the command and write it. `command` is well-formed (validation.check)."""
    decided = decide(state, command, level=level)
    if not isinstance(decided, tuple):
        return decided
    version = _store(state, command, level)
    return Published(revision=version.revision, version=version, created=True, notes=decided)


def decide(state: View, command: Publish, *, level: int) -> tuple[str, ...] | Published | Rejected:
    """Notes for people about a version that may be stored, or the outcome if none is. The member asks the same before
    it proposes: what is refused should not even be in the log."""
    workflow = state.workflow(command.workflow)
    if workflow is not None and workflow.kind != command.kind:
        return reject(
            state,
            Reason.KIND_MISMATCH,
            f"{command.workflow} is of kind {workflow.kind}, this content is {command.kind}; nothing was stored",
            hint="publish it under another name",
            metadata={"workflow": command.workflow, "kind": workflow.kind, "published_kind": command.kind},
        )
    purged = state.purged(command.digest) if level >= 2 else None
    if purged is not None:
        return reject(
            state,
            Reason.CONTENT_PURGED,
            f"these bytes were purged ({told(purged)}); nothing was stored",
            hint="publish other bytes: what was purged is refused for good",
            metadata={"workflow": command.workflow, "digest": command.digest, "revision": str(purged.revision)},
        )
    fence = fences.find(state, command.workflow, command.digest, command.semantic_digest, level=level)
    if fence is not None:
        return _fenced(state, command, fence)
    newest = state.version(workflow.name, workflow.versions) if workflow else None
    if newest is not None and newest.digest == command.digest and newest.removed is None:
        return Published(revision=state.registry().revision, version=newest, created=False)
    notes: tuple[str, ...] = ()
    if level >= 2:
        ruled = _missing_parent(state, command, workflow) or _by_policy(state, command, newest)
        if isinstance(ruled, Rejected):
            return ruled
        notes = ruled
    semver = semver_key(command.labels[SEMVER_LABEL]) if SEMVER_LABEL in command.labels else ""
    taken = state.semver(command.workflow, semver) if semver else None
    if taken is not None:
        return semver_taken(state, command.workflow, taken, semver, "nothing was stored")
    if not state.has_content(command.digest):
        unfit = contents.refuse(state, command.digest, command.content)
        if unfit is not None:
            return unfit
    return notes


def _fenced(state: View, command: Publish, fence: fences.Fence) -> Rejected:
    metadata = {"workflow": command.workflow, "digest": command.digest, "version": str(fence.version)}
    if not fence.is_twin:
        return reject(
            state,
            Reason.DIGEST_FENCED,
            f"these bytes are fenced in {command.workflow}, as version {fence.version}; nothing was stored",
            hint="publish other bytes, or mark that version with another status first",
            metadata=metadata,
        )
    return reject(
        state,
        Reason.DIGEST_FENCED,
        f"this means the same as version {fence.version} of {command.workflow}, which is fenced; nothing was stored",
        hint="change what it does, or mark that version candidate first, with a reason",
        metadata=metadata | {"semantic_digest": command.semantic_digest},
    )


def _missing_parent(state: View, command: Publish, workflow: Workflow | None) -> Rejected | None:
    newest = workflow.versions if workflow else 0
    missing = next((parent for parent in command.parents if parent > newest), None)
    if missing is None:
        return None
    return reject(
        state,
        Reason.VERSION_NOT_FOUND,
        f"{command.workflow} has no version {missing} that could be a parent; nothing was stored",
        hint=f"its newest is {newest}; see them with: regctl versions {command.workflow}"
        if newest
        else "its first version has no parent",
        metadata={"workflow": command.workflow, "version": str(missing), "newest": str(newest)},
    )


def _by_policy(state: View, command: Publish, newest: Version | None) -> tuple[str, ...] | Rejected:
    """Notes for people, or which policy says no."""
    policy = policies.effective(state, command.workflow)
    if policy.checks == "refuse" and command.findings:
        return _refused(state, command, Reason.CHECKS_FAILED, "checks", "the content is broken", command.findings)
    if policy.literals == "refuse" and command.literals:
        what = "the content is not free of secrets"
        return _refused(state, command, Reason.SECRETS_FOUND, "literals", what, command.literals)
    meant = fences.meaning(command.semantic_digest)
    if newest is None or newest.removed is not None:
        return ()  # nobody can go on with bytes that are gone
    if not meant or newest.semantic_digest != meant or newest.secrets != command.secrets:
        return ()  # secret values are not part of the content, but of what it does
    same = f"means the same as version {newest.number}: only layout or formatting changed"
    if policy.unchanged != "refuse":
        return (f"warning: {same}" if policy.unchanged == "warn" else same,)
    scope = policies.source(state, command.workflow, "unchanged")
    return reject(
        state,
        Reason.SAME_SEMANTICS,
        f"this {same}, which policy unchanged of {scope} refuses; nothing was stored",
        hint=f"go on with version {newest.number}, or: regctl policy set '{scope}' unchanged=warn --reason WHY",
        metadata={"workflow": command.workflow, "version": str(newest.number), "scope": scope},
    )


def _refused(state: View, command: Publish, reason: Reason, field: str, what: str, found: tuple[str, ...]) -> Rejected:
    scope = policies.source(state, command.workflow, field)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return reject(
        state,
        reason,
        f"{what}: {found[0]}{more}; policy {field} of {scope} refuses it, nothing was stored",
        hint=f"correct it, or: regctl policy set '{scope}' {field}=warn --reason WHY",
        metadata={"workflow": command.workflow, "scope": scope, "findings": "\n".join(found)},
    )


def _store(state: State, command: Publish, level: int) -> Version:
    workflow = state.workflow(command.workflow)
    revision = state.registry().revision + 1
    newest = workflow.versions if workflow else 0
    version = Version(
        workflow=command.workflow,
        number=newest + 1,
        digest=command.digest,
        value_digest=command.value_digest,
        semantic_digest=command.semantic_digest,
        kind=command.kind,
        size_bytes=command.content.size_bytes,
        parents=tuple(dict.fromkeys(command.parents)) or ((newest,) if newest else ()),
        author=command.principal,
        created_ms=command.time_ms,
        message=command.message,
        labels=command.labels,
        facts=command.facts,
        revision=revision,
        requires=tuple(dict.fromkeys(command.requires)),
        secrets=command.secrets,
        summary=command.summary,
        change=command.change,
        snapshot=command.snapshot,
        needs=tuple(dict.fromkeys(command.needs)),
    )
    workflow = workflow or Workflow(name=command.workflow, kind=command.kind, versions=0, created_ms=command.time_ms)
    state.put_workflow(structs.replace(workflow, versions=version.number))
    state.put_version(version)
    state.put_digest(version.workflow, version.digest, Digest(newest=version.number))  # none is fenced
    if SEMVER_LABEL in version.labels:
        state.put_semver(version.workflow, semver_key(version.labels[SEMVER_LABEL]), version.number)
    for token in version.requires:
        state.put_requirement(token, version.workflow, version.number)
    if not state.has_content(version.digest):
        contents.store(state, version.digest, command.content)
    if level >= 2:
        state.put_holder(version.digest, version.workflow, version.number)
    accept(
        state,
        Change(
            revision=revision,
            time_ms=command.time_ms,
            principal=command.principal,
            action="publish",
            request_id=command.request_id,
            workflows=(version.workflow,),
            version=version,
        ),
    )
    return version
