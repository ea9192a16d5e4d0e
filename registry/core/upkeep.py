"""What the members note for themselves: who holds which content, and which backups were given out."""

from __future__ import annotations

from msgspec import structs

from registry.core import limits
from registry.core.commands import Index, NoteBackup
from registry.core.outcomes import BackupNoted, Indexed
from registry.core.state import State

_NEWEST = 1 << 62


def index(state: State, command: Index) -> Indexed:
    """Versions published since feature level 2 are noted already: noting them again changes nothing."""
    registry = state.registry()
    if registry.is_indexed:
        return Indexed(revision=registry.revision, done=True)
    looked, indexed, done = 0, registry.indexed, True
    holders: list[tuple[str, str, int]] = []
    for workflow in state.workflows(after=indexed):
        if looked >= limits.INDEXED:
            done = False
            break
        for version in state.versions(workflow.name, _NEWEST):
            looked += 1
            if version.removed is None:
                holders.append((version.digest, version.workflow, version.number))
        indexed = workflow.name
    for holder in holders:
        state.put_holder(*holder)
    state.put_registry(structs.replace(registry, indexed=indexed, is_indexed=done))
    return Indexed(revision=registry.revision, done=done)


def note_backup(state: State, command: NoteBackup) -> BackupNoted:
    state.put_backup(command.backup)
    backups = list(state.backups())
    for backup in backups[: max(len(backups) - limits.BACKUPS_NOTED, 0)]:
        state.delete_backup(backup)
    return BackupNoted(revision=state.registry().revision)
