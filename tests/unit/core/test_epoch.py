"""A new epoch: after a restore or a forced recovery."""

from __future__ import annotations

import pytest
from msgspec import structs

from registry.core import request_ids
from registry.core.commands import BeginEpoch
from registry.core.errors import Reason
from registry.core.model import Change
from registry.core.outcomes import EpochBegun
from tests.unit.core.kit import START_MS, Machine, assert_rejected


def begin(machine: Machine, **fields: object) -> BeginEpoch:
    command = BeginEpoch(
        request_id=machine.request_id(), time_ms=START_MS, principal="ada", cause="restore", reason="all was lost"
    )
    return structs.replace(command, **fields)


@pytest.mark.parametrize("cause", ["restore", "recover"])
def test_an_epoch_begins_and_stands_in_the_history(machine: Machine, cause: str) -> None:
    machine.published(b"1", b"2")
    machine.switched(1, 2)
    before = machine.registry
    command = begin(machine, cause=cause)
    assert machine.apply(command) == EpochBegun(revision=before.revision + 1, epoch=2)
    assert (machine.registry.epoch, machine.registry.revision) == (2, before.revision + 1)
    assert machine.registry.cluster_id == before.cluster_id
    assert machine.rows.change(before.revision + 1) == Change(
        revision=before.revision + 1,
        time_ms=START_MS,
        principal="ada",
        action=cause,  # type: ignore[arg-type]
        reason="all was lost",
        request_id=command.request_id,
        epoch=2,
    )


@pytest.mark.parametrize(("at_least", "epoch"), [(0, 2), (1, 2), (2, 2), (7, 7)])
def test_an_epoch_that_was_seen_elsewhere_is_passed_over(machine: Machine, at_least: int, epoch: int) -> None:
    machine.apply(begin(machine, at_least=at_least))
    assert machine.registry.epoch == epoch


def test_generations_go_on_in_the_new_epoch(machine: Machine) -> None:
    machine.published(b"1", b"2")
    machine.switched(1, 2)
    machine.apply(begin(machine))
    machine.switched(1)
    assert machine.pointer().generation == 3


def test_a_repeated_one_begins_one_epoch(machine: Machine) -> None:
    command = begin(machine)
    first = machine.apply(command)
    assert machine.apply(structs.replace(command, time_ms=START_MS + 9)) == first
    assert machine.registry.epoch == 2
    assert_rejected(machine.apply(structs.replace(command, reason="another")), Reason.REQUEST_REUSED)


def test_it_begins_also_by_a_clock_that_is_far_behind() -> None:
    machine = Machine(requests_remembered=1)
    machine.found()
    machine.published(b"1", b"2")
    assert machine.registry.forgotten_ms > 0
    assert isinstance(machine.apply(begin(machine, request_id=request_ids.make(1, bytes(10)))), EpochBegun)
    assert machine.registry.epoch == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"reason": "  "}, Reason.REASON_REQUIRED),
        ({"cause": "because"}, Reason.INVALID_REQUEST),
        ({"at_least": -1}, Reason.INVALID_REQUEST),
        ({"at_least": 2**62}, Reason.INVALID_REQUEST),
        ({"request_id": "x"}, Reason.INVALID_REQUEST),
        ({"principal": "two\nlines"}, Reason.INVALID_REQUEST),
    ],
)
def test_a_malformed_one_changes_nothing(machine: Machine, fields: dict[str, object], reason: Reason) -> None:
    before = machine.dump()
    assert_rejected(machine.apply(begin(machine, **fields)), reason)
    assert machine.dump() == before
