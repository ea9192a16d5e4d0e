"""A trial says what apply would say, and writes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from registry.core.commands import Move, Switch
from registry.core.outcomes import Rejected, Switched
from registry.server import trial
from tests.unit.core.kit import WORKFLOW, Machine


@pytest.fixture
def machine() -> Machine:
    """`active` went from 1 to 2 to 3 of four versions; the second is stable."""
    machine = Machine()
    machine.found()
    machine.published(b"1", b"2", b"3", b"4")
    machine.switched(1, 2, 3)
    machine.marked(2, "stable")
    return machine


def rollback(machine: Machine, target: int = 0, **fields: Any) -> Switch:
    return machine.switch_command(Move(workflow=WORKFLOW, pointer="active", target=target), rollback=True, **fields)


def tried(machine: Machine, command: Switch) -> Switched | Rejected:
    """What the trial says, after making sure that it left nothing behind."""
    before = machine.dump()
    with machine.environment.snapshot() as reader:
        outcome = trial.switch(reader, command, level=machine.level)
    assert machine.dump() == before
    return outcome


def test_the_pick_is_that_of_apply(machine: Machine) -> None:
    command = rollback(machine)
    outcome = tried(machine, command)
    assert isinstance(outcome, Switched)
    assert outcome.pointers[0].version == 2
    assert outcome == machine.apply(command)


def test_a_refusal_is_that_of_apply(machine: Machine) -> None:
    machine.set_policy("*", verdict="warn")
    command = rollback(machine, 4)
    outcome = tried(machine, command)
    assert isinstance(outcome, Rejected)
    assert outcome.reason == "VERDICT_REFUSED"
    assert outcome == machine.apply(command)


def test_force_takes_what_was_never_live(machine: Machine) -> None:
    machine.set_policy("*", verdict="warn")
    command = rollback(machine, 4, force=True)
    assert tried(machine, command) == machine.apply(command)
    assert machine.pointer().version == 4
