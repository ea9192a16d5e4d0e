from __future__ import annotations

import pytest

from registry.core.errors import Reason
from registry.core.model import STATUSES, Digest, Status
from registry.core.outcomes import Marked
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "candidate"])
def test_a_mark_changes_the_status_and_is_kept_with_its_reason(machine: Machine, status: Status) -> None:
    machine.published(b"1")
    outcome = machine.mark(1, status)
    version = machine.version(1)
    assert outcome == Marked(revision=3, version=version, previous_status="candidate")
    assert version.status == status
    change = machine.rows.change(3)
    assert change is not None
    assert (change.action, change.reason, change.previous_status, change.version) == (
        "mark",
        "because",
        "candidate",
        version,
    )


def test_the_status_it_has_already_changes_nothing(machine: Machine) -> None:
    machine.published(b"1")
    machine.mark(1, "stable")
    assert machine.mark(1, "stable") == Marked(revision=3, version=machine.version(1), previous_status="stable")
    assert machine.registry.revision == 3


def test_what_does_not_exist(machine: Machine) -> None:
    assert_rejected(machine.mark(1, "stable"), Reason.WORKFLOW_NOT_FOUND)
    machine.published(b"1")
    assert_rejected(machine.mark(2, "stable"), Reason.VERSION_NOT_FOUND)


@pytest.mark.parametrize("status", ["fenced", "archived"])
def test_what_a_pointer_names_is_not_taken_away(machine: Machine, status: Status) -> None:
    machine.published(b"1", b"2")
    machine.switched(1, pointer="canary")
    outcome = assert_rejected(machine.mark(1, status), Reason.VERSION_IN_USE)
    assert outcome.metadata["pointer"] == "canary"
    assert f"regctl rollback {WORKFLOW} --pointer canary" in outcome.hint
    machine.switched(2, pointer="canary")
    assert isinstance(machine.mark(1, status), Marked)
    assert isinstance(machine.mark(2, "failed"), Marked)


def test_bytes_that_a_pointer_names_are_not_fenced_as_another_version(machine: Machine) -> None:
    machine.published(b"1", b"2", b"1")
    machine.switched(3)
    outcome = assert_rejected(machine.mark(1, "fenced"), Reason.VERSION_IN_USE)
    assert "the same bytes as version 1" in outcome.message
    assert isinstance(machine.mark(1, "archived"), Marked)


def test_bytes_stay_fenced_until_no_version_of_them_is(machine: Machine) -> None:
    machine.published(b"1", b"2", b"1", b"3")
    digest = machine.version(1).digest
    machine.marked(3, "fenced")
    machine.marked(1, "fenced")
    assert machine.rows.digest(WORKFLOW, digest) == Digest(newest=3, fenced=(1, 3))
    machine.marked(3, "candidate", "stable")
    assert_rejected(machine.switch(3), Reason.VERSION_FENCED)
    machine.marked(1, "candidate", "archived")
    assert machine.rows.digest(WORKFLOW, digest) == Digest(newest=3)


@pytest.mark.parametrize("previous", STATUSES)
def test_statuses_follow_each_other(previous: Status) -> None:
    """What was taken out of use comes back as a candidate only."""
    allowed = {
        "candidate": {"stable", "failed", "fenced", "archived"},
        "stable": {"candidate", "failed", "fenced", "archived"},
        "failed": {"candidate", "fenced", "archived"},
        "fenced": {"candidate"},
        "archived": {"candidate", "fenced"},
    }[previous]
    for status in STATUSES:
        for level in (1, 2):
            machine = Machine(level=level)
            machine.published(b"1")
            if previous != "candidate":
                machine.marked(1, previous)
            outcome = machine.mark(1, status)
            if level == 1 or status in allowed or status == previous:
                assert outcome == Marked(
                    revision=machine.registry.revision, version=machine.version(1), previous_status=previous
                )
                assert machine.version(1).status == status
                continue
            refused = assert_rejected(outcome, Reason.STATUS_TRANSITION)
            assert set(refused.metadata["allowed"].split(",")) == allowed
            assert f"regctl mark {WORKFLOW}@1 candidate --reason" in refused.hint
            assert machine.version(1).status == previous
