"""The registry's one decision: what a command does to the state, on every member alike.

`apply` is a function of state and command. It decides first and writes afterwards: a rejected command has written
nothing but the memory of its request id. What it raises is a defect, and ends the process.

Request ids make retries free. An outcome is remembered under its id, a rejection too. Past
limits.REQUESTS_REMEMBERED the oldest is forgotten, and an id that is not remembered and was issued at or before the
newest forgotten one is refused as expired: forgetting never means repeating. Malformed and expired requests are not
remembered; they get the same answer again anyway. Acknowledge is idempotent by (agent, incarnation, sequence).
"""

from __future__ import annotations

import hashlib
from typing import assert_never, cast

from msgspec import msgpack, structs

from registry.core import limits, request_ids, validation
from registry.core.commands import Ack, Acknowledge, BeginEpoch, Command, Found, Mark, Publish, Switch
from registry.core.decisions import accept, find_version, reject
from registry.core.errors import Invalid, Reason
from registry.core.model import SEMVER_LABEL, Agent, Change, Content, Digest, Phase, Version, Workflow
from registry.core.names import semver_key
from registry.core.outcomes import Acknowledged, EpochBegun, Founded, Marked, Outcome, Published, Rejected, Remembered
from registry.core.state import State
from registry.core.switching import switch

FINGERPRINT_BYTES = 16
Remembering = Found | BeginEpoch | Publish | Switch | Mark  # whose outcome is kept for retries
_NO_CONTENT = Content(encoding="raw", data=b"", size_bytes=0)
_encode = msgpack.Encoder(order="deterministic").encode


def apply(state: State, command: Command, *, requests_remembered: int = limits.REQUESTS_REMEMBERED) -> Outcome:
    """Decide `command` and write what it changes. Rejections are outcomes."""
    try:
        validation.check(command)
    except Invalid as error:
        return reject(state, error.reason, error.message, hint=error.hint, metadata=error.metadata)
    match command:
        case Acknowledge():
            return _acknowledge(state, command)
        case Found() | BeginEpoch() | Publish() | Switch() | Mark():
            return _once(state, command, requests_remembered)
        case _:
            assert_never(command)


def _once(state: State, command: Remembering, requests_remembered: int) -> Outcome:
    fingerprint = _fingerprint(command)
    remembered = state.remembered(command.request_id)
    if remembered is not None and remembered.fingerprint == fingerprint:
        return remembered.outcome
    if remembered is not None:
        return reject(
            state,
            Reason.REQUEST_REUSED,
            f"request id {command.request_id} was used for another request; nothing was changed",
            hint="make a new request id for every intended change, and repeat it only on retries of that one",
        )
    # An epoch is begun by nobody who retries, and must begin, whatever the clock of the machine it was asked for on.
    if not isinstance(command, BeginEpoch) and _is_expired(state, command.request_id):
        return reject(
            state,
            Reason.REQUEST_EXPIRED,
            f"request id {command.request_id} was made too long ago: whether it took effect is no longer known",
            hint="look for it in the history, and if it is not there, repeat it with a new request id",
            metadata={"forgotten_ms": str(state.registry().forgotten_ms)},
        )
    outcome: Outcome
    match command:
        case Found():
            outcome = _found(state, command)
        case BeginEpoch():
            outcome = _begin_epoch(state, command)
        case Publish():
            outcome = _publish(state, command)
        case Switch():
            outcome = switch(state, command)
        case Mark():
            outcome = _mark(state, command)
        case _:
            assert_never(command)
    _remember(state, command.request_id, fingerprint, outcome, requests_remembered)
    return outcome


def _is_expired(state: State, request_id: str) -> bool:
    return request_ids.issued_ms(request_id) <= state.registry().forgotten_ms


def _fingerprint(command: Remembering) -> bytes:
    """Of what the caller asked. Not of what a member made of it: a retry through another member may compress or
    resolve a reference differently, and is still the same request."""
    asked: Command
    match command:
        case Found() | BeginEpoch():
            asked = structs.replace(command, time_ms=0)
        case Publish():
            asked = structs.replace(
                command, time_ms=0, content=_NO_CONTENT, facts={}, value_digest="", semantic_digest=""
            )
        case Switch():
            moves = tuple(structs.replace(move, target=0) if move.reference else move for move in command.moves)
            asked = structs.replace(command, time_ms=0, moves=moves)
        case Mark():
            asked = structs.replace(command, time_ms=0, version=0 if command.reference else command.version)
        case _:
            assert_never(command)
    return hashlib.sha256(_encode(asked)).digest()[:FINGERPRINT_BYTES]


def _remember(state: State, request_id: str, fingerprint: bytes, outcome: Outcome, most: int) -> None:
    registry = state.registry()
    state.remember(request_id, Remembered(sequence=registry.requests, fingerprint=fingerprint, outcome=outcome))
    requests, forgotten_ms = registry.requests + 1, registry.forgotten_ms
    oldest = registry.requests - registry.remembered
    while requests - oldest > most:
        forgotten = state.request_id(oldest)
        state.forget(forgotten)
        oldest, forgotten_ms = oldest + 1, max(forgotten_ms, request_ids.issued_ms(forgotten))
    state.put_registry(
        structs.replace(registry, remembered=requests - oldest, requests=requests, forgotten_ms=forgotten_ms)
    )


def _found(state: State, command: Found) -> Founded:
    registry = state.registry()
    if registry.cluster_id:
        return Founded(revision=registry.revision, cluster_id=registry.cluster_id)
    state.put_registry(structs.replace(registry, cluster_id=command.cluster_id))
    revision = registry.revision + 1
    accept(
        state,
        Change(
            revision=revision,
            time_ms=command.time_ms,
            principal="",
            action="found",
            request_id=command.request_id,
        ),
    )
    return Founded(revision=revision, cluster_id=command.cluster_id)


def _begin_epoch(state: State, command: BeginEpoch) -> EpochBegun:
    registry = state.registry()
    revision, epoch = registry.revision + 1, max(registry.epoch + 1, command.at_least)
    state.put_registry(structs.replace(registry, epoch=epoch))
    accept(
        state,
        Change(
            revision=revision,
            time_ms=command.time_ms,
            principal=command.principal,
            action=command.cause,
            reason=command.reason,
            request_id=command.request_id,
            epoch=epoch,
        ),
    )
    return EpochBegun(revision=revision, epoch=epoch)


def _publish(state: State, command: Publish) -> Published | Rejected:
    workflow = state.workflow(command.workflow)
    if workflow is not None and workflow.kind != command.kind:
        return reject(
            state,
            Reason.KIND_MISMATCH,
            f"{command.workflow} is of kind {workflow.kind}, this content is {command.kind}; nothing was stored",
            hint="publish it under another name",
            metadata={"workflow": command.workflow, "kind": workflow.kind, "published_kind": command.kind},
        )
    same = state.digest(command.workflow, command.digest)
    if same is not None and same.fenced:
        return reject(
            state,
            Reason.DIGEST_FENCED,
            f"these bytes are fenced in {command.workflow}, as version {same.fenced[0]}; nothing was stored",
            hint="publish other bytes, or mark that version with another status first",
            metadata={"workflow": command.workflow, "digest": command.digest, "version": str(same.fenced[0])},
        )
    newest = state.version(workflow.name, workflow.versions) if workflow else None
    if newest is not None and newest.digest == command.digest:
        return Published(revision=state.registry().revision, version=newest, created=False)
    semver = semver_key(command.labels[SEMVER_LABEL]) if SEMVER_LABEL in command.labels else ""
    taken = state.semver(command.workflow, semver) if semver else None
    if taken is not None:
        return reject(
            state,
            Reason.LABEL_TAKEN,
            f"version {taken} of {command.workflow} has the label semver {semver} already; nothing was stored",
            hint="choose the next version label",
            metadata={"workflow": command.workflow, "version": str(taken), "semver": semver},
        )
    return _store(state, command, workflow, semver)


def _store(state: State, command: Publish, workflow: Workflow | None, semver: str) -> Published:
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
        parents=(newest,) if newest else (),
        author=command.principal,
        created_ms=command.time_ms,
        message=command.message,
        labels=command.labels,
        facts=command.facts,
        revision=revision,
    )
    workflow = workflow or Workflow(name=command.workflow, kind=command.kind, versions=0, created_ms=command.time_ms)
    state.put_workflow(structs.replace(workflow, versions=version.number))
    state.put_version(version)
    state.put_digest(version.workflow, version.digest, Digest(newest=version.number))  # none is fenced
    if semver:
        state.put_semver(version.workflow, semver, version.number)
    if not state.has_content(version.digest):
        state.put_content(version.digest, command.content)
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
    return Published(revision=revision, version=version, created=True)


def _mark(state: State, command: Mark) -> Marked | Rejected:
    version = find_version(state, command.workflow, command.version)
    if isinstance(version, Rejected):
        return version
    in_use = _in_use(state, command, version)
    if in_use is not None:
        return in_use
    previous = version.status
    if command.status == previous:
        return Marked(revision=state.registry().revision, version=version, previous_status=previous)
    revision = state.registry().revision + 1
    version = structs.replace(version, status=command.status)
    state.put_version(version)
    if "fenced" in (previous, command.status):
        _fence(state, version)
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


def _in_use(state: State, command: Mark, version: Version) -> Rejected | None:
    """A pointer must not name what is archived, nor the bytes that are fenced."""
    for pointer in state.pointers(version.workflow):
        same_bytes = command.status == "fenced" and pointer.digest == version.digest
        if same_bytes or (command.status == "archived" and pointer.version == version.number):
            return reject(
                state,
                Reason.VERSION_IN_USE,
                f"{pointer.pointer} of {version.workflow} names version {pointer.version}"
                + ("" if pointer.version == version.number else f", the same bytes as version {version.number}")
                + f"; it was not marked {command.status}",
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


def _fence(state: State, version: Version) -> None:
    """Keep account of the fenced ones among the versions with the same bytes."""
    row = state.digest(version.workflow, version.digest)
    if row is None:
        raise KeyError(f"digest {version.digest} of {version.workflow} is missing")
    others = [number for number in row.fenced if number != version.number]
    fenced = sorted([*others, version.number] if version.status == "fenced" else others)
    state.put_digest(version.workflow, version.digest, structs.replace(row, fenced=tuple(fenced)))


def _acknowledge(state: State, command: Acknowledge) -> Acknowledged:
    """Reports about pointers that do not exist and reports that are not newer change nothing."""
    for ack in command.acks:
        if state.pointer(ack.workflow, ack.pointer) is None:
            continue
        known = state.agent(ack.workflow, ack.pointer, ack.agent)
        if known is None or known.incarnation != ack.incarnation or known.sequence < ack.sequence:
            state.put_agent(_agent(ack))
    for contact in command.contacts:
        if contact.time_ms > state.contact_ms(contact.agent):
            state.put_contact(contact.agent, contact.time_ms)
    return Acknowledged(revision=state.registry().revision)


def _agent(ack: Ack) -> Agent:
    return Agent(
        agent=ack.agent,
        workflow=ack.workflow,
        pointer=ack.pointer,
        incarnation=ack.incarnation,
        sequence=ack.sequence,
        site=ack.site,
        labels=ack.labels,
        generation=ack.generation,
        phase=cast(Phase, ack.phase),
        code=ack.code,
        detail=ack.detail,
        running_generation=ack.running_generation,
        running_version=ack.running_version,
        running_digest=ack.running_digest,
        reported_ms=ack.time_ms,
    )
