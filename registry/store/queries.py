"""What the API reads, over one view of the tables (cluster.kv Reader). Bounded; raises errors.RegistryError."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NoReturn, TypeVar

from cluster.kv.api import Reader
from registry.core import impact as impacts
from registry.core import limits, names, policies
from registry.core.decisions import removed_content
from registry.core.errors import Conflict, Invalid, NotFound, Reason
from registry.core.impact import Impact
from registry.core.model import (
    STATUSES,
    Agent,
    Change,
    Content,
    LastContact,
    Pointer,
    Policy,
    Registry,
    Version,
    Workflow,
)
from registry.core.references import DigestPrefix, Named, Newest, Number, Semver, Target
from registry.store import content
from registry.store.state import Rows

_Item = TypeVar("_Item")
_PREFIX = re.compile(r"[A-Za-z0-9._/-]{0,127}", re.ASCII)
AMBIGUOUS_SHOWN = 5


@dataclass(frozen=True)
class Page(Generic[_Item]):
    items: tuple[_Item, ...]
    next_page_token: str  # empty: that was all


@dataclass(frozen=True)
class WorkflowSummary:
    workflow: Workflow
    pointers: tuple[Pointer, ...]
    newest: Version


@dataclass(frozen=True)
class AgentReport:
    agent: Agent
    contact: LastContact  # by a member's clock: its newest report or poll
    target: Pointer  # what it should run
    newest: int | None = None  # generation of the pointer, where `target` is an earlier one


@dataclass(frozen=True)
class Changes:
    changes: tuple[Change, ...]
    next_revision: int  # read on from here; all up to it is in `changes` or was not asked for


@dataclass(frozen=True)
class PolicyInForce:
    effective: Policy  # every field filled in
    scopes: tuple[tuple[str, Policy], ...]  # that say something, from the widest to the narrowest


@dataclass(frozen=True)
class VersionFilter:
    """Which versions a search finds; the default: all. Raises INVALID_STATUS, TOO_LARGE."""

    labels: tuple[str, ...] = ()  # all of them: `key` or `key=value`
    author: str = ""
    since_ms: int = 0  # published at or after
    until_ms: int = 0  # published before; 0: no end
    text: str = ""  # in message, summary, labels, facts or name, whatever the case
    status: str = ""

    def __post_init__(self) -> None:
        names.check_text(self.text, "text", limits.SUMMARY_CHARS)
        if len(self.labels) > limits.LABELS:
            raise Invalid(Reason.TOO_LARGE, f"{len(self.labels)} labels", hint=f"at most {limits.LABELS} are compared")
        if self.status and self.status not in STATUSES:
            raise Invalid(
                Reason.INVALID_STATUS, f"not a status: {self.status[:80]!a}", hint=f"one of {', '.join(STATUSES)}"
            )

    def matches(self, version: Version) -> bool:
        return (
            (not self.status or version.status == self.status)
            and (not self.author or version.author == self.author)
            and version.created_ms >= self.since_ms
            and (not self.until_ms or version.created_ms < self.until_ms)
            and all(_has_label(version, label) for label in self.labels)
            and (not self.text or _holds(version, self.text.casefold()))
        )


def registry(reader: Reader) -> Registry:
    return Rows(reader).registry()


def pointer(reader: Reader, workflow: str, name: str) -> Pointer:
    """Raises WORKFLOW_NOT_FOUND, POINTER_NOT_FOUND, INVALID_NAME."""
    names.check_workflow(workflow)
    names.check_pointer(name)
    rows = Rows(reader)
    return rows.pointer(workflow, name) or _no_pointer(rows, workflow, name)


def resolve(reader: Reader, workflow: str, target: Target) -> Version:
    """The version a reference names. Among versions with the same bytes a digest names the newest.

    Raises WORKFLOW_NOT_FOUND, VERSION_NOT_FOUND, POINTER_NOT_FOUND, AMBIGUOUS_REFERENCE, INVALID_NAME.
    """
    names.check_workflow(workflow)
    rows = Rows(reader)
    number = _number(rows, workflow, target)
    version = rows.version(workflow, number) if number else None
    if version is not None:
        return version
    found = _workflow(rows, workflow)
    raise NotFound(
        Reason.VERSION_NOT_FOUND,
        f"{workflow} has no version {target}",
        hint=f"its newest is {found.versions}; see them with: regctl versions {workflow}",
        metadata={"workflow": workflow, "reference": str(target), "newest": str(found.versions)},
    )


def stored_content(reader: Reader, version: Version) -> Content:
    """As it is kept: unchecked. Raises CONTENT_REMOVED, also where another version still has the same bytes, and
    CORRUPT_CONTENT if it is missing without a reason."""
    rows = Rows(reader)
    stored = rows.content(version.digest)
    removed = version.removed or (rows.purged(version.digest) if stored is None else None)
    if removed is not None:
        raise removed_content(version, removed)
    if stored is None:
        raise content.corrupt(version.digest, "is missing")
    return stored


def workflows(reader: Reader, *, prefix: str = "", page_size: int = 0, page_token: str = "") -> Page[WorkflowSummary]:
    """In order of name. Raises INVALID_NAME, INVALID_REQUEST."""
    if not _PREFIX.fullmatch(prefix):
        raise Invalid(Reason.INVALID_NAME, f"not the start of a workflow name: {prefix[:200]!a}", hint=names.ALLOWED)
    rows = Rows(reader)
    after = _from_token(page_token).decode("ascii", "replace") if page_token else ""
    if not _PREFIX.fullmatch(after):
        _bad_token()
    found, more = _take(rows.workflows(prefix, after), page_size)
    summaries = tuple(_summary(rows, workflow) for workflow in found)
    return Page(summaries, _to_token(found[-1].name.encode("ascii")) if more else "")


def versions(
    reader: Reader,
    workflow: str = "",
    filter: VersionFilter = VersionFilter(),
    *,
    page_size: int = 0,
    page_token: str = "",
) -> Page[Version]:
    """Newest first, of one workflow, or of all in order of name. Looks at limits.SEARCHED versions at most: a page may
    be short, or empty, and still have a next one.

    Raises WORKFLOW_NOT_FOUND, INVALID_NAME, INVALID_REQUEST.
    """
    rows = Rows(reader)
    if workflow:
        names.check_workflow(workflow)
        _workflow(rows, workflow)
        all_versions = rows.versions(workflow, _below(page_token))
    else:
        all_versions = _from_all(rows, page_token)
    size = _size(page_size)
    found: list[Version] = []
    last: Version | None = None
    for looked, version in enumerate(all_versions):
        is_past = looked == limits.SEARCHED
        if is_past or filter.matches(version):
            if last and (is_past or len(found) == size):
                return Page(tuple(found), _version_token(last, with_name=not workflow))
            found.append(version)
        last = version
    return Page(tuple(found), "")


def policy(reader: Reader, scope: str) -> PolicyInForce:
    """What holds in `*`, `ns/*` or `ns/name`, which need not exist. Raises INVALID_NAME."""
    names.check_scope(scope)
    rows = Rows(reader)
    return PolicyInForce(policies.effective(rows, scope), tuple(policies.said(rows, scope)))


def impact(reader: Reader, workflow: str) -> Impact:
    """Who depends on a workflow. Raises WORKFLOW_NOT_FOUND, INVALID_NAME."""
    names.check_workflow(workflow)
    rows = Rows(reader)
    _workflow(rows, workflow)
    return impacts.dependents(rows, workflow)


def history(reader: Reader, name: str, *, pointer: str = "", page_size: int = 0, page_token: str = "") -> Page[Change]:
    """Accepted changes of a workflow, or those that moved one pointer of it, newest first.

    Raises WORKFLOW_NOT_FOUND, POINTER_NOT_FOUND, INVALID_NAME, INVALID_REQUEST.
    """
    names.check_workflow(name)
    rows = Rows(reader)
    _workflow(rows, name)
    below = _below(page_token)
    if not pointer:
        revisions, more = _take(rows.workflow_revisions(name, below), page_size)
        cursor = revisions[-1] if more else 0
    else:
        names.check_pointer(pointer)
        if rows.pointer(name, pointer) is None:
            _no_pointer(rows, name, pointer)
        switches, more = _take(rows.switches(name, pointer, below), page_size)
        revisions = [switch.revision for switch in switches]
        cursor = switches[-1].generation if more else 0
    changes = tuple(change for revision in revisions if (change := rows.change(revision)) is not None)
    return Page(changes, _number_token(cursor) if more else "")


def changes(
    reader: Reader, from_revision: int, *, workflows: Collection[str] = (), limit: int = limits.WATCH_BATCH
) -> Changes:
    """At most `limit` accepted changes from a revision on; of these workflows only, if any are named.

    Raises REVISION_IN_FUTURE for a revision that the next change will not have.
    """
    rows = Rows(reader)
    current = rows.registry().revision
    if from_revision > current + 1:
        raise Invalid(
            Reason.REVISION_IN_FUTURE,
            f"revision {from_revision} has not happened here; the newest is {current}",
            hint=f"the cursor is of another cluster, or its history was restored: start again from {current + 1}",
            metadata={"revision": str(current)},
        )
    read = list(islice(rows.changes(max(from_revision, 1)), limit))
    wanted = tuple(change for change in read if not workflows or not set(workflows).isdisjoint(change.workflows))
    return Changes(wanted, read[-1].revision + 1 if read else max(from_revision, 1))


def agents(reader: Reader, *, workflow: str = "", page_size: int = 0, page_token: str = "") -> Page[AgentReport]:
    """Who runs what, in order of workflow, pointer and agent.

    Raises WORKFLOW_NOT_FOUND, INVALID_NAME, INVALID_REQUEST.
    """
    rows = Rows(reader)
    if workflow:
        names.check_workflow(workflow)
        _workflow(rows, workflow)
    found, more = _take(rows.agents(workflow, _from_token(page_token)), page_size)
    reports = []
    for _, agent in found:
        target = rows.pointer(agent.workflow, agent.pointer) or _no_pointer(rows, agent.workflow, agent.pointer)
        reports.append(AgentReport(agent, rows.contact(agent.agent), target))
    return Page(tuple(reports), _to_token(found[-1][0]) if more else "")


def _number(rows: Rows, workflow: str, target: Target) -> int | None:
    match target:
        case Newest():
            return _workflow(rows, workflow).versions
        case Number(number):
            return number
        case Named(name, back):
            current = rows.pointer(workflow, name) or _no_pointer(rows, workflow, name)
            if not back:
                return current.version
            earlier = rows.switch(workflow, name, current.generation - back) if back < current.generation else None
            return earlier.version if earlier else None
        case DigestPrefix(prefix):
            return _by_digest(rows, workflow, prefix)
        case Semver(key):
            return rows.semver(workflow, key)


def _by_digest(rows: Rows, workflow: str, prefix: str) -> int | None:
    found = list(islice(rows.digests(workflow, prefix), AMBIGUOUS_SHOWN))
    if len(found) > 1:
        raise Conflict(
            Reason.AMBIGUOUS_REFERENCE,
            f"{prefix} is the start of several digests of {workflow}",
            hint="write more digits: " + ", ".join(f"{digest[:23]} (version {row.newest})" for digest, row in found),
            metadata={"workflow": workflow, "digests": ",".join(digest for digest, _ in found)},
        )
    return found[0][1].newest if found else None


def _workflow(rows: Rows, name: str) -> Workflow:
    found = rows.workflow(name)
    if found is None:
        raise NotFound(
            Reason.WORKFLOW_NOT_FOUND,
            f"there is no workflow {name}",
            hint=f"see all with: regctl workflows; make it with: regctl publish {name} FILE",
            metadata={"workflow": name},
        )
    return found


def _no_pointer(rows: Rows, workflow: str, name: str) -> NoReturn:
    _workflow(rows, workflow)
    known = ", ".join(pointer.pointer for pointer in rows.pointers(workflow)) or "none yet"
    raise NotFound(
        Reason.POINTER_NOT_FOUND,
        f"{workflow} has no pointer {name}",
        hint=f"its pointers: {known}; the first switch makes one",
        metadata={"workflow": workflow, "pointer": name},
    )


def _summary(rows: Rows, workflow: Workflow) -> WorkflowSummary:
    newest = rows.version(workflow.name, workflow.versions)
    if newest is None:
        raise KeyError(f"version {workflow.versions} of {workflow.name} is missing")
    return WorkflowSummary(workflow, tuple(rows.pointers(workflow.name)), newest)


def _from_all(rows: Rows, page_token: str) -> Iterator[Version]:
    """Versions of all workflows behind a token."""
    if page_token:
        name, _, rest = _from_token(page_token).partition(b"\0")
        if len(rest) != 8 or not _PREFIX.fullmatch(after := name.decode("ascii", "replace")):
            _bad_token()
        yield from rows.versions(after, int.from_bytes(rest, "big"))
    for row in rows.workflows("", after if page_token else ""):
        yield from rows.versions(row.name, 1 << 63)


def _version_token(version: Version, *, with_name: bool) -> str:
    name = version.workflow.encode("ascii") + b"\0" if with_name else b""
    return _to_token(name + version.number.to_bytes(8, "big"))


def _has_label(version: Version, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in version.labels and (not equals or version.labels[key] == value)


def _holds(version: Version, folded: str) -> bool:
    texts = (version.workflow, version.message, version.summary, *version.labels.values(), *version.facts.values())
    return any(folded in text.casefold() for text in (*texts, *version.labels))


def _size(page_size: int) -> int:
    return min(page_size, limits.PAGE_MAX) if page_size > 0 else limits.PAGE_DEFAULT


def _take(rows: Iterable[_Item], page_size: int) -> tuple[list[_Item], bool]:
    """One page, and whether more follows."""
    size = _size(page_size)
    page = list(islice(rows, size + 1))
    return page[:size], len(page) > size


def _to_token(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode("ascii")


def _from_token(token: str) -> bytes:
    try:
        key = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        _bad_token()
    if len(key) > 511 - 1:
        _bad_token()
    return key


def _number_token(number: int) -> str:
    return _to_token(number.to_bytes(8, "big"))


def _below(token: str) -> int:
    if not token:
        return 1 << 63
    key = _from_token(token)
    if len(key) != 8:
        _bad_token()
    return int.from_bytes(key, "big")


def _bad_token() -> NoReturn:
    raise Invalid(
        Reason.INVALID_REQUEST,
        "not a page token of this list",
        hint="start again without one, or repeat the last reply's",
    )
