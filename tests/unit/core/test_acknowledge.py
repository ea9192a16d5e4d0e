from __future__ import annotations

from typing import Any

import pytest

from registry.core.commands import Ack, Contact
from registry.core.errors import Reason
from registry.core.model import Agent, LastContact
from registry.core.outcomes import Acknowledged
from tests.unit.core.kit import START_MS, WORKFLOW, Machine, assert_rejected


@pytest.fixture
def live(machine: Machine) -> Machine:
    machine.published(b"1")
    machine.switched(1)
    return machine


def ack(sequence: int = 1, **fields: Any) -> Ack:
    values: dict[str, Any] = {
        "agent": "edge-1",
        "incarnation": "i1",
        "workflow": WORKFLOW,
        "pointer": "active",
        "generation": 1,
    }
    return Ack(**(values | {"sequence": sequence, "phase": "confirmed"} | fields))


def agent(machine: Machine) -> Agent | None:
    return machine.rows.agent(WORKFLOW, "active", "edge-1")


def test_an_ack_is_kept_as_reported_and_is_no_change_of_the_registry(live: Machine) -> None:
    report = ack(
        site="eu-1",
        labels={"ring": "canary"},
        phase="reverted",
        code="PROBE_FAILED",
        detail="502",
        running_generation=1,
        running_version=1,
        running_digest=live.version(1).digest,
        time_ms=START_MS,
    )
    assert live.acknowledge(report) == Acknowledged(revision=3)
    assert agent(live) == Agent(
        agent="edge-1",
        workflow=WORKFLOW,
        pointer="active",
        incarnation="i1",
        sequence=1,
        site="eu-1",
        labels={"ring": "canary"},
        generation=1,
        phase="reverted",
        code="PROBE_FAILED",
        detail="502",
        running_generation=1,
        running_version=1,
        running_digest=live.version(1).digest,
        reported_ms=START_MS,
    )
    assert live.registry.revision == 3


def test_acks_count_once_and_in_order(live: Machine) -> None:
    live.acknowledge(ack(2, detail="second"))
    before = live.dump()
    live.acknowledge(ack(2, detail="again"), ack(1, detail="late"))
    assert live.dump() == before
    live.acknowledge(ack(3, detail="third"), ack(4, detail="fourth"))
    found = agent(live)
    assert found is not None
    assert (found.sequence, found.detail) == (4, "fourth")


def test_another_incarnation_starts_again(live: Machine) -> None:
    live.acknowledge(ack(9))
    live.acknowledge(ack(1, incarnation="i2"))
    found = agent(live)
    assert found is not None
    assert (found.incarnation, found.sequence) == ("i2", 1)


def test_acks_for_pointers_that_do_not_exist_are_ignored(live: Machine) -> None:
    before = live.dump()
    assert live.acknowledge(ack(workflow="no/such"), ack(pointer="other")) == Acknowledged(revision=3)
    assert live.dump() == before


def test_the_last_contact_only_moves_forward(live: Machine) -> None:
    live.acknowledge(contacts=(Contact(agent="edge-1", time_ms=50), Contact(agent="edge-2", time_ms=7)))
    live.acknowledge(contacts=(Contact(agent="edge-1", time_ms=40), Contact(agent="edge-2", time_ms=8)))
    assert (live.rows.contact("edge-1").time_ms, live.rows.contact("edge-2").time_ms) == (50, 8)
    assert live.rows.contact("edge-3") == LastContact()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"agent": "x" * 600}, Reason.INVALID_NAME),
        ({"agent": ""}, Reason.INVALID_NAME),
        ({"workflow": "x"}, Reason.INVALID_NAME),
        ({"pointer": "1"}, Reason.INVALID_NAME),
        ({"site": "a b"}, Reason.INVALID_NAME),
        ({"phase": "done"}, Reason.INVALID_REQUEST),
        ({"detail": "x" * 2000}, Reason.TOO_LARGE),
        ({"running_digest": "x"}, Reason.INVALID_REFERENCE),
        ({"generation": -1}, Reason.INVALID_REQUEST),
    ],
)
def test_one_malformed_ack_refuses_all(live: Machine, fields: dict[str, Any], reason: Reason) -> None:
    before = live.dump()
    assert_rejected(live.acknowledge(ack(), ack(**fields)), reason)
    assert live.dump() == before


def test_batches_are_bounded(live: Machine) -> None:
    assert_rejected(live.acknowledge(*(ack(number) for number in range(257))), Reason.TOO_LARGE)
