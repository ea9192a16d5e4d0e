"""Contents that go: let go of by retention, or purged. Their versions stay, and say who removed the content and why."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from registry.core import contents, limits, policies, retention
from registry.core.commands import Purge, Retain
from registry.core.decisions import accept, content_removed, find_version, no_workflow, not_indexed, reject
from registry.core.errors import Reason
from registry.core.model import Backup, Change, Content, Removed, RemovedVersion, Version
from registry.core.outcomes import Purged, Rejected, Retained
from registry.core.state import State

Holder = tuple[str, int]  # workflow, number
AGAIN = "removed next time: this was enough for one"


def retain(state: State, command: Retain) -> Retained | Rejected:
    """What any rule keeps stays, and what deltas that stay rest on."""
    if state.workflow(command.workflow) is None:
        return no_workflow(state, command.workflow)
    if not state.registry().is_indexed:
        return not_indexed(state, "nothing was removed")
    ruled = retention.kept_by(state, command.workflow, command.versions)
    kept = {number: ", ".join(rules) for number, rules in ruled.items() if rules}
    if policies.effective(state, command.workflow).keep_days != command.keep_days:
        kept = dict.fromkeys(ruled, "young") | kept
    leaving = _Leaving(state, [_existing(state, command.workflow, number) for number in ruled if number not in kept])
    kept |= leaving.keep_bases() | leaving.keep_what_is_too_much()
    removed = Removed(
        cause="retention",
        revision=state.registry().revision + 1,
        time_ms=command.time_ms,
        principal=command.principal,
        reason=command.reason,
    )
    versions = leaving.versions()
    for version in versions:
        _remove(state, version, removed)
    for digest in leaving.contents:
        contents.drop(state, digest)
    if versions:
        accept(state, _change(command, removed, versions))
    return Retained(revision=state.registry().revision, removed=_told(versions), kept=dict(sorted(kept.items())))


class _Leaving:
    """Versions that lose their content, and the contents that nobody has then."""

    def __init__(self, state: State, versions: Iterable[Version]) -> None:
        self._state = state
        self._versions: dict[str, list[Version]] = {}
        for version in versions:
            self._versions.setdefault(version.digest, []).append(version)
        found = [(digest, _packing(state, digest)) for digest in self._versions if self._is_last(digest)]
        self.contents = dict(sorted(found, key=lambda each: (-each[1].depth, each[0])))  # a delta before its base

    def versions(self) -> list[Version]:
        """In order of number."""
        return sorted((each for some in self._versions.values() for each in some), key=lambda each: each.number)

    def keep_bases(self) -> dict[int, str]:
        """Take back what deltas that stay rest on; what for, by the number of the version."""
        kept: dict[int, str] = {}
        for digest in list(self.contents):
            staying = next((each for each in self._state.deltas(digest) if each not in self.contents), None)
            if staying is not None:
                workflow, number = next(self._state.holders(staying))
                kept |= self._keep(digest, f"base of {workflow}@{number}")
        return kept

    def keep_what_is_too_much(self) -> dict[int, str]:
        """Chunks are deleted one by one: take back what is past the limit. Large content is nobody's base."""
        kept: dict[int, str] = {}
        chunks = 0
        for digest, content in list(self.contents.items()):
            chunks += len(content.chunks)
            if content.chunks and chunks > limits.RETENTION_CHUNKS:
                kept |= self._keep(digest, AGAIN)
        return kept

    def _keep(self, digest: str, why: str) -> dict[int, str]:
        del self.contents[digest]
        return {version.number: why for version in self._versions.pop(digest)}

    def _is_last(self, digest: str) -> bool:
        leaving = {(version.workflow, version.number) for version in self._versions[digest]}
        return all(holder in leaving for holder in self._state.holders(digest))


def purge(state: State, command: Purge) -> Purged | Rejected:
    """The bytes go from every version of every workflow, and are refused from now on."""
    version = find_version(state, command.workflow, command.version)
    if isinstance(version, Rejected):
        return version
    if not state.registry().is_indexed:
        return not_indexed(state, "nothing was removed")
    holders = list(dict.fromkeys([*state.holders(version.digest), (version.workflow, version.number)]))
    refused = _refuse_purge(state, command, version, holders)
    if refused is not None:
        return refused
    versions = [_existing(state, *holder) for holder in holders]
    removed = Removed(
        cause="purge",
        revision=state.registry().revision + 1,
        time_ms=command.time_ms,
        principal=command.principal,
        reason=command.reason,
    )
    for each in versions:
        _remove(state, each, removed)
    if state.has_content(version.digest):
        contents.drop(state, version.digest)
    state.put_purged(version.digest, removed)
    accept(state, _change(command, removed, versions))
    return Purged(
        revision=removed.revision,
        digest=version.digest,
        removed=_told(versions),
        backups=_backups(state, version.digest),
    )


def _refuse_purge(state: State, command: Purge, version: Version, holders: list[Holder]) -> Rejected | None:
    about = {"workflow": version.workflow, "version": str(version.number), "digest": version.digest}
    if version.digest != command.digest:
        return reject(
            state,
            Reason.AMBIGUOUS_REFERENCE,
            f"version {version.number} of {version.workflow} has the digest {version.digest}, not {command.digest}; "
            "nothing was removed",
            hint=f"look at it with: regctl show {version.workflow}@{version.number}",
            metadata=about,
        )
    purged = state.purged(version.digest)
    if purged is not None:
        return content_removed(state, version, purged, "nothing was changed")
    in_use = _in_use(state, version, holders)
    if in_use is not None:
        return in_use
    deltas = list(state.deltas(version.digest))
    if deltas:
        return reject(
            state,
            Reason.BASE_OUTDATED,
            f"{len(deltas)} contents are packed with the help of {version.digest}; nothing was removed",
            hint="repeat it: they are packed again first",
            metadata=about | {"deltas": ",".join(deltas[: limits.MISSING_SHOWN])},
        )
    if len(holders) > limits.PURGED:
        return reject(
            state,
            Reason.TOO_LARGE,
            f"{len(holders)} versions have these bytes; nothing was removed",
            hint=f"at most {limits.PURGED} are purged at once: let go of some first, with regctl retention run",
            metadata=about | {"limit": str(limits.PURGED)},
        )
    return None


def _in_use(state: State, version: Version, holders: list[Holder]) -> Rejected | None:
    """A pointer must not name bytes that are gone."""
    named = [
        pointer
        for workflow in dict.fromkeys(workflow for workflow, _ in holders)
        for pointer in state.pointers(workflow)
        if pointer.digest == version.digest
    ]
    if not named:
        return None
    shown = [f"{each.pointer} of {each.workflow} (version {each.version})" for each in named[: limits.POINTERS_SHOWN]]
    more = f" and {len(named) - len(shown)} more" if len(named) > len(shown) else ""
    return reject(
        state,
        Reason.VERSION_IN_USE,
        f"the bytes of version {version.number} of {version.workflow} are in use by {', '.join(shown)}{more}; "
        "nothing was removed",
        hint=f"move the pointer first: regctl rollback {named[0].workflow} --pointer {named[0].pointer} --reason WHY",
        metadata={
            "workflow": version.workflow,
            "version": str(version.number),
            "digest": version.digest,
            "pointers": ",".join(f"{each.workflow}:{each.pointer}" for each in named[: limits.POINTERS_SHOWN]),
            "count": str(len(named)),
        },
    )


def _remove(state: State, version: Version, removed: Removed) -> None:
    state.put_version(structs.replace(version, removed=removed))
    state.delete_holder(version.digest, version.workflow, version.number)
    lowest = state.let_go(version.digest)
    if lowest is None or version.revision < lowest:
        state.put_let_go(version.digest, version.revision)


def _backups(state: State, digest: str) -> tuple[Backup, ...]:
    """Those that may hold the bytes: taken since some version had them."""
    since = state.let_go(digest)
    return tuple(backup for backup in state.backups() if since is not None and backup.revision >= since)


def _change(command: Retain | Purge, removed: Removed, versions: list[Version]) -> Change:
    return Change(
        revision=removed.revision,
        time_ms=command.time_ms,
        principal=command.principal,
        action=removed.cause,
        reason=command.reason,
        request_id=command.request_id,
        workflows=tuple(dict.fromkeys(version.workflow for version in versions)),
        removed=_told(versions),
    )


def _told(versions: list[Version]) -> tuple[RemovedVersion, ...]:
    return tuple(
        RemovedVersion(workflow=version.workflow, version=version.number, digest=version.digest) for version in versions
    )


def _existing(state: State, workflow: str, number: int) -> Version:
    version = state.version(workflow, number)
    if version is None:
        raise KeyError(f"version {number} of {workflow} is missing")
    return version


def _packing(state: State, digest: str) -> Content:
    """The content, but for its bytes."""
    content = state.content(digest)
    if content is None:
        raise KeyError(f"content {digest} is missing")
    return structs.replace(content, data=b"")
