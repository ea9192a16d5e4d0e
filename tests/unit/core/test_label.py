from __future__ import annotations

import pytest
from msgspec import structs

from registry.core import limits
from registry.core.commands import Label
from registry.core.errors import Reason
from registry.core.outcomes import Labelled, Published
from tests.unit.core.kit import START_MS, WORKFLOW, Machine, assert_rejected, without_request_memory


@pytest.fixture
def one(machine: Machine) -> Machine:
    """One version with labels: revision 2."""
    assert isinstance(machine.publish(b"1", labels={"team": "a", "release-x": "1"}), Published)
    return machine


def test_labels_are_set_and_removed_at_once_and_stand_in_the_history(one: Machine) -> None:
    outcome = one.label(1, {"team": "b", "new": ""}, "release-x", "absent")
    version = one.version(1)
    assert outcome == Labelled(revision=3, version=version)
    assert version.labels == {"team": "b", "new": ""}
    change = one.rows.change(3)
    assert change is not None
    assert (change.action, change.reason, change.workflows, change.version) == (
        "label",
        "because",
        (WORKFLOW,),
        version,
    )
    assert list(one.rows.workflow_revisions(WORKFLOW)) == [3, 2]


def test_labels_it_has_already_change_nothing(one: Machine) -> None:
    assert one.label(1, {"team": "a"}, "absent") == Labelled(revision=2, version=one.version(1))
    assert one.registry.revision == 2


def test_what_does_not_exist(one: Machine) -> None:
    assert_rejected(one.label(2, {"a": "b"}), Reason.VERSION_NOT_FOUND)
    assert_rejected(one.label(1, {"a": "b"}, workflow="no/such"), Reason.WORKFLOW_NOT_FOUND)


def test_there_are_so_many_labels(one: Machine) -> None:
    many = {f"l{number}": "" for number in range(limits.LABELS - 1)}
    assert_rejected(one.label(1, many), Reason.TOO_LARGE)
    assert isinstance(one.label(1, many, "team"), Labelled)


def test_a_semver_is_given_later_once_and_for_good(one: Machine) -> None:
    assert isinstance(one.publish(b"2", labels={"semver": "v1.0.0"}), Published)
    assert assert_rejected(one.label(1, {"semver": "1.0.0"}), Reason.LABEL_TAKEN).metadata["version"] == "2"
    assert isinstance(one.label(1, {"semver": "v1.0.1"}), Labelled)
    assert one.rows.semver(WORKFLOW, "1.0.1") == 1
    for labels, removed in (({"semver": "v1.0.2"}, ()), ({}, ("semver",)), ({"semver": "v1.0.2", "team": "c"}, ())):
        outcome = assert_rejected(one.label(1, labels, *removed), Reason.LABEL_IMMUTABLE)
        assert outcome.metadata["label"] == "semver"
    assert isinstance(one.label(1, {"semver": "v1.0.1", "team": "c"}), Labelled)
    assert one.version(1).labels == {"team": "c", "release-x": "1", "semver": "v1.0.1"}
    assert_rejected(one.publish(b"3", labels={"semver": "1.0.1"}), Reason.LABEL_TAKEN)
    assert_rejected(one.label(1, {"semver": "one"}), Reason.INVALID_NAME)


def test_labels_are_immutable_by_policy_once_set(one: Machine) -> None:
    one.set_policy("*", immutable_labels="approved,release-?,re?ease-*")
    outcome = assert_rejected(one.label(1, {"release-x": "2"}), Reason.LABEL_IMMUTABLE)
    assert outcome.metadata == {
        "workflow": WORKFLOW, "version": "1", "label": "release-x", "value": "1", "scope": "*",
    }  # fmt: skip
    assert_rejected(one.label(1, {}, "release-x"), Reason.LABEL_IMMUTABLE)
    before = without_request_memory(one.dump(), one.registry)
    assert_rejected(one.label(1, {"team": "b"}, "release-x"), Reason.LABEL_IMMUTABLE)
    assert without_request_memory(one.dump(), one.registry) == before
    assert isinstance(one.label(1, {"release-x": "1", "approved": "ada", "Release-x": "2"}), Labelled)
    assert isinstance(one.label(1, {}, "Release-x"), Labelled)
    assert_rejected(one.label(1, {}, "approved"), Reason.LABEL_IMMUTABLE)
    one.set_policy("support/*", immutable_labels="other")
    assert isinstance(one.label(1, {}, "approved", "release-x"), Labelled)


def test_a_retry_takes_effect_once(one: Machine) -> None:
    command = Label(
        request_id=one.request_id(),
        time_ms=START_MS,
        principal="ada",
        workflow=WORKFLOW,
        version=1,
        labels={"team": "b"},
        reference="active",
    )
    first = one.apply(command)
    one.label(1, {"team": "c"})
    one.published(b"2")
    assert one.apply(structs.replace(command, version=2, time_ms=START_MS + 1)) == first
    assert one.version(1).labels["team"] == "c"
    assert_rejected(one.apply(structs.replace(command, labels={"team": "d"})), Reason.REQUEST_REUSED)


@pytest.mark.parametrize(
    ("labels", "removed", "reason"),
    [
        ({}, (), Reason.INVALID_REQUEST),
        ({"a": "1"}, ("a",), Reason.INVALID_REQUEST),
        ({"a b": "1"}, (), Reason.INVALID_NAME),
        ({}, ("a b",), Reason.INVALID_NAME),
        ({}, tuple(f"l{number}" for number in range(limits.LABELS + 1)), Reason.TOO_LARGE),
    ],
)
def test_a_malformed_one_changes_nothing(
    one: Machine, labels: dict[str, str], removed: tuple[str, ...], reason: Reason
) -> None:
    before = one.dump()
    assert_rejected(one.label(1, labels, *removed), reason)
    assert one.dump() == before


def test_it_needs_level_2(one: Machine) -> None:
    one.level = 1
    before = one.dump()
    assert_rejected(one.label(1, {"team": "b"}), Reason.LEVEL_TOO_LOW)
    assert one.dump() == before
