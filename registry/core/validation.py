"""What makes a command well-formed, whatever the state: names, limits, what must be there.

The member checks before it proposes, so that a bad request costs no log entry; the machine checks again, so that no
member can put into the log what would end the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never, get_args

from registry.core import limits, names, needs, policies, request_ids
from registry.core.commands import (
    Ack,
    Acknowledge,
    BeginEpoch,
    Collect,
    Command,
    ForgetAgents,
    ForgottenAgent,
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
from registry.core.encoding import FINGERPRINT_BYTES
from registry.core.errors import Invalid, Reason
from registry.core.model import EPOCH_CAUSES, SEMVER_LABEL, SNAPSHOTS, STATUSES, Content, Phase

NUMBER_MAX = 2**63 - 1
EPOCH_MAX = 2**32  # no history is begun so often; a slip of the finger must not use them up
CHANGES = ("", "none", "minor", "medium", "major")
_PHASES: tuple[Phase, ...] = get_args(Phase)


def check(command: Command) -> None:
    """Raises errors.Invalid."""
    match command:
        case Found():
            request_ids.check(command.request_id)
            names.check_name(command.cluster_id, "cluster id")
        case BeginEpoch():
            request_ids.check(command.request_id)
            names.check_principal(command.principal)
            _reason(command.reason)
            if not 0 <= command.at_least <= EPOCH_MAX:
                raise Invalid(
                    Reason.INVALID_REQUEST,
                    f"epoch {command.at_least} is outside 0 to {EPOCH_MAX}",
                    hint="give one above any that agents have seen",
                )
            if command.cause not in EPOCH_CAUSES:
                raise Invalid(
                    Reason.INVALID_REQUEST,
                    f"not a cause of an epoch: {command.cause[:80]!a}",
                    hint=f"one of {', '.join(EPOCH_CAUSES)}",
                )
        case Publish():
            request_ids.check(command.request_id)
            _publish(command)
        case Switch():
            request_ids.check(command.request_id)
            _switch(command)
        case Mark():
            _about_version(command)
            if command.status not in STATUSES:
                raise Invalid(
                    Reason.INVALID_STATUS,
                    f"not a status: {command.status[:80]!a}",
                    hint=f"one of {', '.join(STATUSES)}",
                )
        case Label():
            request_ids.check(command.request_id)
            _label(command)
        case SetPolicy():
            request_ids.check(command.request_id)
            names.check_scope(command.scope)
            names.check_principal(command.principal)
            _reason(command.reason)
            policies.check(command.fields)
        case KeepKey():
            request_ids.check(command.request_id)
            if len(command.key) != limits.FINGERPRINT_KEY_BYTES:
                raise Invalid(
                    Reason.INVALID_REQUEST,
                    f"a key of {len(command.key)} bytes",
                    hint=f"it has {limits.FINGERPRINT_KEY_BYTES}",
                )
        case Hold():
            _about_version(command)
        case Purge():
            _about_version(command)
            names.check_digest(command.digest)
        case Retain():
            request_ids.check(command.request_id)
            _retain(command)
        case PutChunk():
            request_ids.check(command.request_id)
            names.check_digest(command.digest)
            _chunk(command.content)
        case Collect():
            request_ids.check(command.request_id)
            _some(len(command.digests), "chunks to collect", limits.COLLECTED)
            for digest in command.digests:
                names.check_digest(digest)
        case Repack():
            request_ids.check(command.request_id)
            _repack(command)
        case Index():
            request_ids.check(command.request_id)
        case NoteBackup():
            request_ids.check(command.request_id)
            names.check_line(command.backup.member, "member", limits.PRINCIPAL_CHARS)
            names.check_principal(command.backup.principal)
            for value in (command.backup.revision, command.backup.index, command.backup.taken_ms):
                _number(value, "number in a backup")
        case Acknowledge():
            _count(len(command.acks), "acks", limits.ACKS)
            _count(len(command.contacts), "contacts", limits.CONTACTS)
            for ack in command.acks:
                _ack(ack)
            for contact in command.contacts:
                names.check_agent(contact.agent)
                _number(contact.time_ms, "time_ms")
                if contact.session:
                    names.check_line(contact.session, "session", limits.NAME_CHARS)
        case ForgetAgents():
            request_ids.check(command.request_id)
            _some(sum(agent.weight for agent in command.agents), "agents and rows to forget", limits.FORGOTTEN)
            for agent in command.agents:
                _forgotten(agent)
        case _:
            assert_never(command)
    _number(command.time_ms, "time_ms")


def _about_version(command: Mark | Hold | Purge) -> None:
    request_ids.check(command.request_id)
    names.check_workflow(command.workflow)
    names.check_principal(command.principal)
    _number(command.version, "version", least=1)
    _reason(command.reason)


def _publish(command: Publish) -> None:
    names.check_workflow(command.workflow)
    names.check_principal(command.principal)
    names.check_name(command.kind, "kind")
    names.check_digest(command.digest)
    names.check_text(command.message, "message", limits.MESSAGE_CHARS)
    _labels(command.labels)
    _count(len(command.facts), "facts", limits.FACTS)
    for key, value in command.facts.items():
        names.check_name(key, "fact")
        names.check_text(value, f"fact {key}", limits.FACT_CHARS)
    _content(command.digest, command.content)
    if command.snapshot not in SNAPSHOTS:
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"not why a version was made: {command.snapshot[:80]!a}",
            hint=f"one of {', '.join(SNAPSHOTS)}",
        )
    _count(len(command.parents), "parents", limits.PARENTS)
    for parent in command.parents:
        _number(parent, "parent", least=1)
    _count(len(command.needs), "needs", limits.NEEDS)
    for need in command.needs:
        needs.parse(need)
    _found_in_content(command)


def _content(digest: str, content: Content) -> None:
    """What it says of its own packing. Whether that is true shows where it is read."""
    is_large = content.encoding == "chunks"
    most = limits.LARGE_CONTENT_BYTES_CEILING if is_large else limits.CONTENT_BYTES_CEILING
    _count(content.size_bytes, "bytes of content", most)
    if is_large:
        _some(len(content.chunks), "chunks", limits.CHUNKS)
        for chunk in content.chunks:
            names.check_digest(chunk)
        least = (len(content.chunks) - 1) * limits.CHUNK_BYTES
        fits = not content.data and least < content.size_bytes <= least + limits.CHUNK_BYTES
    else:
        fits = not content.chunks
    if content.encoding == "delta":
        names.check_digest(content.base)
        fits = fits and content.base != digest and 1 <= content.depth <= limits.DELTA_DEPTH
    else:
        fits = fits and not content.base and not content.depth
    if not fits:
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"the content is not packed as its encoding {content.encoding} says",
            hint=f"a delta has another content as its base and a depth of 1 to {limits.DELTA_DEPTH}, large content has "
            f"chunks of {limits.CHUNK_BYTES} bytes",
        )


def _chunk(content: Content) -> None:
    if content.encoding not in ("raw", "zstd") or content.base or content.depth or content.chunks:
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"a chunk is not stored as {content.encoding}",
            hint="a chunk stands alone: raw or zstd",
        )
    _some(content.size_bytes, "bytes of a chunk", limits.CHUNK_BYTES)


def _repack(command: Repack) -> None:
    names.check_digest(command.digest)
    _content(command.digest, command.content)
    if command.content.encoding == "chunks" or len(command.was) != FINGERPRINT_BYTES:
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"not to be packed as {command.content.encoding}, from a row of {len(command.was)} bytes of fingerprint",
            hint=f"raw, zstd or delta, and {FINGERPRINT_BYTES} bytes of the row that it takes the place of",
        )


def _retain(command: Retain) -> None:
    names.check_workflow(command.workflow)
    names.check_principal(command.principal)
    names.check_text(command.keep_days, "keep_days", limits.KEEP_CHARS)
    _reason(command.reason)
    _some(len(command.versions), "versions to let go of", limits.RETAINED)
    for version in command.versions:
        _number(version, "version", least=1)


def _found_in_content(command: Publish) -> None:
    """What the member that proposes has read out of the content."""
    for requires in (command.requires, command.asked_requires):
        _count(len(requires), "required workflows", limits.REQUIRES)
    for token in (*command.requires, *command.asked_requires):
        names.check_text(token, "required workflow", limits.REQUIRES_CHARS)
        if not token:
            raise Invalid(
                Reason.INVALID_REQUEST, "a required workflow has no name", hint="write namespace/name, or n8n:ID"
            )
    _count(len(command.secrets), "secret values", limits.SECRETS)
    for name, fingerprint in command.secrets.items():
        names.check_text(name, "name of a secret", limits.SECRET_NAME_CHARS)
        names.check_line(fingerprint, "fingerprint of a secret", limits.LABEL_VALUE_CHARS)
    names.check_text(command.summary, "summary", limits.SUMMARY_CHARS)
    if command.change not in CHANGES:
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"not how much a version changes: {command.change[:80]!a}",
            hint=f"one of {', '.join(CHANGES[1:])}",
        )
    for what, texts in (("finding", command.findings), ("literal", command.literals)):
        _count(len(texts), f"{what}s", limits.FINDINGS)
        for text in texts:
            names.check_text(text, what, limits.FINDING_CHARS)


def _label(command: Label) -> None:
    names.check_workflow(command.workflow)
    names.check_principal(command.principal)
    _number(command.version, "version", least=1)
    names.check_text(command.reason, "reason", limits.REASON_CHARS)
    _labels(command.labels)
    _count(len(command.remove), "labels to remove", limits.LABELS)
    for key in command.remove:
        names.check_name(key, "label key")
    both = sorted(command.labels.keys() & set(command.remove))
    if both or not (command.labels or command.remove):
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"label {both[0]} is both set and removed" if both else "no label is named",
            hint="set it or remove it; nothing was changed" if both else "name at least one to set or to remove",
        )


def _labels(labels: Mapping[str, str]) -> None:
    names.check_labels(labels)
    if SEMVER_LABEL in labels:
        names.semver_key(labels[SEMVER_LABEL])


def _switch(command: Switch) -> None:
    names.check_principal(command.principal)
    _reason(command.reason)
    _times(command)
    if not command.moves:
        raise Invalid(Reason.INVALID_REQUEST, "no pointer to move", hint="name at least one workflow")
    _count(len(command.moves), "pointers in one switch", limits.MOVES)
    seen: set[tuple[str, str]] = set()
    for move in command.moves:
        _move(move, command.rollback)
        if (move.workflow, move.pointer) in seen:
            raise Invalid(
                Reason.INVALID_REQUEST,
                f"pointer {move.pointer} of {move.workflow} is moved twice in one switch",
                hint="name each pointer once; nothing was moved",
            )
        seen.add((move.workflow, move.pointer))


def _times(command: Switch) -> None:
    for name, value in (("not_before_ms", command.not_before_ms), ("deadline_ms", command.deadline_ms)):
        _number(value, name, most=limits.TIME_MAX_MS)
    if command.rollback and (command.not_before_ms or command.deadline_ms):
        raise Invalid(
            Reason.INVALID_REQUEST, "a rollback with times", hint="it holds at once and for ever; nothing was moved"
        )
    if 0 < command.deadline_ms <= command.not_before_ms:
        raise Invalid(
            Reason.INVALID_REQUEST,
            "the deadline is not after the time before which nothing is installed",
            hint="give a later deadline, or none; nothing was moved",
        )


def _move(move: Move, rollback: bool) -> None:
    names.check_workflow(move.workflow)
    names.check_pointer(move.pointer)
    _number(move.target, "target version", least=0 if rollback else 1)
    if move.expected_generation is not None:
        _number(move.expected_generation, "expected generation")
    _number(move.verdict_from, "version that the verdict is from")
    if move.verdict and move.verdict not in policies.VERDICTS:
        raise Invalid(
            Reason.INVALID_REQUEST,
            f"not a verdict: {move.verdict[:80]!a}",
            hint=f"one of {', '.join(policies.VERDICTS)}",
        )


def _ack(ack: Ack) -> None:
    names.check_agent(ack.agent)
    names.check_name(ack.incarnation, "incarnation")
    names.check_workflow(ack.workflow)
    names.check_pointer(ack.pointer)
    names.check_site(ack.site)
    names.check_labels(ack.labels)
    if ack.code:
        names.check_name(ack.code, "code")
    names.check_text(ack.detail, "detail", limits.DETAIL_CHARS)
    if ack.running_digest:
        names.check_digest(ack.running_digest)
    if ack.phase not in _PHASES:
        raise Invalid(Reason.INVALID_REQUEST, f"not a phase: {ack.phase[:80]!a}", hint=f"one of {', '.join(_PHASES)}")
    for value in (ack.sequence, ack.generation, ack.running_generation, ack.running_version, ack.time_ms):
        _number(value, "number in an ack")


def _forgotten(agent: ForgottenAgent) -> None:
    names.check_agent(agent.agent)
    for workflow, pointer in agent.rows:
        names.check_workflow(workflow)
        names.check_pointer(pointer)
    if agent.heard_ms is not None:
        _number(agent.heard_ms, "heard_ms")


def _reason(reason: str) -> None:
    if not reason.strip():
        raise Invalid(
            Reason.REASON_REQUIRED, "a reason is required", hint="say why, in a few words; it is kept in the history"
        )
    names.check_text(reason, "reason", limits.REASON_CHARS)


def _number(value: int, what: str, *, least: int = 0, most: int = NUMBER_MAX) -> None:
    if not least <= value <= most:
        hint = f"it is a number from {least} on" if most == NUMBER_MAX else f"it is a number from {least} to {most}"
        raise Invalid(Reason.INVALID_REQUEST, f"{what} is {value}", hint=hint)


def _some(count: int, what: str, most: int) -> None:
    if count < 1:
        raise Invalid(Reason.INVALID_REQUEST, f"{count} {what}", hint="name at least one")
    _count(count, what, most)


def _count(count: int, what: str, most: int) -> None:
    if count > most:
        raise Invalid(
            Reason.TOO_LARGE, f"{count} {what}", hint=f"at most {most} are taken", metadata={"limit": str(most)}
        )
