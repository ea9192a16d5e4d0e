"""Who depends on a workflow."""

from __future__ import annotations

import pytest

from registry.core import limits
from registry.core.impact import Dependent, Impact, dependents, provides
from registry.core.outcomes import Published
from tests.unit.core.kit import WORKFLOW, Machine


def publish(machine: Machine, workflow: str, *requires: str, **fields: object) -> None:
    """One more version, other than the ones before."""
    data = f"{workflow} {machine.request_id()}".encode()
    assert isinstance(machine.publish(data, workflow, requires=requires, **fields), Published)


def impact(machine: Machine, workflow: str = WORKFLOW) -> Impact:
    return dependents(machine.rows, workflow)


def direct(workflow: str, version: int, *pointers: str, via: str = WORKFLOW) -> Dependent:
    return Dependent(workflow, version, pointers, via, "", 1)


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({}, WORKFLOW),
        ({"facts": {"n8n_id": "7"}, "kind": "n8n"}, "n8n:7"),
        ({"labels": {"tool": "triage"}}, "dify-tool:triage"),
        ({"facts": {"flowise_id": "f"}}, "flowise:f"),
        ({"facts": {"name": "Triage"}, "kind": "langflow"}, "langflow:Triage"),
    ],
)
def test_what_a_workflow_provides(machine: Machine, fields: dict[str, object], token: str) -> None:
    publish(machine, WORKFLOW, **fields)
    publish(machine, "a/caller", token)
    publish(machine, "a/other", token + "x")
    assert impact(machine) == Impact((direct("a/caller", 1, via=token),), more=False)
    assert set(provides(machine.version(1))) == {WORKFLOW, token}


def test_a_name_is_provided_by_langflow_alone(machine: Machine) -> None:
    publish(machine, WORKFLOW, facts={"name": "Triage"})
    assert provides(machine.version(1)) == (WORKFLOW,)


def test_versions_that_a_pointer_names_count_and_the_newest(machine: Machine) -> None:
    publish(machine, WORKFLOW)
    for requires in ((WORKFLOW,), (WORKFLOW,), (), (WORKFLOW,), ()):
        publish(machine, "a/caller", *requires)
    assert impact(machine).dependents == ()
    machine.switched(2, workflow="a/caller", pointer="canary")
    assert impact(machine).dependents == (direct("a/caller", 2, "canary"),)
    machine.switched(4, workflow="a/caller", pointer="next")
    machine.switched(4, workflow="a/caller", pointer="active")
    machine.switched(3, workflow="a/caller", pointer="other")
    assert impact(machine).dependents == (direct("a/caller", 4, "active", "canary", "next"),)
    publish(machine, "a/caller", WORKFLOW)
    assert impact(machine).dependents == (direct("a/caller", 4, "active", "canary", "next"),)
    publish(machine, "b/new", WORKFLOW)
    assert impact(machine).dependents[1] == direct("b/new", 1)


def test_what_was_provided_once_counts_while_a_pointer_names_it(machine: Machine) -> None:
    publish(machine, WORKFLOW, facts={"n8n_id": "7"})
    publish(machine, WORKFLOW)
    publish(machine, "a/caller", "n8n:7")
    assert impact(machine).dependents == ()
    machine.switched(1)
    assert impact(machine).dependents == (direct("a/caller", 1, via="n8n:7"),)


def test_indirect_dependents_come_after_direct_ones_each_once(machine: Machine) -> None:
    publish(machine, WORKFLOW)
    publish(machine, "z/direct", WORKFLOW, facts={"n8n_id": "1"})
    publish(machine, "m/direct", WORKFLOW)
    publish(machine, "a/second", "n8n:1", "m/direct")
    publish(machine, "b/third", "a/second", WORKFLOW + "-2")
    assert impact(machine) == Impact(
        (
            direct("m/direct", 1),
            direct("z/direct", 1),
            Dependent("a/second", 1, (), "m/direct", "m/direct", 2),
            Dependent("b/third", 1, (), "a/second", "a/second", 3),
        ),
        more=False,
    )
    assert impact(machine, "b/third").dependents == ()


def test_cycles_end(machine: Machine) -> None:
    publish(machine, WORKFLOW, WORKFLOW, "a/caller")
    publish(machine, "a/caller", WORKFLOW, "a/caller", "b/caller")
    publish(machine, "b/caller", "a/caller")
    assert [(each.workflow, each.distance) for each in impact(machine).dependents] == [("a/caller", 1), ("b/caller", 2)]


def test_it_is_bounded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(machine, WORKFLOW)
    for number in range(4):
        publish(machine, f"a/caller-{number}", WORKFLOW)
    whole = impact(machine)
    assert (len(whole.dependents), whole.more) == (4, False)
    monkeypatch.setattr(limits, "DEPENDENTS", 4)
    assert impact(machine) == whole
    monkeypatch.setattr(limits, "DEPENDENTS", 3)
    assert impact(machine) == Impact(whole.dependents[:3], more=True)
    monkeypatch.setattr(limits, "SEARCHED", 3)
    assert impact(machine) == Impact(whole.dependents[:2], more=True)
