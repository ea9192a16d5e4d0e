"""Messages of registry/v1 to values and back. The only file that knows the fields of both."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from registry.client import values
from registry.core import commands, model, outcomes
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2

Reference = int | str | None


def reference(value: Reference) -> str:
    """A reference without its workflow: 3, "3", "active~1", "@active" and None (the newest)."""
    return "" if value is None else str(value).removeprefix("@")


def info(message: registry_pb2.ReplyInfo) -> values.ReplyInfo:
    return values.ReplyInfo(
        revision=message.revision,
        served_by=message.served_by,
        cluster_id=message.cluster_id,
        epoch=message.epoch,
        leader=message.leader,
        age_ms=message.age_ms,
        stale=message.stale,
    )


def _version_fields(message: registry_pb2.Version) -> dict[str, Any]:
    return {
        "workflow": message.workflow,
        "number": message.number,
        "digest": message.digest,
        "value_digest": message.value_digest,
        "semantic_digest": message.semantic_digest,
        "kind": message.kind,
        "size_bytes": message.size_bytes,
        "status": cast(model.Status, message.status),
        "parents": tuple(message.parents),
        "author": message.author,
        "created_ms": message.created_ms,
        "message": message.message,
        "labels": dict(message.labels),
        "facts": dict(message.facts),
        "revision": message.revision,
        "requires": tuple(message.requires),
        "secrets": dict(message.secrets),
        "summary": message.summary,
        "change": message.change,
        "snapshot": cast(model.Snapshot, message.snapshot or "published"),
        "hold": message.hold,
        "removed": _removed(message.removed) if message.HasField("removed") else None,
        "needs": tuple(message.needs),
    }


def _removed(message: registry_pb2.Removed) -> model.Removed:
    return model.Removed(
        cause=cast(model.RemovalCause, message.cause),
        revision=message.revision,
        time_ms=message.time_ms,
        principal=message.principal,
        reason=message.reason,
    )


def version(message: registry_pb2.Version) -> model.Version:
    return model.Version(**_version_fields(message))


def published(message: registry_pb2.PublishResponse) -> values.Published:
    return values.Published(
        created=message.created,
        findings=tuple(
            values.Finding(code=each.code, level=each.level, text=each.text, where=each.where)
            for each in message.findings
        ),
        notes=tuple(message.notes),
        verdict=message.verdict,
        **_version_fields(message.version),
    )


def policy(message: registry_pb2.Policy) -> model.Policy:
    return model.Policy(**{field: getattr(message, field) for field in model.Policy.__struct_fields__})


def policy_in_force(message: registry_pb2.GetPolicyResponse) -> values.PolicyInForce:
    return values.PolicyInForce(
        effective=policy(message.effective), scopes={each.scope: policy(each.policy) for each in message.scopes}
    )


def impact(message: registry_pb2.GetImpactResponse) -> values.Impact:
    return values.Impact(
        dependents=tuple(
            values.Dependent(
                workflow=each.workflow,
                version=each.version,
                pointers=tuple(each.pointers),
                via=each.via,
                through=each.through,
                distance=each.distance,
            )
            for each in message.dependents
        ),
        more=message.more,
    )


def pointer(message: registry_pb2.Pointer) -> model.Pointer:
    return model.Pointer(
        workflow=message.workflow,
        pointer=message.pointer,
        version=message.version,
        digest=message.digest,
        previous_version=message.previous_version,
        generation=message.generation,
        revision=message.revision,
        reason=message.reason,
        principal=message.principal,
        time_ms=message.time_ms,
        rollback=message.rollback,
        not_before_ms=message.not_before_ms,
        deadline_ms=message.deadline_ms,
    )


def _status_change(message: registry_pb2.StatusChange) -> model.StatusChange:
    return model.StatusChange(
        workflow=message.workflow,
        version=message.version,
        previous_status=cast(model.Status, message.previous_status),
        status=cast(model.Status, message.status),
    )


def switched(message: registry_pb2.SwitchResponse) -> outcomes.Switched:
    return outcomes.Switched(
        revision=message.info.revision,
        pointers=tuple(pointer(each) for each in message.pointers),
        status_changes=tuple(_status_change(each) for each in message.status_changes),
        notes=tuple(message.notes),
    )


def marked(message: registry_pb2.MarkResponse) -> outcomes.Marked:
    return outcomes.Marked(
        revision=message.info.revision,
        version=version(message.version),
        previous_status=message.previous_status,
    )


def change(message: registry_pb2.Change) -> model.Change:
    return model.Change(
        revision=message.revision,
        time_ms=message.time_ms,
        principal=message.principal,
        action=cast(Any, message.action),
        reason=message.reason,
        request_id=message.request_id,
        workflows=tuple(message.workflows),
        version=version(message.version) if message.HasField("version") else None,
        pointers=tuple(pointer(each) for each in message.pointers),
        previous_status=message.previous_status,
        status_changes=tuple(_status_change(each) for each in message.status_changes),
        epoch=message.epoch,
        scope=message.scope,
        policy=policy(message.policy) if message.HasField("policy") else None,
        forced=message.forced,
        removed=tuple(_removed_version(each) for each in message.removed),
    )


def _removed_version(message: registry_pb2.RemovedVersion) -> model.RemovedVersion:
    return model.RemovedVersion(workflow=message.workflow, version=message.version, digest=message.digest)


def retained(message: registry_pb2.RetainResponse) -> values.Retained:
    return values.Retained(
        versions=tuple(
            values.RetainedVersion(workflow=each.workflow, version=each.version, kept_by=tuple(each.kept_by))
            for each in message.versions
        ),
        removed=message.removed,
        freed_bytes=message.freed_bytes,
        kept=message.kept,
    )


def purged(message: registry_pb2.PurgeResponse) -> values.Purged:
    return values.Purged(
        digest=message.digest,
        removed=tuple(_removed_version(each) for each in message.removed),
        backups=tuple(
            model.Backup(
                revision=each.revision,
                index=each.index,
                taken_ms=each.taken_ms,
                member=each.member,
                principal=each.principal,
            )
            for each in message.backups
        ),
        agents=tuple(message.agents),
    )


def workflow(message: registry_pb2.Workflow) -> values.WorkflowSummary:
    return values.WorkflowSummary(
        name=message.name,
        kind=message.kind,
        versions=message.versions,
        created_ms=message.created_ms,
        pointers=tuple(pointer(each) for each in message.pointers),
        newest=version(message.newest) if message.HasField("newest") else None,
    )


def comparison(message: registry_pb2.CompareResponse) -> values.Comparison:
    return values.Comparison(
        from_version=version(getattr(message, "from")),
        to_version=version(message.to),
        summary=message.summary,
        comparison=msgspec.json.decode(message.comparison_json, type=dict[str, Any]),
    )


def agent_row(message: registry_pb2.AgentRow) -> values.AgentRow:
    return values.AgentRow(
        agent=message.agent,
        site=message.site,
        labels=dict(message.labels),
        workflow=message.workflow,
        pointer=message.pointer,
        version=message.version,
        digest=message.digest,
        generation=message.generation,
        target_generation=message.target_generation,
        state=message.state,
        code=message.code,
        detail=message.detail,
        reported_ms=message.reported_ms,
        age_ms=message.age_ms,
        twins=message.twins,
    )


def status(message: cluster_pb2.GetStatusResponse) -> values.ClusterStatus:
    return values.ClusterStatus(
        info=info(message.info),
        leader=message.leader_name,
        term=message.term,
        commit_index=message.commit_index,
        members=tuple(
            values.MemberStatus(
                id=member.id or member.name,
                name=member.name,
                role=member.role,
                address=member.address,
                peer_address=member.peer_address,
                datacenter=member.datacenter,
                alive=member.alive,
                applied_index=member.applied_index,
                lag=member.lag,
                incarnation=member.incarnation,
                feature_level=member.feature_level,
                no_space=member.no_space,
            )
            for member in message.members
        ),
        version=message.version,
        waiting=tuple(
            values.WaitingMember(
                id=process.id,
                name=process.name,
                role=process.role,
                address=process.address,
                peer_address=process.peer_address,
                datacenter=process.datacenter,
                alive=process.alive,
                feature_level=process.feature_level,
                command=process.command,
            )
            for process in message.waiting
        ),
        leader_id=message.leader_id,
        role=message.role,
        first_index=message.first_index,
        last_index=message.last_index,
        feature_level=message.feature_level,
        fetching=message.fetching,
        no_space=message.no_space,
        headroom_bytes=message.headroom_bytes,
    )


def move_request(move: values.Move) -> registry_pb2.Move:
    return registry_pb2.Move(
        workflow=move.workflow,
        target=reference(move.target),
        pointer=move.pointer,
        expected_generation=move.expected_generation,
    )


def poll_request(request: values.PollRequest) -> agent_pb2.PollRequest:
    return agent_pb2.PollRequest(
        cluster_id=request.cluster_id,
        epoch=request.epoch,
        agent=request.agent,
        site=request.site,
        labels=request.labels,
        facts=request.facts,
        follows=[
            agent_pb2.Follow(
                workflow=follow.workflow,
                pointer=follow.pointer,
                generation=follow.generation,
                digest=follow.digest,
                kept=follow.kept,
            )
            for follow in request.follows
        ],
        wait_ms=request.wait_ms,
        session=request.session,
        inline_bytes=request.inline_bytes,
    )


def poll_response(message: agent_pb2.PollResponse) -> values.PollResponse:
    return values.PollResponse(
        info=info(message.info),
        instructions=tuple(
            values.Instruction(
                workflow=each.workflow,
                pointer=each.pointer,
                generation=each.generation,
                version=version(each.version),
                base_digest=each.base_digest,
                reason=each.reason,
                rollback=each.rollback,
                min_revision=each.min_revision,
                how=each.how or "fetch",
                content=each.content,
                delta_base=each.delta_base,
                needs=tuple(each.version.needs),
                not_before_ms=each.not_before_ms,
                deadline_ms=each.deadline_ms,
            )
            for each in message.instructions
        ),
    )


def ack_request(ack: commands.Ack) -> agent_pb2.Ack:
    return agent_pb2.Ack(
        agent=ack.agent,
        incarnation=ack.incarnation,
        sequence=ack.sequence,
        site=ack.site,
        labels=ack.labels,
        workflow=ack.workflow,
        pointer=ack.pointer,
        generation=ack.generation,
        phase=ack.phase,
        code=ack.code,
        detail=ack.detail,
        running_generation=ack.running_generation,
        running_version=ack.running_version,
        running_digest=ack.running_digest,
        time_ms=ack.time_ms,
    )
