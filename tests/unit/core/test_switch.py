from __future__ import annotations

from typing import Any

import pytest

from registry.core import limits
from registry.core.commands import Move
from registry.core.errors import Reason
from registry.core.model import Pointer, Status
from registry.core.outcomes import Switched
from tests.unit.core.kit import START_MS, WORKFLOW, Machine, assert_rejected, without_request_memory


@pytest.fixture
def three(machine: Machine) -> Machine:
    """Three versions: revision 4."""
    machine.published(b"1", b"2", b"3")
    return machine


def test_the_first_switch_makes_the_pointer(three: Machine) -> None:
    outcome = three.switch(2, expected_generation=0)
    pointer = Pointer(
        workflow=WORKFLOW,
        pointer="active",
        version=2,
        digest=three.version(2).digest,
        previous_version=0,
        generation=1,
        revision=5,
        reason="because",
        principal="ada",
        time_ms=START_MS + 5,
    )
    assert outcome == Switched(revision=5, pointers=(pointer,))
    assert three.pointer() == pointer
    change = three.rows.change(5)
    assert change is not None
    assert (change.action, change.workflows, change.pointers, change.reason) == (
        "switch",
        (WORKFLOW,),
        (pointer,),
        "because",
    )


def test_every_switch_is_a_generation_and_stays_in_the_history(three: Machine) -> None:
    three.switched(1, 3, 2)
    assert (three.pointer().generation, three.pointer().previous_version) == (3, 3)
    assert [(past.generation, past.version) for past in three.rows.switches(WORKFLOW, "active")] == [
        (3, 2),
        (2, 3),
        (1, 1),
    ]


def test_what_does_not_exist(three: Machine) -> None:
    assert_rejected(three.switch(1, "no/such"), Reason.WORKFLOW_NOT_FOUND)
    assert assert_rejected(three.switch(4), Reason.VERSION_NOT_FOUND).metadata["newest"] == "3"
    assert three.rows.pointer(WORKFLOW, "active") is None


def test_a_stale_expectation_gets_the_current_record(three: Machine) -> None:
    three.switched(1, 2)
    outcome = assert_rejected(three.switch(3, expected_generation=1), Reason.GENERATION_MISMATCH)
    assert outcome.metadata == {
        "workflow": WORKFLOW,
        "pointer": "active",
        "version": "2",
        "digest": three.version(2).digest,
        "previous_version": "1",
        "generation": "2",
        "revision": "6",
        "reason": "because",
        "principal": "ada",
        "time_ms": str(START_MS + 6),
        "rollback": "false",
        "expected": "1",
    }
    assert "--expect 2" in outcome.hint
    assert isinstance(three.switch(3, expected_generation=2), Switched)


def test_a_pointer_never_switched_is_at_generation_0(three: Machine) -> None:
    outcome = assert_rejected(three.switch(3, expected_generation=1), Reason.GENERATION_MISMATCH)
    assert (outcome.metadata["generation"], outcome.metadata["expected"]) == ("0", "1")
    three.switched(1)
    assert_rejected(three.switch(3, expected_generation=0), Reason.GENERATION_MISMATCH)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("failed", Reason.VERSION_FAILED),
        ("fenced", Reason.VERSION_FENCED),
        ("archived", Reason.VERSION_ARCHIVED),
    ],
)
def test_unusable_versions_need_force(three: Machine, status: Status, reason: Reason) -> None:
    three.mark(2, status)
    assert_rejected(three.switch(2), reason)
    outcome = three.switch(2, force=True)
    assert isinstance(outcome, Switched)
    assert "force" in outcome.notes[0]
    assert three.pointer().version == 2


@pytest.mark.parametrize("rollback", [False, True])
def test_the_history_says_what_was_forced(three: Machine, rollback: bool) -> None:
    three.switched(1)
    for level in (1, 2):
        three.level = level
        for force in (False, True):
            outcome = three.switch(2, rollback=rollback, force=force)
            change = three.rows.change(outcome.revision)
            assert change is not None
            assert change.forced is (force and level == 2)
            three.switch(1)
            three.mark(2, "candidate")


def test_fenced_bytes_are_fenced_as_every_version(three: Machine) -> None:
    three.published(b"1")
    three.mark(1, "fenced")
    outcome = assert_rejected(three.switch(4), Reason.VERSION_FENCED)
    assert "same bytes as version 1" in outcome.message
    three.marked(1, "candidate", "failed")
    assert isinstance(three.switch(4), Switched)


def test_the_version_it_names_already_gets_a_new_generation_and_a_note(three: Machine) -> None:
    three.switched(1)
    outcome = three.switch(1)
    assert isinstance(outcome, Switched)
    assert three.pointer().generation == 2
    assert "already" in outcome.notes[0]


def test_several_pointers_move_in_one_revision(three: Machine) -> None:
    three.published(b"x", workflow="other/one")
    command = three.switch_command(
        Move(workflow="other/one", pointer="active", target=1),
        Move(workflow=WORKFLOW, pointer="active", target=1),
        Move(workflow=WORKFLOW, pointer="canary", target=2),
    )
    outcome = three.apply(command)
    assert isinstance(outcome, Switched)
    assert [(p.workflow, p.pointer, p.version, p.generation, p.revision) for p in outcome.pointers] == [
        ("other/one", "active", 1, 1, 6),
        (WORKFLOW, "active", 1, 1, 6),
        (WORKFLOW, "canary", 2, 1, 6),
    ]
    change = three.rows.change(6)
    assert change is not None
    assert change.workflows == ("other/one", WORKFLOW)
    assert list(three.rows.workflow_revisions("other/one")) == [6, 5]


def test_all_moves_or_none(three: Machine) -> None:
    three.switched(1)
    before = without_request_memory(three.dump(), three.registry)
    good = Move(workflow=WORKFLOW, pointer="active", target=2)
    for bad in (
        Move(workflow=WORKFLOW, pointer="canary", target=9),
        Move(workflow="no/such", pointer="active", target=1),
        Move(workflow=WORKFLOW, pointer="canary", target=1, expected_generation=7),
    ):
        for moves in ((good, bad), (bad, good)):
            assert not isinstance(three.apply(three.switch_command(*moves)), Switched)
    assert without_request_memory(three.dump(), three.registry) == before


def test_a_workflow_has_a_limited_number_of_pointers(three: Machine) -> None:
    for number in range(limits.POINTERS - 1):
        three.switched(1, pointer=f"p{number}")
    two = three.switch_command(
        Move(workflow=WORKFLOW, pointer="x", target=1), Move(workflow=WORKFLOW, pointer="y", target=1)
    )
    assert_rejected(three.apply(two), Reason.TOO_LARGE)
    three.switched(1, pointer="x")
    assert_rejected(three.switch(1, pointer="y"), Reason.TOO_LARGE)
    three.switched(2, pointer="x")


def test_a_switch_may_say_when_it_is_installed_and_a_rollback_never_does(three: Machine) -> None:
    three.switched(1)
    outcome = three.switch(2, not_before_ms=START_MS + 100, deadline_ms=START_MS + 200)
    assert isinstance(outcome, Switched)
    pointer = outcome.pointers[0]
    assert (pointer.not_before_ms, pointer.deadline_ms) == (START_MS + 100, START_MS + 200)
    assert three.pointer() == pointer
    change = three.rows.change(pointer.revision)
    assert change is not None
    assert change.pointers == (pointer,)
    stale = assert_rejected(three.switch(3, expected_generation=1), Reason.GENERATION_MISMATCH)
    assert stale.metadata["deadline_ms"] == str(START_MS + 200)
    assert isinstance(three.rollback(), Switched)
    back = three.pointer()
    assert (back.version, back.not_before_ms, back.deadline_ms) == (1, 0, 0)


def test_the_past_is_no_matter_of_apply(three: Machine) -> None:
    """Whose clock would decide?"""
    assert isinstance(three.switch(1, deadline_ms=1), Switched)
    assert three.pointer().deadline_ms == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"not_before_ms": 5, "deadline_ms": 5},
        {"not_before_ms": 6, "deadline_ms": 5},
        {"not_before_ms": -1},
        {"deadline_ms": -1},
        {"deadline_ms": limits.TIME_MAX_MS + 1},
        {"rollback": True, "deadline_ms": 5},
        {"rollback": True, "not_before_ms": 5},
    ],
)
def test_malformed_times_move_nothing(three: Machine, fields: dict[str, Any]) -> None:
    three.switched(1)
    before = three.dump()
    assert_rejected(three.switch(2, **fields), Reason.INVALID_REQUEST)
    assert three.dump() == before


def test_below_level_2_a_switch_holds_at_once() -> None:
    machine = Machine(level=1)
    machine.published(b"1")
    machine.switch(1, not_before_ms=6, deadline_ms=5)
    assert (machine.pointer().not_before_ms, machine.pointer().deadline_ms) == (0, 0)
