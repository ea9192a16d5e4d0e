from __future__ import annotations

from typing import Any, get_args

import pytest
from msgspec import structs

from registry.core import fleet, limits
from registry.core.commands import Ack, Contact, ForgetAgents, ForgottenAgent
from registry.core.errors import Reason
from registry.core.model import Agent, LastContact, Phase, Pointer
from registry.core.outcomes import Acknowledged, AgentsForgotten, Outcome
from registry.store import tables
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected

OTHER = "support/answer"
POINTER = Pointer(workflow=WORKFLOW, pointer="active", version=3, digest="d3", generation=3, revision=9)
HEARD = LastContact(time_ms=1_000)


def agent(**fields: Any) -> Agent:
    base = Agent(agent="edge-1", workflow=WORKFLOW, pointer="active", incarnation="i", sequence=1)
    return structs.replace(base, generation=3, phase="confirmed", running_generation=3, running_digest="d3", **fields)


@pytest.mark.parametrize(
    ("fields", "standing"),
    [
        ({}, "on_target"),
        ({"running_digest": "d2"}, "drifted"),
        ({"running_digest": ""}, "on_target"),
        ({"phase": "installed", "running_digest": "d2"}, "installing"),
        ({"phase": "reverted", "running_digest": "d2"}, "nacked"),
        ({"phase": "refused"}, "nacked"),
        ({"generation": 2}, "behind"),
        ({"generation": 2, "phase": "refused"}, "behind"),
        ({"generation": 4}, "behind"),  # of the epoch before this one
        ({"generation": 4, "phase": "refused"}, "behind"),
    ],
)
def test_an_agent_stands_as_its_report_says_against_the_pointer(fields: dict[str, Any], standing: str) -> None:
    reported = structs.replace(agent(), **fields)
    assert reported.phase in get_args(Phase)
    assert standing in fleet.STANDINGS
    silent_ms = 1_000 + int(limits.AGENT_SILENT_S * 1000)
    assert fleet.standing(reported, POINTER, HEARD, silent_ms) == standing
    assert fleet.standing(reported, POINTER, HEARD, silent_ms + 1) == "silent"
    assert fleet.standing(reported, POINTER, LastContact(), silent_ms + 1) == "silent"


def test_against_an_earlier_switch_later_generations_count_up_to_the_newest() -> None:
    later = structs.replace(agent(), generation=5, running_digest="d5")
    assert fleet.standing(later, POINTER, HEARD, 1_000, newest=5) == "drifted"
    assert fleet.standing(later, POINTER, HEARD, 1_000, newest=4) == "behind"


def contacts(machine: Machine, *sessions: str, start_ms: int = 1) -> LastContact:
    """One command, one contact a millisecond."""
    found = [Contact(agent="edge-1", time_ms=start_ms + at, session=session) for at, session in enumerate(sessions)]
    assert isinstance(machine.acknowledge(contacts=tuple(found)), Acknowledged)
    return machine.rows.contact("edge-1")


@pytest.mark.parametrize(
    ("sessions", "twins_ms"),
    [
        ("A", 0),
        ("AAA", 0),
        ("AABBC", 0),
        ("ABCD", 0),
        ("ABA", 3),
        ("ABAB", 4),
        ("ABBA", 4),
        ("ABACC", 3),
        ("ABAAB", 5),
        ("ABCABC", 0),  # each could be a new start
        ("ABCAC", 5),
    ],
)
def test_a_session_that_comes_back_after_another_one_means_twins(
    machine: Machine, sessions: str, twins_ms: int
) -> None:
    """Whether in one command, or in one each."""
    together = contacts(machine, *sessions)
    assert together.twins_ms == twins_ms
    apart = Machine()
    for at, session in enumerate(sessions, start=1):
        contacts(apart, session, start_ms=at)
    assert apart.rows.contact("edge-1") == together


def test_twins_are_over_when_they_were_not_seen_for_a_while() -> None:
    contact = LastContact(time_ms=9, session="A", previous_session="B", twins_ms=9)
    over_ms = 9 + int(limits.AGENT_TWINS_S * 1000)
    assert fleet.has_twins(contact, 9)
    assert fleet.has_twins(contact, over_ms - 1)
    assert not fleet.has_twins(contact, over_ms)
    assert not fleet.has_twins(LastContact(time_ms=9), 9)


def test_late_and_repeated_contacts_say_nothing(machine: Machine) -> None:
    contacts(machine, "A", "B", start_ms=10)
    before = machine.dump()
    contacts(machine, "A", "B", start_ms=10)
    contacts(machine, "A", start_ms=11)
    assert machine.dump() == before


def test_a_report_that_names_no_session_is_a_contact_of_none(machine: Machine) -> None:
    assert contacts(machine, "A", "", "A", "B", "") == LastContact(time_ms=5, session="B", previous_session="A")


def test_below_level_2_the_time_alone_is_kept_and_it_stays_readable() -> None:
    machine = Machine(level=1)
    assert contacts(machine, "A", "B", "A", start_ms=5) == LastContact(time_ms=7)
    assert machine.dump()[tables.CONTACTS] == [(b"edge-1", (7).to_bytes(8, "big"))]
    machine.level = 2
    assert contacts(machine, "C", start_ms=6) == LastContact(time_ms=7)
    assert contacts(machine, "C", start_ms=8) == LastContact(time_ms=8, session="C")
    assert list(machine.rows.contacts()) == [("edge-1", LastContact(time_ms=8, session="C"))]
    assert list(machine.rows.contacts("edge-1")) == []


def test_a_session_has_a_limit(machine: Machine) -> None:
    contact = Contact(agent="edge-1", time_ms=1, session="x" * (limits.NAME_CHARS + 1))
    assert_rejected(machine.acknowledge(contacts=(contact,)), Reason.TOO_LARGE)
    machine.level = 1  # where nobody reads it
    machine.acknowledge(contacts=(contact,))
    assert machine.rows.contact("edge-1").time_ms == 1


@pytest.fixture
def fleet_of_two(machine: Machine) -> Machine:
    """edge-1 and edge-2 follow two workflows each; edge-1 was heard of at 100."""
    for workflow in (WORKFLOW, OTHER):
        machine.published(b"1", workflow=workflow)
        machine.switched(1, workflow=workflow)
    acks = [
        Ack(
            agent=name,
            incarnation="i",
            sequence=1,
            workflow=workflow,
            pointer="active",
            generation=1,
            phase="confirmed",
        )
        for name in ("edge-1", "edge-2")
        for workflow in (WORKFLOW, OTHER)
    ]
    heard = (Contact(agent="edge-1", time_ms=100, session="A"), Contact(agent="edge-2", time_ms=900))
    machine.acknowledge(*acks, contacts=heard)
    machine.set_policy("*", agents_expire_days="30")
    return machine


def forget(machine: Machine, **fields: Any) -> Outcome:
    gone = ForgottenAgent(agent="edge-1", **fields)
    return machine.apply(ForgetAgents(request_id=machine.request_id(), time_ms=1, agents=(gone,)))


def reported(machine: Machine) -> list[tuple[str, str]]:
    return [(row.agent, row.workflow) for _, row in machine.rows.agents()]


BOTH = ((WORKFLOW, "active"), (OTHER, "active"))


def test_an_agent_is_forgotten_with_all_that_it_said(fleet_of_two: Machine) -> None:
    revision = fleet_of_two.registry.revision
    forgotten = AgentsForgotten(revision=revision, rows=2)
    assert forget(fleet_of_two, rows=BOTH, heard_ms=100, entirely=True) == forgotten
    assert reported(fleet_of_two) == [("edge-2", OTHER), ("edge-2", WORKFLOW)]
    assert [name for name, _ in fleet_of_two.rows.contacts()] == ["edge-2"]
    before = fleet_of_two.dump()
    for heard_ms in (100, None):
        assert forget(fleet_of_two, rows=BOTH, heard_ms=heard_ms, entirely=True) == structs.replace(forgotten, rows=0)
    assert fleet_of_two.dump() == before


def test_one_that_was_heard_of_since_stays(fleet_of_two: Machine) -> None:
    fleet_of_two.acknowledge(contacts=(Contact(agent="edge-1", time_ms=101),))
    before = fleet_of_two.dump()
    assert forget(fleet_of_two, rows=BOTH, heard_ms=100, entirely=True) == AgentsForgotten(
        revision=fleet_of_two.registry.revision, rows=0
    )
    assert fleet_of_two.dump() == before
    forget(fleet_of_two, rows=BOTH, entirely=True)  # by name
    assert reported(fleet_of_two) == [("edge-2", OTHER), ("edge-2", WORKFLOW)]


def test_where_the_rule_was_taken_back_meanwhile_it_stays(fleet_of_two: Machine) -> None:
    fleet_of_two.set_policy(OTHER, agents_expire_days="never")
    forget(fleet_of_two, rows=BOTH, heard_ms=100, entirely=True)
    assert ("edge-1", OTHER) in reported(fleet_of_two)
    assert ("edge-1", WORKFLOW) not in reported(fleet_of_two)
    assert fleet_of_two.rows.contact("edge-1").time_ms == 100, "its age is needed for the row that stays"
    fleet_of_two.set_policy("*", agents_expire_days="")
    assert keeps_all(fleet_of_two)


def keeps_all(machine: Machine) -> bool:
    before = machine.dump()
    forget(machine, rows=BOTH, heard_ms=100, entirely=True)
    return machine.dump() == before


def test_what_is_forgotten_in_part_keeps_its_contact(fleet_of_two: Machine) -> None:
    assert forget(fleet_of_two, rows=BOTH[:1], heard_ms=100) == AgentsForgotten(
        revision=fleet_of_two.registry.revision, rows=1
    )
    assert fleet_of_two.rows.contact("edge-1") == LastContact(time_ms=100, session="A")


def test_one_that_still_runs_comes_back_with_its_next_report(fleet_of_two: Machine) -> None:
    forget(fleet_of_two, rows=BOTH, entirely=True)
    again = Ack(
        agent="edge-1", incarnation="i", sequence=1, workflow=WORKFLOW, pointer="active", generation=1,
        phase="confirmed",
    )  # fmt: skip
    fleet_of_two.acknowledge(again)
    assert ("edge-1", WORKFLOW) in reported(fleet_of_two)


def test_batches_hold_so_many_agents_and_rows_and_all_of_them(
    monkeypatch: pytest.MonkeyPatch, fleet_of_two: Machine
) -> None:
    monkeypatch.setattr(limits, "FORGOTTEN", 5)
    many = tuple((f"a/w{number}", "active") for number in range(9))
    gone = [
        ForgottenAgent(agent="one", rows=many[:3], heard_ms=1, entirely=True),
        ForgottenAgent(agent="many", rows=many, heard_ms=2, entirely=True),
        ForgottenAgent(agent="polled", heard_ms=3, entirely=True),
        ForgottenAgent(agent="part", rows=many[:1], heard_ms=4),
    ]
    batches = list(fleet.batches(gone))
    assert all(0 < sum(each.weight for each in batch) <= 5 for batch in batches)
    parts = [each for batch in batches for each in batch]
    for whole in gone:
        mine = [each for each in parts if each.agent == whole.agent]
        assert tuple(row for each in mine for row in each.rows) == whole.rows
        assert [each.entirely for each in mine] == [False] * (len(mine) - 1) + [whole.entirely]
        assert {each.heard_ms for each in mine} == {whole.heard_ms}
    too_many = ForgetAgents(request_id=fleet_of_two.request_id(), time_ms=1, agents=batches[0] + batches[1])
    assert_rejected(fleet_of_two.apply(too_many), Reason.TOO_LARGE)
    nobody = ForgetAgents(request_id=fleet_of_two.request_id(), time_ms=1, agents=())
    assert_rejected(fleet_of_two.apply(nobody), Reason.INVALID_REQUEST)


def test_forgetting_needs_level_2() -> None:
    assert_rejected(forget(Machine(level=1), rows=BOTH), Reason.LEVEL_TOO_LOW)
