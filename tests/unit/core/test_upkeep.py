"""What members note for themselves: holders of before feature level 2, and backups."""

from __future__ import annotations

import pytest
from msgspec import structs

from registry.core import limits
from registry.core.commands import Index, NoteBackup
from registry.core.errors import Reason
from registry.core.model import Backup, Removed
from registry.core.outcomes import BackupNoted, Indexed
from registry.store import content
from registry.store.state import StoreState
from registry.store.tables import HOLDERS
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected


def test_holders_of_before_are_noted_workflow_by_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INDEXED", 3)
    machine = Machine(level=1)
    machine.found()
    for workflow in ("a/a", "a/b", "a/c"):
        machine.published(b"1", b"2", b"1", b"3", workflow=workflow)
    assert machine.dump()[HOLDERS] == []
    assert_rejected(machine.order(Index), Reason.LEVEL_TOO_LOW)
    machine.level = 2
    machine.published(b"1", workflow="a/c")
    revision = machine.registry.revision
    for count, indexed in enumerate(["a/a", "a/b", "a/c"], start=1):
        assert machine.order(Index) == Indexed(revision=revision, done=indexed == "a/c")
        assert machine.registry.indexed == indexed
        assert len(machine.dump()[HOLDERS]) == 4 * count + 1
    assert machine.registry.is_indexed
    assert list(machine.rows.holders(content.digest(b"2"))) == [("a/a", 2), ("a/b", 2), ("a/c", 2)]
    before = machine.dump()
    assert machine.order(Index) == Indexed(revision=revision, done=True)
    assert machine.dump() == before


def test_a_version_without_content_holds_none(machine: Machine) -> None:
    machine.published(b"1")
    state = StoreState(machine.environment.transaction(), level=machine.level)
    state.put_version(structs.replace(machine.version(1), removed=Removed(cause="purge", revision=1, time_ms=1)))
    state.delete_holder(content.digest(b"1"), WORKFLOW, 1)
    machine.indexed()
    assert machine.dump()[HOLDERS] == []


def test_an_empty_registry_is_indexed_at_once(machine: Machine) -> None:
    machine.indexed()
    machine.published(b"1")
    assert list(machine.rows.holders(content.digest(b"1"))) == [(WORKFLOW, 1)]


def test_the_oldest_backups_are_forgotten(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKUPS_NOTED", 2)
    noted = [Backup(revision=number, index=number, taken_ms=5, member="m1", principal="ada") for number in (3, 1, 2)]
    for backup in (*noted, noted[0]):
        assert machine.order(NoteBackup, backup=backup) == BackupNoted(revision=1)
    assert list(machine.rows.backups()) == [noted[2], noted[0]]


@pytest.mark.parametrize("fields", [{"revision": -1}, {"index": -1}, {"taken_ms": 2**63}, {"member": "a\nb"}])
def test_a_malformed_backup_is_refused(machine: Machine, fields: dict[str, int | str]) -> None:
    about: dict[str, int | str] = {"revision": 1, "index": 1, "taken_ms": 1, "member": "m1"}
    assert_rejected(machine.order(NoteBackup, backup=Backup(**(about | fields))), Reason.INVALID_REQUEST)  # type: ignore[arg-type]
