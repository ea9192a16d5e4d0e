"""Which versions keep their content, and what goes with the others."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from registry.core import limits, retention
from registry.core.commands import Ack, Contact, ForgetAgents, ForgottenAgent, Hold, Retain
from registry.core.errors import Reason
from registry.core.model import Change, Content, Removed, RemovedVersion, Version
from registry.core.outcomes import AgentsForgotten, Held, Published, Purged, Rejected
from registry.store import content
from registry.store.state import StoreState
from tests.unit.core.kit import START_MS, WORKFLOW, Machine, assert_rejected, without_request_memory

DAY_MS = 24 * 60 * 60 * 1000


def planned(machine: Machine, now_ms: int = START_MS) -> dict[int, tuple[str, ...]]:
    """Newest first, as it is."""
    return {version.number: rules for version, rules in retention.plan(machine.rows, WORKFLOW, now_ms)}


def data(number: int) -> bytes:
    return b"%d" % number


def digest(number: int) -> str:
    return content.digest(data(number))


@pytest.fixture
def machine(machine: Machine) -> Machine:
    """Six versions, and what is not one of the last two goes."""
    machine.published(*map(data, range(1, 7)))
    machine.indexed()
    machine.set_policy("*", keep_last="2")
    return machine


def agrees(machine: Machine) -> dict[int, tuple[str, ...]]:
    """Planner and apply say the same."""
    rules = planned(machine)
    assert retention.kept_by(machine.rows, WORKFLOW, range(1, 9)) == rules
    return rules


# ---- rules
def test_the_newest_and_the_last_ones_stay(machine: Machine) -> None:
    rules = agrees(machine)
    assert list(rules) == [6, 5, 4, 3, 2, 1]
    assert rules == {6: ("newest", "last"), 5: ("last",), 4: (), 3: (), 2: (), 1: ()}
    machine.set_policy("*", keep_last="0")
    assert agrees(machine)[6] == ("newest",)


@pytest.mark.parametrize("fields", [{"keep_last": ""}, {"keep_last": "all"}, {"keep_days": "all"}])
def test_without_a_policy_everything_stays(machine: Machine, fields: dict[str, str]) -> None:
    machine.set_policy("*", **fields)
    assert all(rules[0] == "all" for rules in agrees(machine).values())
    keep_days = fields.get("keep_days", "")
    assert machine.retain(1, 2, keep_days=keep_days).kept == {1: "all", 2: "all"}


def test_each_class_counts_by_itself(machine: Machine) -> None:
    machine.set_policy("*", keep_last="published=1,periodic=2,terminal=0")
    for number, snapshot in enumerate(["periodic", "manual", "periodic", "terminal", "periodic", "manual"], start=7):
        outcome = machine.publish(data(number), snapshot=snapshot)
        assert isinstance(outcome, Published)
        assert outcome.version.snapshot == snapshot
    rules = planned(machine)
    assert retention.kept_by(machine.rows, WORKFLOW, range(1, 13)) == rules
    assert [number for number, kept in rules.items() if "last" in kept] == [12, 11, 9, 8, 6]


def test_versions_that_lost_their_content_are_not_counted(machine: Machine) -> None:
    machine.switched(1)
    assert isinstance(machine.purge(5), Purged)
    assert [number for number, rules in agrees(machine).items() if "last" in rules] == [6, 4]


def test_what_is_named_marked_or_run_stays(machine: Machine) -> None:
    machine.switched(1, 3)
    machine.marked(4, "stable")
    machine.label(2, {"team": "x"})
    assert agrees(machine) == {
        6: ("newest", "last"),
        5: ("last",),
        4: ("stable",),
        3: ("pointer",),
        2: ("labelled",),
        1: ("previous",),
    }
    machine.order(Hold, version=1)
    assert agrees(machine)[1] == ("previous", "held")


def test_what_a_rollback_would_pick_stays(machine: Machine) -> None:
    machine.switched(1, 2, 3, 4)
    machine.marked(3, "failed")
    assert [number for number, rules in agrees(machine).items() if "previous" in rules] == [2]
    machine.marked(1, "stable")
    assert [number for number, rules in agrees(machine).items() if "previous" in rules] == [1]
    machine.rollback()
    assert machine.pointer().version == 1


def test_what_agents_run_or_are_switching_to_stays(machine: Machine) -> None:
    machine.switched(1, 2, 3, 4)
    machine.marked(3, "failed")
    ack = Ack(
        agent="edge", incarnation="i", sequence=1, workflow=WORKFLOW, pointer="active", generation=3,
        phase="installed", running_generation=1, running_version=1,
    )  # fmt: skip
    machine.acknowledge(ack)
    assert {number: rules for number, rules in agrees(machine).items() if "agent" in rules} == {
        3: ("agent",), 1: ("agent",),
    }  # fmt: skip


def test_what_a_forgotten_agent_ran_may_go(machine: Machine) -> None:
    machine.switched(1, 6)
    machine.set_policy("*", agents_expire_days="7")
    ack = Ack(
        agent="edge", incarnation="i", sequence=1, workflow=WORKFLOW, pointer="active", generation=1,
        phase="confirmed", running_generation=1, running_version=1,
    )  # fmt: skip
    machine.acknowledge(ack, contacts=(Contact(agent="edge", time_ms=100),))
    machine.marked(1, "failed")  # no rollback would pick it
    assert agrees(machine)[1] == ("agent",)
    assert machine.retain(1).removed == ()
    gone = ForgottenAgent(agent="edge", rows=((WORKFLOW, "active"),), heard_ms=100, entirely=True)
    assert machine.order(ForgetAgents, agents=(gone,)) == AgentsForgotten(revision=machine.registry.revision, rows=1)
    assert agrees(machine)[1] == ()
    assert [each.version for each in machine.retain(1).removed] == [1]


def test_too_many_agents_keep_everything(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RETENTION_AGENTS", 0)
    assert agrees(machine)[1] == ()
    machine.switched(6)
    machine.acknowledge(
        Ack(
            agent="e", incarnation="i", sequence=1, workflow=WORKFLOW, pointer="active", generation=1, phase="installed"
        )
    )
    assert agrees(machine)[1] == ("agent",)


def test_the_young_stay(machine: Machine) -> None:
    machine.set_policy("*", keep_last="", keep_days="3")
    created_ms = machine.version(4).created_ms
    rules = planned(machine, created_ms + 3 * DAY_MS)
    assert [number for number, kept in rules.items() if "young" in kept] == [6, 5]
    assert rules[4] == ()


def test_apply_keeps_what_it_does_not_reach(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RETENTION_SEARCHED", 1)
    assert retention.kept_by(machine.rows, WORKFLOW, [1, 4]) == {4: ("last",), 1: ("last",)}
    monkeypatch.setattr(limits, "RETENTION_SEARCHED", 2)
    assert retention.kept_by(machine.rows, WORKFLOW, [1, 4]) == {4: (), 1: ()}


# ---- letting go
def test_content_goes_and_the_rest_stays(machine: Machine) -> None:
    before = machine.version(2)
    outcome = machine.retain(1, 2, 5, 1, 90)
    removed = (
        RemovedVersion(workflow=WORKFLOW, version=1, digest=digest(1)),
        RemovedVersion(workflow=WORKFLOW, version=2, digest=digest(2)),
    )
    assert (outcome.removed, outcome.kept) == (removed, {5: "last"})
    change = machine.rows.change(outcome.revision)
    assert change == Change(
        revision=outcome.revision, time_ms=change.time_ms if change else 0, principal="ada", action="retention",
        reason="because", request_id=change.request_id if change else "", workflows=(WORKFLOW,), removed=removed,
    )  # fmt: skip
    after = machine.version(2)
    assert after.removed == Removed(
        cause="retention", revision=outcome.revision, time_ms=change.time_ms, principal="ada", reason="because"
    )
    assert (after.digest, after.message, after.size_bytes) == (before.digest, before.message, before.size_bytes)
    assert machine.rows.digest(WORKFLOW, digest(2)) is not None
    assert [machine.rows.has_content(digest(number)) for number in range(1, 7)] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    assert [list(machine.rows.holders(digest(number))) for number in (2, 3)] == [[], [(WORKFLOW, 3)]]
    assert list(planned(machine)) == [6, 5, 4, 3]


def test_nothing_to_let_go_of_is_no_change(machine: Machine) -> None:
    machine.retain(1)
    before = machine.dump()
    outcome = machine.retain(1, 6, 77)
    assert (outcome.removed, outcome.kept, outcome.revision) == ((), {6: "newest, last"}, machine.registry.revision)
    assert machine.dump() == before


def test_bytes_that_another_version_has_stay(machine: Machine) -> None:
    machine.publish(data(1), "other/one")
    assert len(machine.retain(1).removed) == 1
    assert machine.rows.has_content(digest(1))
    assert list(machine.rows.holders(digest(1))) == [("other/one", 1)]
    machine.publish(b"new", "other/one")
    machine.set_policy("*", keep_last="1")
    assert len(machine.retain(1, workflow="other/one").removed) == 1
    assert not machine.rows.has_content(digest(1))


def test_a_base_stays_as_long_as_its_deltas(machine: Machine) -> None:
    delta = Content(encoding="delta", data=b"x", size_bytes=1, base=digest(1), depth=1)
    machine.publish(b"7", content=delta)
    deeper = Content(encoding="delta", data=b"x", size_bytes=1, base=digest(7), depth=2)
    machine.publish(b"8", "other/one", content=deeper)
    machine.publish(b"9")
    machine.publish(b"10")
    assert list(machine.rows.deltas(digest(1))) == [digest(7)]
    outcome = machine.retain(1, 2, 7)
    assert outcome.kept == {1: f"base of {WORKFLOW}@7", 7: "base of other/one@1"}
    assert [removed.version for removed in outcome.removed] == [2]
    machine.publish(b"11", "other/one")
    machine.set_policy("*", keep_last="1")
    machine.retain(1, workflow="other/one")
    assert [removed.version for removed in machine.retain(1, 7).removed] == [1, 7]
    assert not machine.dump()["deltas"]


def test_a_policy_that_was_changed_meanwhile_keeps_what_age_was_judged_by(machine: Machine) -> None:
    machine.set_policy("*", keep_days="90")
    assert machine.retain(1, keep_days="30").kept == {1: "young"}
    assert len(machine.retain(1, keep_days="90").removed) == 1


def test_not_before_all_holders_are_known() -> None:
    machine = Machine()
    machine.found()
    machine.published(b"1", b"2")
    assert_rejected(machine.order(Retain, versions=(1,)), Reason.NOT_INDEXED)
    assert_rejected(machine.order(Retain, versions=(1,), workflow="no/such"), Reason.WORKFLOW_NOT_FOUND)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"versions": ()}, Reason.INVALID_REQUEST),
        ({"versions": (0,)}, Reason.INVALID_REQUEST),
        ({"versions": tuple(range(1, limits.RETAINED + 2))}, Reason.TOO_LARGE),
        ({"versions": (1,), "reason": ""}, Reason.REASON_REQUIRED),
        ({"versions": (1,), "workflow": "x"}, Reason.INVALID_NAME),
    ],
)
def test_a_malformed_one_is_refused(machine: Machine, fields: dict[str, Any], reason: Reason) -> None:
    assert_rejected(machine.order(Retain, **fields), reason)


# ---- afterwards
def test_a_version_without_content_is_neither_switched_to_nor_picked(machine: Machine) -> None:
    machine.switched(1, 2, 3)
    machine.marked(1, "failed")
    machine.marked(2, "failed")
    assert {removed.version for removed in machine.retain(1, 2).removed} == {1, 2}
    before = machine.dump(), machine.registry
    for force in (False, True):
        outcome = assert_rejected(machine.switch(2, force=force), Reason.CONTENT_REMOVED)
        assert outcome.metadata["cause"] == "retention"
    machine.marked(1, "candidate")
    assert_rejected(machine.rollback(), Reason.NO_ROLLBACK_TARGET)
    assert machine.pointer().version == 3
    assert without_request_memory(*before)["pointers"] == machine.dump()["pointers"]


def test_bytes_may_be_published_again(machine: Machine) -> None:
    machine.retain(1)
    outcome = machine.publish(data(1))
    assert isinstance(outcome, Published)
    assert (outcome.version.number, outcome.version.removed) == (7, None)
    assert machine.rows.has_content(digest(1))
    assert machine.version(1).removed is not None


def test_the_newest_bytes_are_new_again_once_they_are_gone(machine: Machine) -> None:
    """No rule lets go of the newest version; should it be gone all the same, its bytes come back."""
    removed = Removed(cause="retention", revision=1, time_ms=1)
    state = StoreState(machine.environment.transaction(), level=machine.level)
    state.put_version(structs.replace(machine.version(6), removed=removed))
    outcome = machine.publish(data(6))
    assert isinstance(outcome, Published)
    assert (outcome.created, outcome.version.number) == (True, 7)


# ---- holding
def test_hold_and_no_longer(machine: Machine) -> None:
    outcome = machine.order(Hold, version=1, reason="audit")
    assert isinstance(outcome, Held)
    assert outcome.version == machine.version(1)
    assert outcome.version.hold == "audit"
    change = machine.rows.change(outcome.revision)
    assert change is not None
    assert (change.action, change.version, change.workflows) == ("hold", outcome.version, (WORKFLOW,))
    assert machine.retain(1).kept == {1: "held"}
    revision = machine.registry.revision
    assert machine.order(Hold, version=1, reason="audit") == outcome
    assert machine.registry.revision == revision
    released = machine.order(Hold, version=1, hold=False)
    assert isinstance(released, Held)
    assert released.version.hold == ""
    assert len(machine.retain(1).removed) == 1
    assert_rejected(machine.order(Hold, version=1), Reason.CONTENT_REMOVED)
    assert isinstance(machine.order(Hold, version=1, hold=False), Held)


def test_a_retry_of_a_hold_gets_the_same_answer(machine: Machine) -> None:
    command = machine.command(Hold, version=1, reference="oldest")
    outcome = machine.apply(command)
    machine.order(Hold, version=1, hold=False)
    assert machine.apply(command) == outcome
    assert machine.version(1).hold == ""


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 90}, Reason.VERSION_NOT_FOUND),
        ({"version": 1, "workflow": "no/such"}, Reason.WORKFLOW_NOT_FOUND),
        ({"version": 0}, Reason.INVALID_REQUEST),
        ({"version": 1, "reason": " "}, Reason.REASON_REQUIRED),
    ],
)
def test_a_hold_of_nothing(machine: Machine, fields: dict[str, Any], reason: Reason) -> None:
    assert isinstance(assert_rejected(machine.order(Hold, **fields), reason), Rejected)


def test_a_version_says_what_it_is_kept_for(machine: Machine) -> None:
    found: list[Version] = [version for version, _ in retention.plan(machine.rows, WORKFLOW, START_MS)]
    assert found == list(machine.rows.versions(WORKFLOW, 100))
    with pytest.raises(KeyError):
        retention.plan(machine.rows, "no/such", START_MS)
