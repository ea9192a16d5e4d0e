"""What is fenced does not come back: not as the same bytes, and from feature level 2 on not as its semantic twin."""

from __future__ import annotations

import pytest

from registry.core.errors import Reason
from registry.core.outcomes import Marked, Published, Switched
from registry.store.tables import FENCES
from tests.unit.core.kit import WORKFLOW, Machine, assert_rejected

TWIN = "s1:aa"


@pytest.fixture
def twins(machine: Machine) -> Machine:
    return with_twins(machine)


def with_twins(machine: Machine) -> Machine:
    """Versions 1 and 3 mean the same, 2 and 4 something else; revision 5."""
    for data in (b"1", b"2", b"1 ", b"4"):
        meaning = {"semantic_digest": TWIN} if data.strip() == b"1" else {}
        assert isinstance(machine.publish(data, **meaning), Published)
    return machine


def test_a_twin_is_not_published(twins: Machine) -> None:
    twins.marked(3, "fenced")
    twins.marked(1, "fenced")
    assert twins.rows.fences(WORKFLOW, TWIN) == (1, 3)
    outcome = assert_rejected(twins.publish(b" 1", semantic_digest=TWIN), Reason.DIGEST_FENCED)
    assert "means the same as version 1" in outcome.message
    assert outcome.metadata["version"] == "1"
    assert outcome.metadata["semantic_digest"] == TWIN
    assert isinstance(twins.publish(b" 1", semantic_digest="s2:aa"), Published)
    assert isinstance(twins.publish(b" 1", workflow="other/one", semantic_digest=TWIN), Published)


def test_a_twin_is_fenced_until_no_version_with_its_meaning_is(twins: Machine) -> None:
    twins.marked(1, "fenced")
    twins.marked(3, "fenced")
    twins.marked(3, "candidate")
    assert_rejected(twins.publish(b" 1", semantic_digest=TWIN), Reason.DIGEST_FENCED)
    outcome = assert_rejected(twins.switch(3), Reason.VERSION_FENCED)
    assert "means the same as version 1, which is fenced" in outcome.message
    twins.marked(1, "candidate")
    assert twins.dump()[FENCES] == []
    assert isinstance(twins.switch(3), Switched)
    assert isinstance(twins.publish(b" 1", semantic_digest=TWIN), Published)


def test_a_switch_to_a_twin_needs_force_and_says_so(twins: Machine) -> None:
    twins.marked(1, "fenced")
    assert_rejected(twins.switch(3), Reason.VERSION_FENCED)
    assert_rejected(twins.rollback(3), Reason.POINTER_NOT_FOUND)
    outcome = twins.switch(3, force=True)
    assert isinstance(outcome, Switched)
    assert outcome.notes == (f"{WORKFLOW}: version 3 means the same as version 1, which is fenced; switched by force",)


def test_a_rollback_never_picks_a_twin(twins: Machine) -> None:
    twins.switched(2, 3, 4)
    twins.marked(3, "stable")
    twins.marked(1, "fenced")
    outcome = twins.rollback()
    assert isinstance(outcome, Switched)
    assert outcome.pointers[0].version == 2
    assert_rejected(twins.rollback(3), Reason.VERSION_FENCED)


def test_where_there_is_no_way_back_it_says_which_twins_count_as_fenced(twins: Machine) -> None:
    twins.switched(3, 2)
    twins.marked(1, "fenced")
    outcome = assert_rejected(twins.rollback(), Reason.NO_ROLLBACK_TARGET)
    assert "version 3 means the same as version 1, which is fenced" in outcome.message
    twins.marked(3, "failed")
    twins.marked(1, "candidate")
    assert "means the same" not in assert_rejected(twins.rollback(), Reason.NO_ROLLBACK_TARGET).message


def test_only_the_newest_of_many_twins_is_named(twins: Machine) -> None:
    for data in (b" 1", b"1  "):
        twins.publish(data, semantic_digest=TWIN)
    twins.switched(3, 5, 6, 2)
    twins.marked(1, "fenced")
    outcome = assert_rejected(twins.rollback(), Reason.NO_ROLLBACK_TARGET)
    assert "version 6 means the same as version 1, which is fenced, and 2 more" in outcome.message


def test_what_a_pointer_names_is_not_fenced_as_its_twin(twins: Machine) -> None:
    twins.switched(3, pointer="canary")
    outcome = assert_rejected(twins.mark(1, "fenced"), Reason.VERSION_IN_USE)
    assert "canary" in outcome.message
    assert "means the same as version 1" in outcome.message
    twins.marked(1, "archived")
    twins.marked(1, "candidate")
    twins.switched(2, pointer="canary")
    twins.marked(1, "fenced")


@pytest.mark.parametrize("digest", ["", "Ä:1", "s1:" + "0" * 600, "s1"])
def test_digests_that_say_nothing_have_no_twins(machine: Machine, digest: str) -> None:
    for data in (b"1", b"2"):
        assert isinstance(machine.publish(data, semantic_digest=digest), Published)
    machine.switched(2)
    machine.marked(1, "fenced")
    outcome = machine.publish(b"3", semantic_digest=digest)
    assert isinstance(outcome, Published)
    assert outcome.notes == ()


def test_below_level_2_bytes_alone_are_fenced(machine: Machine) -> None:
    machine.level = 1
    twins = with_twins(machine)
    twins.switched(3)
    assert isinstance(twins.mark(1, "fenced"), Marked)
    assert twins.dump()[FENCES] == []
    assert isinstance(twins.switch(3), Switched)
    assert isinstance(twins.publish(b" 1", semantic_digest=TWIN), Published)
    twins.level = 2  # what was fenced before is honoured as it was meant then
    assert_rejected(twins.publish(b"1", semantic_digest=TWIN), Reason.DIGEST_FENCED)
    assert isinstance(twins.publish(b"  1", semantic_digest=TWIN), Published)
    twins.marked(1, "candidate")
    assert isinstance(twins.publish(b"1", semantic_digest=TWIN), Published)


def test_fences_of_level_2_say_nothing_to_level_1(twins: Machine) -> None:
    """Not that the level ever falls: whoever reads a rule must ask for the level, not for the rows."""
    twins.marked(1, "fenced")
    twins.level = 1
    assert isinstance(twins.switch(3), Switched)
