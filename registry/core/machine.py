"""The registry's one decision: what a command does to the state, on every member alike.

`apply` is a function of state and command. It decides first and writes afterwards: a rejected command has written
nothing but the memory of its request id. What it raises is a defect, and ends the process.

Request ids make retries free. An outcome is remembered under its id, a rejection too. Past
limits.REQUESTS_REMEMBERED the oldest is forgotten, and an id that is not remembered and was issued at or before the
newest forgotten one is refused as expired: forgetting never means repeating. Malformed and expired requests are not
remembered; they get the same answer again anyway. Nor is what is refused for want of something that can be made up for
(`_REPEATED`): a switch with an outdated verdict is repeated with a new one. Acknowledge is idempotent by (agent,
incarnation, sequence), and what members do for themselves (KeepKey, Retain, Repack...) by itself.

Members of different releases apply alike: what `level` in the log does not allow yet is decided as it was before.
"""

from __future__ import annotations

import hashlib
from typing import Any, assert_never, cast

from msgspec import structs

from registry.core import fleet, limits, request_ids, validation
from registry.core.commands import (
    SINCE_LEVEL_2,
    Ack,
    Acknowledge,
    BeginEpoch,
    Collect,
    Command,
    ForgetAgents,
    Found,
    Hold,
    Index,
    KeepKey,
    Label,
    Mark,
    Move,
    NoteBackup,
    Publish,
    Purge,
    PutChunk,
    Repack,
    Retain,
    SetPolicy,
    Switch,
)
from registry.core.contents import collect, put_chunk, repack
from registry.core.decisions import accept, reject
from registry.core.encoding import encode, encode_wide
from registry.core.errors import Invalid, Reason
from registry.core.levels import as_read_below_level_2
from registry.core.marking import hold, label, mark
from registry.core.model import Agent, Change, Content, Phase, Policy
from registry.core.outcomes import (
    Acknowledged,
    EpochBegun,
    Founded,
    KeyKept,
    Outcome,
    PolicySet,
    Rejected,
    Remembered,
)
from registry.core.publishing import publish
from registry.core.removing import purge, retain
from registry.core.state import State
from registry.core.switching import switch
from registry.core.upkeep import index, note_backup

FINGERPRINT_BYTES = 16
Remembering = Found | BeginEpoch | Publish | Switch | Mark | Label | SetPolicy | Hold | Purge  # kept for retries
_REPEATED = frozenset({Reason.VERDICT_OUTDATED, Reason.BASE_OUTDATED, Reason.CHUNKS_MISSING, Reason.NOT_INDEXED})
_DERIVED: dict[str, Any] = {  # of a publish, by the member that proposes it
    "content": Content(encoding="raw", data=b"", size_bytes=0),
    "facts": {},
    "value_digest": "",
    "semantic_digest": "",
    "requires": (),
    "secrets": {},
    "summary": "",
    "change": "",
    "findings": (),
    "literals": (),
}


def apply(
    state: State, command: Command, *, level: int, requests_remembered: int = limits.REQUESTS_REMEMBERED
) -> Outcome:
    """Decide `command` as members of feature level `level` do, and write what it changes. Rejections are outcomes."""
    if level < 2:
        if isinstance(command, SINCE_LEVEL_2) or _has_content_of_level_2(command):
            return _level_too_low(state, command)
        command = as_read_below_level_2(command)
    try:
        validation.check(command)
    except Invalid as error:
        return reject(state, error.reason, error.message, hint=error.hint, metadata=error.metadata)
    match command:
        case Acknowledge():
            return _acknowledge(state, command)
        case ForgetAgents():
            return fleet.forget(state, command)
        case KeepKey():
            return _keep_key(state, command)
        case Retain():
            return retain(state, command)
        case PutChunk():
            return put_chunk(state, command)
        case Collect():
            return collect(state, command)
        case Repack():
            return repack(state, command)
        case Index():
            return index(state, command)
        case NoteBackup():
            return note_backup(state, command)
        case _:
            return _once(state, command, level, requests_remembered)


def _has_content_of_level_2(command: Command) -> bool:
    return isinstance(command, Publish) and command.content.encoding not in ("raw", "zstd")


def _level_too_low(state: State, command: Command) -> Rejected:
    return reject(
        state,
        Reason.LEVEL_TOO_LOW,
        f"{type(command).__name__} needs feature level 2, and 1 is in force; nothing was changed",
        hint="a member of an older release is in the cluster: upgrade it (regctl cluster status), then repeat this",
        metadata={"level": "1"},
    )


def _once(state: State, command: Remembering, level: int, requests_remembered: int) -> Outcome:
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
            outcome = publish(state, command, level=level)
        case Switch():
            outcome = switch(state, command, level=level)
        case Mark():
            outcome = mark(state, command, level=level)
        case Label():
            outcome = label(state, command)
        case SetPolicy():
            outcome = _set_policy(state, command)
        case Hold():
            outcome = hold(state, command)
        case Purge():
            outcome = purge(state, command)
        case _:
            assert_never(command)
    if not (isinstance(outcome, Rejected) and outcome.reason in _REPEATED):
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
                command, **_DERIVED, time_ms=0, parents=() if command.parent_references else command.parents
            )
        case Switch():
            asked = structs.replace(command, time_ms=0, moves=tuple([_asked(move) for move in command.moves]))
        case SetPolicy():
            asked = structs.replace(command, time_ms=0)
        case Mark() | Label() | Hold() | Purge():
            asked = structs.replace(command, time_ms=0, version=0 if command.reference else command.version)
        case _:
            assert_never(command)
    encoded = encode_wide(asked) if isinstance(asked, Publish) else encode(asked)
    return hashlib.sha256(encoded).digest()[:FINGERPRINT_BYTES]


def _asked(move: Move) -> Move:
    return structs.replace(move, target=0 if move.reference else move.target, verdict="", verdict_from=0)


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


def _set_policy(state: State, command: SetPolicy) -> PolicySet:
    policy = state.policy(command.scope) or Policy()
    after = structs.replace(policy, **command.fields)
    revision = state.registry().revision
    if after == policy:
        return PolicySet(revision=revision, scope=command.scope, policy=policy)
    state.put_policy(command.scope, after)
    accept(
        state,
        Change(
            revision=revision + 1,
            time_ms=command.time_ms,
            principal=command.principal,
            action="policy",
            reason=command.reason,
            request_id=command.request_id,
            workflows=(command.scope,) if state.workflow(command.scope) is not None else (),
            scope=command.scope,
            policy=after,
        ),
    )
    return PolicySet(revision=revision + 1, scope=command.scope, policy=after)


def _keep_key(state: State, command: KeepKey) -> KeyKept:
    registry = state.registry()
    if not registry.fingerprint_key:
        state.put_registry(structs.replace(registry, fingerprint_key=command.key))
    return KeyKept(revision=registry.revision)


def _acknowledge(state: State, command: Acknowledge) -> Acknowledged:
    """Reports about pointers that do not exist and reports that are not newer change nothing."""
    for ack in command.acks:
        if state.pointer(ack.workflow, ack.pointer) is None:
            continue
        known = state.agent(ack.workflow, ack.pointer, ack.agent)
        if known is None or known.incarnation != ack.incarnation or known.sequence < ack.sequence:
            state.put_agent(_agent(ack))
    for contact in command.contacts:
        known_contact = state.contact(contact.agent)
        if contact.time_ms > known_contact.time_ms:
            state.put_contact(contact.agent, fleet.heard(known_contact, contact))
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
