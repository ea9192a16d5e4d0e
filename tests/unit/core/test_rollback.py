"""Which version a rollback picks, and what becomes of the one it leaves."""

from __future__ import annotations

import pytest

from registry.core import limits
from registry.core.commands import Move
from registry.core.errors import Reason
from registry.core.model import Status, StatusChange
from registry.core.outcomes import Switched
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected


@pytest.fixture
def live(machine: Machine) -> Machine:
    """Versions 1 to 4, live in that order; all candidates."""
    machine.published(b"1", b"2", b"3", b"4")
    machine.switched(1, 2, 3, 4)
    return machine


def went_to(outcome: object, *versions: int) -> Switched:
    assert isinstance(outcome, Switched), outcome
    assert tuple(pointer.version for pointer in outcome.pointers) == versions
    return outcome


def statuses(machine: Machine) -> list[Status]:
    return [version.status for version in machine.rows.versions(WORKFLOW, 1 << 62)][::-1]


def test_it_goes_to_the_newest_stable_version_that_was_live(live: Machine) -> None:
    live.marked(2, "stable")
    outcome = went_to(live.rollback(), 2)
    assert outcome.notes == ()
    pointer = live.pointer()
    assert (pointer.generation, pointer.previous_version, pointer.rollback) == (5, 4, True)
    change = live.rows.change(outcome.revision)
    assert change is not None
    assert (change.action, change.status_changes) == ("rollback", outcome.status_changes)


def test_the_version_left_becomes_failed(live: Machine) -> None:
    live.marked(3, "stable")
    live.marked(4, "stable")
    outcome = went_to(live.rollback(), 3)
    assert outcome.status_changes == (
        StatusChange(workflow=WORKFLOW, version=4, previous_status="stable", status="failed"),
    )
    assert statuses(live) == ["candidate", "candidate", "stable", "failed"]


def test_newest_means_most_recently_live_not_highest_number(live: Machine) -> None:
    live.switched(1, 4)
    for number in (1, 2, 3):
        live.marked(number, "stable")
    went_to(live.rollback(), 1)


def test_stable_versions_that_were_never_live_are_not_picked(live: Machine) -> None:
    live.published(b"5")
    live.marked(5, "stable")
    live.marked(1, "stable")
    went_to(live.rollback(), 1)


def test_without_a_stable_one_it_takes_the_newest_usable_and_says_so(live: Machine) -> None:
    live.marked(3, "failed")
    outcome = went_to(live.rollback(), 2)
    assert "no stable version was live before; picked version 2 (candidate)" in outcome.notes[0]


@pytest.mark.parametrize("status", ["failed", "fenced", "archived"])
def test_unusable_versions_are_not_picked(live: Machine, status: Status) -> None:
    for number in (1, 2, 3):
        live.marked(number, status)
    outcome = assert_rejected(live.rollback(), Reason.NO_ROLLBACK_TARGET)
    assert outcome.metadata["version"] == "4"
    assert "--to" in outcome.hint
    assert live.pointer().generation == 4
    assert live.version(4).status == "candidate"


def test_bytes_fenced_as_another_version_are_not_picked(live: Machine) -> None:
    live.published(b"3")
    live.marked(3, "stable")
    live.marked(5, "fenced")
    went_to(live.rollback(), 2)


def test_repeated_rollbacks_go_further_back_and_end(live: Machine) -> None:
    live.marked(2, "stable")
    went_to(live.rollback(), 2)
    went_to(live.rollback(), 3)  # no stable one is left: the newest that is not failed
    went_to(live.rollback(), 1)
    assert_rejected(live.rollback(), Reason.NO_ROLLBACK_TARGET)
    assert statuses(live) == ["candidate", "failed", "failed", "failed"]


def test_keep_status_picks_the_same_versions_and_never_goes_round(live: Machine) -> None:
    for number in (1, 2, 3, 4):
        live.marked(number, "stable")
    for expected in (3, 2, 1):
        assert went_to(live.rollback(keep_status=True), expected).status_changes == ()
    assert_rejected(live.rollback(keep_status=True), Reason.NO_ROLLBACK_TARGET)
    assert statuses(live) == ["stable"] * 4


def test_keep_status_with_versions_live_several_times(live: Machine) -> None:
    live.switched(3, 4, 3)  # 1 2 3 4 3 4 3
    went_to(live.rollback(keep_status=True), 4)
    went_to(live.rollback(keep_status=True), 2)
    went_to(live.rollback(keep_status=True), 1)
    assert_rejected(live.rollback(keep_status=True), Reason.NO_ROLLBACK_TARGET)


def test_a_version_left_and_marked_stable_again_is_not_returned_to_in_the_same_run(live: Machine) -> None:
    went_to(live.rollback(), 3)
    live.marked(4, "candidate", "stable")
    went_to(live.rollback(), 2)


def test_a_switch_by_hand_starts_afresh(live: Machine) -> None:
    went_to(live.rollback(keep_status=True), 3)
    live.switched(1)
    went_to(live.rollback(keep_status=True), 3)
    went_to(live.rollback(keep_status=True), 4)


def test_a_named_target_counts_in_the_run(live: Machine) -> None:
    went_to(live.rollback(1, keep_status=True), 1)
    went_to(live.rollback(keep_status=True), 3)
    went_to(live.rollback(keep_status=True), 2)
    assert_rejected(live.rollback(keep_status=True), Reason.NO_ROLLBACK_TARGET)


def test_a_named_target_need_not_have_been_live(live: Machine) -> None:
    live.published(b"5")
    went_to(live.rollback(5), 5)
    assert live.version(4).status == "failed"


def test_a_named_target_that_is_failed_needs_force(live: Machine) -> None:
    live.marked(3, "failed")
    assert_rejected(live.rollback(3), Reason.VERSION_FAILED)
    went_to(live.rollback(3, force=True), 3)


def test_rolling_back_to_what_is_named_already_fails_nothing(live: Machine) -> None:
    outcome = went_to(live.rollback(4), 4)
    assert outcome.status_changes == ()
    assert live.pointer().generation == 5


@pytest.mark.parametrize("status", ["fenced", "archived", "failed"])
def test_the_status_of_a_version_left_is_not_overwritten(live: Machine, status: Status) -> None:
    live.switched(3)
    live.marked(4, status)
    live.switch(4, force=True)
    outcome = went_to(live.rollback(), 3)
    assert outcome.status_changes == ()
    assert live.version(4).status == status


def test_same_bytes_are_said(live: Machine) -> None:
    live.published(b"3")
    live.switched(5)
    live.marked(3, "stable")
    assert went_to(live.rollback(), 3).notes == (f"{WORKFLOW}: version 3 has the same bytes as version 5",)


def test_a_pointer_that_was_never_switched_cannot_roll_back(live: Machine) -> None:
    for target in (0, 1):
        outcome = assert_rejected(live.rollback(target, pointer="actve"), Reason.POINTER_NOT_FOUND)
        assert "active" in outcome.hint
    assert_rejected(live.rollback(workflow="no/such"), Reason.WORKFLOW_NOT_FOUND)


def test_a_stale_expectation_is_refused(live: Machine) -> None:
    assert_rejected(live.rollback(expected_generation=3), Reason.GENERATION_MISMATCH)
    went_to(live.rollback(expected_generation=4), 3)


def test_a_version_that_one_move_leaves_is_not_picked_by_another(live: Machine) -> None:
    live.switched(1, 2, 3, pointer="canary")
    moves = (Move(workflow=WORKFLOW, pointer="active"), Move(workflow=WORKFLOW, pointer="canary"))
    outcome = went_to(live.apply(live.switch_command(*moves, rollback=True)), 2, 2)
    assert [change.version for change in outcome.status_changes] == [4, 3]


def test_a_version_that_one_move_leaves_and_another_names_does_not_fail(live: Machine) -> None:
    live.switched(1, 3, pointer="canary")
    moves = (Move(workflow=WORKFLOW, pointer="active", target=3), Move(workflow=WORKFLOW, pointer="canary", target=1))
    outcome = went_to(live.apply(live.switch_command(*moves, rollback=True)), 3, 1)
    assert [change.version for change in outcome.status_changes] == [4]


def test_two_pointers_that_leave_one_version_fail_it_once(live: Machine) -> None:
    live.switched(1, 4, pointer="canary")
    moves = (Move(workflow=WORKFLOW, pointer="active"), Move(workflow=WORKFLOW, pointer="canary"))
    outcome = went_to(live.apply(live.switch_command(*moves, rollback=True)), 3, 1)
    assert [change.version for change in outcome.status_changes] == [4]


def test_it_looks_back_a_limited_number_of_switches(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.published(b"1", b"2")
    machine.switched(1, 2, 2, 2)
    monkeypatch.setattr(limits, "ROLLBACK_SWITCHES", 3)
    assert_rejected(machine.rollback(), Reason.NO_ROLLBACK_TARGET)
    monkeypatch.setattr(limits, "ROLLBACK_SWITCHES", 4)
    went_to(machine.rollback(), 1)
