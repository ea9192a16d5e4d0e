"""Bytes that were published by mistake: they go everywhere, and do not come back."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from registry.core import limits, outcomes
from registry.core.commands import NoteBackup, Purge, Repack
from registry.core.encoding import fingerprint
from registry.core.errors import Reason
from registry.core.model import Backup, Content, Removed, RemovedVersion
from registry.core.outcomes import Published, Purged
from registry.store import content
from registry.store.tables import CHANGES, CHUNKS, CONTENTS, DELTAS, HOLDERS, REQUESTS
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected
from tests.unit.core.test_contents import chunked, delta, put_chunks

SECRET = b'{"key": "sk-live-123"}'
DIGEST = content.digest(SECRET)


@pytest.fixture
def machine(machine: Machine) -> Machine:
    """The bytes are version 2 of a workflow, in between and again version 4, and version 1 of another."""
    machine.published(b"1", SECRET, b"3", SECRET, b"5")
    machine.published(SECRET, b"2", workflow="other/one")
    machine.indexed()
    machine.switched(5)
    return machine


def purged(outcome: outcomes.Outcome) -> Purged:
    assert isinstance(outcome, Purged), outcome
    return outcome


def note_backup(machine: Machine, revision: int, **fields: Any) -> Backup:
    backup = Backup(revision=revision, index=revision, taken_ms=revision, member="m1", **fields)
    assert isinstance(machine.order(NoteBackup, backup=backup), outcomes.BackupNoted)
    return backup


def test_bytes_go_from_every_version_and_the_rows_say_why(machine: Machine) -> None:
    outcome = purged(machine.purge(2))
    removed = Removed(
        cause="purge", revision=outcome.revision, time_ms=machine.rows.change(outcome.revision).time_ms,  # type: ignore[union-attr]
        principal="ada", reason="because",
    )  # fmt: skip
    for workflow, number in (("other/one", 1), (WORKFLOW, 2), (WORKFLOW, 4)):
        version = machine.version(number, workflow)
        assert (version.removed, version.digest) == (removed, DIGEST)
        assert RemovedVersion(workflow=workflow, version=number, digest=DIGEST) in outcome.removed
    assert (outcome.digest, len(outcome.removed)) == (DIGEST, 3)
    change = machine.rows.change(outcome.revision)
    assert change is not None
    assert (change.action, change.removed, set(change.workflows)) == (
        "purge", outcome.removed, {WORKFLOW, "other/one"},
    )  # fmt: skip
    assert machine.rows.purged(DIGEST) == removed
    assert not machine.rows.has_content(DIGEST)
    assert list(machine.rows.holders(DIGEST)) == []
    assert not [row for rows in machine.dump().values() for _, row in rows if SECRET in row or b"sk-live" in row]


def test_they_are_refused_from_then_on(machine: Machine) -> None:
    command = machine.publish_command(SECRET, "third/one")
    machine.published(SECRET, workflow="fourth/one")
    purged(machine.purge(2))
    for workflow in (WORKFLOW, "fourth/one", "third/one"):
        refused = assert_rejected(machine.publish(SECRET, workflow), Reason.CONTENT_PURGED)
        assert "ada on 2027-01-15 08:00:00 UTC: because" in refused.message
        assert SECRET.decode() not in str(refused)
    assert_rejected(machine.apply(command), Reason.CONTENT_PURGED)
    assert isinstance(machine.publish(SECRET + b" "), Published)


def test_a_retry_gets_the_same_answer(machine: Machine) -> None:
    command = machine.command(Purge, version=2, digest=DIGEST, reference="v2")
    outcome = purged(machine.apply(command))
    before = machine.dump()
    assert machine.apply(structs.replace(command, time_ms=1)) == outcome
    assert machine.dump() == before
    assert assert_rejected(machine.purge(4), Reason.CONTENT_REMOVED).metadata["cause"] == "purge"
    assert len(machine.dump()[CHANGES]) == len(before[CHANGES])


def test_not_while_a_pointer_names_them(machine: Machine) -> None:
    machine.switched(1, workflow="other/one")
    for number in range(limits.POINTERS_SHOWN):
        machine.switched(4, pointer=f"p{number}")
    before = machine.dump()[CONTENTS]
    refused = assert_rejected(machine.purge(2), Reason.VERSION_IN_USE)
    assert refused.metadata["count"] == "6"
    assert "active of other/one (version 1)" in refused.message
    assert f"p3 of {WORKFLOW} (version 4) and 1 more" in refused.message
    assert machine.dump()[CONTENTS] == before
    machine.switched(2, workflow="other/one")
    for number in range(limits.POINTERS_SHOWN):
        machine.switched(5, pointer=f"p{number}")
    purged(machine.purge(2))


def test_deltas_are_packed_again_first(machine: Machine) -> None:
    machine.publish(b"6", content=delta(DIGEST))
    command = machine.command(Purge, version=2, digest=DIGEST)
    remembered = machine.dump()[REQUESTS]
    refused = assert_rejected(machine.apply(command), Reason.BASE_OUTDATED)
    assert refused.metadata["deltas"] == content.digest(b"6")
    assert machine.dump()[REQUESTS] == remembered
    was = machine.rows.content(content.digest(b"6"))
    assert was is not None
    alone = Content(encoding="raw", data=b"6", size_bytes=1)
    machine.order(Repack, digest=content.digest(b"6"), was=fingerprint(was), content=alone)
    purged(machine.apply(command))


def test_what_they_rest_on_is_free(machine: Machine) -> None:
    machine.publish(b"6", content=delta(content.digest(b"1")))
    machine.published(b"7")
    purged(machine.purge(6))
    assert machine.dump()[DELTAS] == []


def test_chunks_that_nobody_else_uses_go(machine: Machine) -> None:
    put_chunks(machine, b"a", b"b")
    machine.publish(b"large", content=chunked(b"a", b"b"))
    machine.publish(b"larger", content=chunked(b"b"))
    machine.published(b"8")
    purged(machine.purge(6))
    assert dict(machine.rows.chunks()) == {content.digest(b"b"): 1}
    assert len(machine.dump()[CHUNKS]) == 1


def test_backups_that_may_hold_them_are_named(machine: Machine) -> None:
    first = machine.version(2).revision
    note_backup(machine, first - 1)
    held = [note_backup(machine, first), note_backup(machine, first + 2)]
    assert purged(machine.purge(4)).backups == tuple(held)


def test_also_bytes_that_retention_let_go_of(machine: Machine) -> None:
    """Nobody holds them, and a backup of before still does."""
    first = machine.version(2).revision
    backup = note_backup(machine, first)
    machine.set_policy("*", keep_last="0")
    machine.retain(2, 4)
    machine.retain(1, workflow="other/one")
    assert machine.dump()[HOLDERS]
    assert not machine.rows.has_content(DIGEST)
    outcome = purged(machine.purge(4))
    assert outcome.backups == (backup,)
    assert [removed.version for removed in outcome.removed] == [4]
    removed = machine.version(4).removed
    assert removed is not None
    assert removed.cause == "purge"
    assert_rejected(machine.publish(SECRET), Reason.CONTENT_PURGED)


def test_not_before_all_holders_are_known() -> None:
    machine = Machine()
    machine.found()
    machine.published(SECRET, b"2")
    command = machine.command(Purge, version=1, digest=DIGEST)
    assert_rejected(machine.apply(command), Reason.NOT_INDEXED)
    machine.indexed()
    purged(machine.apply(command))


def test_too_many_versions(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PURGED", 2)
    assert_rejected(machine.purge(2), Reason.TOO_LARGE)
    monkeypatch.setattr(limits, "PURGED", 3)
    purged(machine.purge(4))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"digest": content.digest(b"1")}, Reason.AMBIGUOUS_REFERENCE),
        ({"digest": "x"}, Reason.INVALID_REFERENCE),
        ({"version": 90}, Reason.VERSION_NOT_FOUND),
        ({"workflow": "no/such"}, Reason.WORKFLOW_NOT_FOUND),
        ({"reason": ""}, Reason.REASON_REQUIRED),
    ],
)
def test_a_purge_of_nothing(machine: Machine, fields: dict[str, Any], reason: Reason) -> None:
    before = machine.dump()[CONTENTS]
    assert_rejected(machine.order(Purge, **({"version": 2, "digest": DIGEST} | fields)), reason)
    assert machine.dump()[CONTENTS] == before


def test_a_time_that_no_calendar_knows_does_no_harm(machine: Machine) -> None:
    purged(machine.purge(2, time_ms=2**62))
    assert "9999-12-31" in assert_rejected(machine.publish(SECRET), Reason.CONTENT_PURGED).message


def test_what_takes_the_place_of_purged_bytes_may_mean_the_same(machine: Machine) -> None:
    """A secret in a comment: the same without it is published, whatever the policy says of layout alone."""
    secret, clean = b"a: 1 # sk-live-123", b"a: 1"
    machine.set_policy("*", unchanged="refuse")
    assert isinstance(machine.publish(secret, semantic_digest="s1:same"), Published)
    assert_rejected(machine.publish(clean, semantic_digest="s1:same"), Reason.SAME_SEMANTICS)
    purged(machine.purge(6))
    again = machine.publish(clean, semantic_digest="s1:same")
    assert isinstance(again, Published)
    assert (again.created, again.version.number, again.notes) == (True, 7, ())
