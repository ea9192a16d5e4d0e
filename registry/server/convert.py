"""Values of the core as messages of registry.v1, and back where a message carries a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import msgspec

from registry.core import commands, fleet, model, outcomes
from registry.core.impact import Impact
from registry.formats.model import Finding
from registry.store import queries
from registry.v1 import agent_pb2, registry_pb2


def version(row: model.Version) -> registry_pb2.Version:
    return registry_pb2.Version(
        workflow=row.workflow,
        number=row.number,
        digest=row.digest,
        value_digest=row.value_digest,
        semantic_digest=row.semantic_digest,
        kind=row.kind,
        size_bytes=row.size_bytes,
        status=row.status,
        parents=row.parents,
        author=row.author,
        created_ms=row.created_ms,
        message=row.message,
        labels=row.labels,
        facts=row.facts,
        revision=row.revision,
        requires=row.requires,
        secrets=row.secrets,
        summary=row.summary,
        change=row.change,
        snapshot=row.snapshot,
        hold=row.hold,
        removed=None if row.removed is None else _removed(row.removed),
        needs=row.needs,
    )


def _removed(row: model.Removed) -> registry_pb2.Removed:
    return registry_pb2.Removed(
        cause=row.cause, revision=row.revision, time_ms=row.time_ms, principal=row.principal, reason=row.reason
    )


def removed_version(row: model.RemovedVersion) -> registry_pb2.RemovedVersion:
    return registry_pb2.RemovedVersion(workflow=row.workflow, version=row.version, digest=row.digest)


def noted_backup(row: model.Backup) -> registry_pb2.NotedBackup:
    return registry_pb2.NotedBackup(
        revision=row.revision, index=row.index, taken_ms=row.taken_ms, member=row.member, principal=row.principal
    )


def finding(row: Finding) -> registry_pb2.Finding:
    return registry_pb2.Finding(code=row.code, level=row.level, text=row.text, where=row.where)


def policy(row: model.Policy) -> registry_pb2.Policy:
    return registry_pb2.Policy(**msgspec.structs.asdict(row))


def policy_in_force(found: queries.PolicyInForce, info: registry_pb2.ReplyInfo) -> registry_pb2.GetPolicyResponse:
    return registry_pb2.GetPolicyResponse(
        info=info,
        effective=policy(found.effective),
        scopes=[registry_pb2.ScopedPolicy(scope=scope, policy=policy(row)) for scope, row in found.scopes],
    )


def impact(found: Impact, info: registry_pb2.ReplyInfo) -> registry_pb2.GetImpactResponse:
    return registry_pb2.GetImpactResponse(
        info=info,
        dependents=[registry_pb2.Dependent(**dataclasses.asdict(each)) for each in found.dependents],
        more=found.more,
    )


def pointer(row: model.Pointer) -> registry_pb2.Pointer:
    return registry_pb2.Pointer(
        workflow=row.workflow,
        pointer=row.pointer,
        version=row.version,
        digest=row.digest,
        previous_version=row.previous_version,
        generation=row.generation,
        revision=row.revision,
        reason=row.reason,
        principal=row.principal,
        time_ms=row.time_ms,
        rollback=row.rollback,
        not_before_ms=row.not_before_ms,
        deadline_ms=row.deadline_ms,
    )


def workflow(row: queries.WorkflowSummary) -> registry_pb2.Workflow:
    return registry_pb2.Workflow(
        name=row.workflow.name,
        kind=row.workflow.kind,
        versions=row.workflow.versions,
        created_ms=row.workflow.created_ms,
        pointers=[pointer(each) for each in row.pointers],
        newest=version(row.newest),
    )


def agent(row: queries.AgentReport, now_ms: int) -> registry_pb2.AgentRow:
    report = row.agent
    standing = fleet.standing(report, row.target, row.contact, now_ms, newest=row.newest)
    return registry_pb2.AgentRow(
        agent=report.agent,
        site=report.site,
        labels=report.labels,
        workflow=report.workflow,
        pointer=report.pointer,
        version=report.running_version,
        digest=report.running_digest,
        generation=report.running_generation,
        target_generation=report.generation,
        state="current" if standing == "on_target" else standing,
        code=report.code,
        detail=report.detail,
        reported_ms=report.reported_ms,
        age_ms=max(now_ms - row.contact.time_ms, 0),
        twins=fleet.has_twins(row.contact, now_ms),
    )


def unkept_needs(outcome: outcomes.Published, needs: Sequence[str]) -> list[str]:
    """A note, where a publish of the newest bytes named other needs than they were kept with."""
    kept = outcome.version.needs
    if outcome.created or not needs or set(kept) == set(needs):
        return []
    said = f"needs {', '.join(kept)}" if kept else "names no needs"
    return [f"needs belong to the version that is kept: version {outcome.version.number} has these bytes and {said}"]


def status_change(row: model.StatusChange) -> registry_pb2.StatusChange:
    return registry_pb2.StatusChange(
        workflow=row.workflow, version=row.version, previous_status=row.previous_status, status=row.status
    )


def change(row: model.Change) -> registry_pb2.Change:
    return registry_pb2.Change(
        revision=row.revision,
        time_ms=row.time_ms,
        principal=row.principal,
        action=row.action,
        reason=row.reason,
        request_id=row.request_id,
        workflows=row.workflows,
        version=None if row.version is None else version(row.version),
        pointers=[pointer(each) for each in row.pointers],
        previous_status=row.previous_status,
        status_changes=[status_change(each) for each in row.status_changes],
        epoch=row.epoch,
        scope=row.scope,
        policy=None if row.policy is None else policy(row.policy),
        forced=row.forced,
        removed=[removed_version(each) for each in row.removed],
    )


def switched(outcome: outcomes.Switched, info: registry_pb2.ReplyInfo) -> registry_pb2.SwitchResponse:
    return registry_pb2.SwitchResponse(
        info=info,
        pointers=[pointer(each) for each in outcome.pointers],
        status_changes=[status_change(each) for each in outcome.status_changes],
        notes=outcome.notes,
    )


def ack(message: agent_pb2.Ack) -> commands.Ack:
    return commands.Ack(
        agent=message.agent,
        incarnation=message.incarnation,
        sequence=message.sequence,
        workflow=message.workflow,
        pointer=message.pointer or model.DEFAULT_POINTER,
        generation=message.generation,
        phase=cast(model.Phase, message.phase),  # checked with the command
        site=message.site,
        labels=dict(message.labels),
        code=message.code,
        detail=message.detail,
        running_generation=message.running_generation,
        running_version=message.running_version,
        running_digest=message.running_digest,
        time_ms=message.time_ms,
    )
