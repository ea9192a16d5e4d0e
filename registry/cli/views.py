"""What regctl prints: the JSON of every value, and the words of its tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from registry.cli import quorum
from registry.client import AgentRow, ClusterStatus, Impact, PolicyInForce, Published, WorkflowSummary
from registry.core.model import Change, Pointer, Policy, Removed, RemovedVersion, Version
from registry.core.outcomes import Switched
from registry.formats.model import LEVELS

DIGEST_CHARS = len("sha256:") + 8
DATE_CHARS = len("2026-01-31")
DEPENDENTS_SHOWN = 3
FINDINGS_SHOWN = 10


def time(ms: int) -> str:
    """RFC 3339, UTC, milliseconds; empty for 0, which means not known."""
    if not ms:
        return ""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(ms: int) -> str:
    """For tables: UTC, to the second."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if ms else ""


def age(ms: int) -> str:
    seconds = ms / 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(size_bytes: int) -> str:
    if size_bytes < 10_000:
        return f"{size_bytes} B"
    return f"{size_bytes / 1024:.0f} KiB" if size_bytes < 1024 * 1024 else f"{size_bytes / 1024 / 1024:.1f} MiB"


def printable(text: str) -> str:
    """Without control characters: what others wrote must not drive this terminal."""
    return "".join(each if each.isprintable() or each == "\n" else "�" for each in text)


def short(digest: str) -> str:
    return digest[:DIGEST_CHARS]


def version(value: Version) -> dict[str, Any]:
    return {
        "workflow": value.workflow,
        "version": value.number,
        "digest": value.digest,
        "value_digest": value.value_digest,
        "semantic_digest": value.semantic_digest,
        "kind": value.kind,
        "size_bytes": value.size_bytes,
        "status": value.status,
        "parents": value.parents,
        "author": value.author,
        "time": time(value.created_ms),
        "message": value.message,
        "labels": value.labels,
        "facts": value.facts,
        "requires": value.requires,
        "secrets": value.secrets,
        "summary": value.summary,
        "change": value.change,
        "snapshot": value.snapshot,
        "hold": value.hold,
        "removed": None if value.removed is None else removed(value.removed),
        "needs": value.needs,
        "revision": value.revision,
    }


def removed(value: Removed) -> dict[str, Any]:
    return {
        "cause": value.cause,
        "time": time(value.time_ms),
        "principal": value.principal,
        "reason": value.reason,
        "revision": value.revision,
    }


def removed_words(value: Removed | None) -> str:
    """`removed 2026-11-23 by retention`, the date first since tables cut; empty: the content is kept."""
    return f"removed {clock(value.time_ms)[:DATE_CHARS]} by {value.cause}" if value is not None else ""


def removed_versions(values: Sequence[RemovedVersion]) -> str:
    """`support/triage 1-3, 7; support/answer 2`"""
    numbers: dict[str, list[int]] = {}
    for each in values:
        numbers.setdefault(each.workflow, []).append(each.version)
    return "; ".join(f"{workflow} {ranges(each)}" for workflow, each in sorted(numbers.items()))


def ranges(numbers: Iterable[int]) -> str:
    """`1-3, 7`"""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in found)


def published(value: Published) -> dict[str, Any]:
    kept = ("workflow", "version", "digest", "value_digest", "semantic_digest", "kind", "size_bytes", "status")
    fields = version(value)
    return {name: fields[name] for name in kept} | {
        "created": value.created,
        "revision": value.revision,
        "summary": value.summary,
        "change": value.change,
        "verdict": value.verdict,
        "findings": [msgspec.to_builtins(each) for each in value.findings],
        "notes": value.notes,
    }


def policy(value: Policy) -> dict[str, str]:
    return {field: getattr(value, field) for field in value.__struct_fields__}


def policy_in_force(scope: str, value: PolicyInForce) -> dict[str, Any]:
    said = [{"scope": each, "policy": policy(row)} for each, row in value.scopes.items()]
    return {"scope": scope, "effective": policy(value.effective), "scopes": said}


def policy_words(value: Policy) -> str:
    """`verdict=warn checks=refuse`: what it says; empty: nothing."""
    return " ".join(f"{field}={text}" for field, text in policy(value).items() if text)


def impact(workflow: str, value: Impact) -> dict[str, Any]:
    return {
        "workflow": workflow,
        "dependents": [msgspec.to_builtins(each) for each in value.dependents],
        "more": value.more,
    }


NO_IMPACT = "nobody"


def impact_words(value: Impact) -> str:
    """`2 direct, 1 indirect: support/answer, support/escalate and 1 more`"""
    if not value.dependents:
        return NO_IMPACT
    direct = sum(each.distance == 1 for each in value.dependents)
    shown = [each.workflow for each in value.dependents[:DEPENDENTS_SHOWN]]
    rest = len(value.dependents) - len(shown)
    more = f" and {'at least ' if value.more else ''}{rest} more" if rest else ""
    return f"{direct} direct, {len(value.dependents) - direct} indirect: {', '.join(shown)}{more}"


def finding(level: str, text: str, where: str = "") -> str:
    """One line: `confirm: the model of 'Classify' changed`"""
    place = f" ({where})" if where and where not in text else ""
    return f"{level}: {text}{place}".replace("\n", " ")


def publish_lines(value: Published) -> list[str]:
    """What a person should know of a publish, beside the version it made: worst findings first."""
    lines = [change_words(value.summary, value.change, value.verdict)] if value.created else []
    worst = sorted(value.findings, key=lambda each: severity(each.level), reverse=True)
    lines += [finding(each.level, each.text, each.where) for each in worst[:FINDINGS_SHOWN]]
    if (rest := len(worst) - FINDINGS_SHOWN) > 0:
        lines.append(f"and {rest} more findings; -o json shows them")
    lines += [f"note: {note}" for note in value.notes]
    return [f"  {printable(line)}" for line in lines if line]


def severity(level: str) -> int:
    """For sorting; a level of a newer release comes last."""
    return LEVELS.index(level) if level in LEVELS else -1


def change_words(summary: str, change: str, verdict: str) -> str:
    """`2 nodes changed; one removed (major change, verdict confirm)`; empty: nothing is known."""
    said = [f"{change} change" if change not in ("", "none") else "", f"verdict {verdict}" if verdict else ""]
    aside = ", ".join(filter(None, said))
    return f"{summary} ({aside})" if summary and aside else summary or aside


def pointer(value: Pointer) -> dict[str, Any]:
    return {
        "workflow": value.workflow,
        "pointer": value.pointer,
        "version": value.version,
        "digest": value.digest,
        "previous_version": value.previous_version,
        "generation": value.generation,
        "revision": value.revision,
        "reason": value.reason,
        "principal": value.principal,
        "time": time(value.time_ms),
        "rollback": value.rollback,
        "not_before": time(value.not_before_ms),
        "deadline": time(value.deadline_ms),
    }


def switched(done: Switched, **more: Any) -> Any:
    """One object, for several pointers a list of them."""
    notes = {"notes": done.notes} if done.notes else {}
    rows = [pointer(each) | more | notes for each in done.pointers]
    return rows[0] if len(rows) == 1 else rows


def workflow(value: WorkflowSummary) -> dict[str, Any]:
    return {
        "workflow": value.name,
        "kind": value.kind,
        "versions": value.versions,
        "created": time(value.created_ms),
        "pointers": [pointer(each) for each in value.pointers],
        "newest": None if value.newest is None else version(value.newest),
    }


def change(value: Change) -> dict[str, Any]:
    return {
        "revision": value.revision,
        "time": time(value.time_ms),
        "action": value.action,
        "principal": value.principal,
        "reason": value.reason,
        "request_id": value.request_id,
        "workflows": value.workflows,
        "version": None if value.version is None else version(value.version),
        "pointers": [pointer(each) for each in value.pointers],
        "previous_status": value.previous_status,
        "status_changes": [
            {
                "workflow": each.workflow,
                "version": each.version,
                "previous_status": each.previous_status,
                "status": each.status,
            }
            for each in value.status_changes
        ],
        **({"forced": True} if value.forced else {}),
        **({"removed": [msgspec.to_builtins(each) for each in value.removed]} if value.removed else {}),
        **({"epoch": value.epoch} if value.epoch else {}),
        **({"scope": value.scope, "policy": policy(value.policy)} if value.policy is not None else {}),
    }


def agent(value: AgentRow) -> dict[str, Any]:
    return {
        "agent": value.agent,
        "site": value.site,
        "labels": value.labels,
        "workflow": value.workflow,
        "pointer": value.pointer,
        "version": value.version,
        "digest": value.digest,
        "generation": value.generation,
        "target_generation": value.target_generation,
        "state": value.state,
        "code": value.code,
        "detail": value.detail,
        "reported": time(value.reported_ms),
        "age_s": value.age_ms / 1000,
        "twins": value.twins,
    }


def status(value: ClusterStatus) -> dict[str, Any]:
    return {
        "cluster_id": value.info.cluster_id,
        "epoch": value.info.epoch,
        "leader": value.leader,
        "term": value.term,
        "revision": value.info.revision,
        "commit_index": value.commit_index,
        "served_by": value.info.served_by,
        "role": value.role,
        "version": value.version,
        "feature_level": value.feature_level,
        "first_index": value.first_index,
        "last_index": value.last_index,
        "fetching": value.fetching,
        "no_space": value.no_space,
        "headroom_bytes": value.headroom_bytes,
        "members": [
            {
                "id": member.id,
                "name": member.name,
                "role": member.role,
                "address": member.address,
                "peer_address": member.peer_address,
                "datacenter": member.datacenter,
                "alive": member.alive,
                "applied_index": member.applied_index,
                "lag": member.lag,
                "incarnation": member.incarnation,
                "feature_level": member.feature_level,
                "no_space": member.no_space,
            }
            for member in value.members
        ],
        "waiting": [msgspec.to_builtins(process) for process in value.waiting],
        "warnings": quorum.warnings(value),
    }


def membership(id: str, role: str, value: ClusterStatus, notes: Sequence[str] = ()) -> dict[str, Any]:
    """What a step of membership led to: of which member, and who votes now."""
    voters = len(quorum.voters(value))
    even = quorum.even(voters)
    return {
        "id": id,
        "name": id.partition("/")[0],
        "role": role,
        "voters": voters,
        "may_fail": quorum.may_fail(voters),
        "notes": [*notes, *([even] if even else [])],
    }


def moved(value: Pointer) -> str:
    """`active 2 -> 3 (generation 5)`"""
    moves = f"{value.pointer} {value.previous_version or 'none'} -> {value.version} (generation {value.generation})"
    when = window(value.not_before_ms, value.deadline_ms)
    return f"{moves}, {when}" if when else moves


def window(not_before_ms: int, deadline_ms: int) -> str:
    """When agents may install it; empty: at once and for ever."""
    parts = [
        f"{word} {clock(ms)} UTC" for word, ms in (("not before", not_before_ms), ("no later than", deadline_ms)) if ms
    ]
    return " and ".join(parts)


def action(value: Change) -> str:
    return f"{value.action}, forced" if value.forced else value.action


def what(value: Change, only_workflow: str = "") -> str:
    """One change in words; of one workflow, its part of it."""
    mine = [each for each in value.pointers if only_workflow in ("", each.workflow)]
    several = len({each.workflow for each in value.pointers}) > 1 and not only_workflow
    words = [f"{each.workflow} {moved(each)}" if several else moved(each) for each in mine]
    words += [
        f"{f'{each.workflow} ' if several else ''}version {each.version} {each.previous_status} -> {each.status}"
        for each in value.status_changes
        if only_workflow in ("", each.workflow)
    ]
    if value.version is not None and value.action == "mark":
        words.append(f"version {value.version.number} {value.previous_status} -> {value.version.status}")
    elif value.version is not None and value.action == "label":
        labels = " ".join(f"{key}={text}" for key, text in sorted(value.version.labels.items()))
        words.append(f"version {value.version.number} has {labels or 'no labels'}")
    elif value.version is not None and value.action == "hold":
        words.append(f"version {value.version.number} is {'held' if value.version.hold else 'no longer held'}")
    elif value.version is not None:
        words.append(f"version {value.version.number}, {size(value.version.size_bytes)}")
    gone = [each for each in value.removed if only_workflow in ("", each.workflow)]
    if gone and only_workflow:
        words.append(f"content of {ranges(each.version for each in gone)} removed")
    elif gone:
        words.append(f"content of {removed_versions(gone)} removed")
    if value.policy is not None:
        words.append(f"{value.scope} says {policy_words(value.policy) or 'nothing'}")
    if value.epoch:
        words.append(f"epoch {value.epoch} begins")
    return "; ".join(words)


def line(value: Change) -> str:
    """One line of `watch`."""
    names = ",".join(value.workflows)
    said = value.reason or (value.version.message if value.version is not None else "")
    who = f"{value.principal}: {said}" if said else value.principal
    parts = (str(value.revision), f"{clock(value.time_ms)}Z", action(value), names, what(value), who)
    return printable("  ".join(part for part in parts if part)).replace("\n", " ")
