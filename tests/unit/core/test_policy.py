"""Policies: who says what, and what publishing and switching make of it."""

from __future__ import annotations

import pytest
from msgspec import structs

from registry.core import limits, policies
from registry.core.commands import KeepKey, Move
from registry.core.errors import Reason
from registry.core.model import Change, Policy
from registry.core.outcomes import KeyKept, PolicySet, Published, Switched
from registry.store.tables import POLICIES
from tests.unit.core.kit import START_MS, WORKFLOW, Machine, assert_rejected, without_request_memory

SCOPES = ["*", "support/*", WORKFLOW]


def publish_notes(machine: Machine, data: bytes, **fields: object) -> tuple[str, ...]:
    outcome = machine.publish(data, **fields)
    assert isinstance(outcome, Published)
    assert outcome.created
    return outcome.notes


# ---- setting
def test_fields_are_set_kept_and_taken_back(machine: Machine) -> None:
    assert machine.set_policy("support/*", checks="refuse", verdict="warn") == PolicySet(
        revision=2, scope="support/*", policy=Policy(checks="refuse", verdict="warn")
    )
    outcome = machine.set_policy("support/*", checks="", unchanged="warn")
    policy = Policy(unchanged="warn", verdict="warn")
    assert outcome == PolicySet(revision=3, scope="support/*", policy=policy)
    assert machine.rows.policy("support/*") == policy
    change = machine.rows.change(3)
    assert change is not None
    assert change == Change(
        revision=3, time_ms=change.time_ms, principal="ada", action="policy", reason="because",
        request_id=change.request_id, scope="support/*", policy=policy,
    )  # fmt: skip
    machine.set_policy("support/*", unchanged="", verdict="")
    assert machine.dump()[POLICIES] == []


def test_what_it_says_already_changes_nothing(machine: Machine) -> None:
    machine.set_policy("*", checks="refuse")
    assert machine.set_policy("*", checks="refuse", literals="") == PolicySet(
        revision=2, scope="*", policy=Policy(checks="refuse")
    )
    assert machine.registry.revision == 2


@pytest.mark.parametrize(
    ("scope", "fields", "reason"),
    [
        ("", {"checks": "warn"}, Reason.INVALID_NAME),
        ("support", {"checks": "warn"}, Reason.INVALID_NAME),
        ("*/*", {"checks": "warn"}, Reason.INVALID_NAME),
        ("*/triage", {"checks": "warn"}, Reason.INVALID_NAME),
        ("support/tri*", {"checks": "warn"}, Reason.INVALID_NAME),
        ("*", {}, Reason.INVALID_REQUEST),
        ("*", {"chekcs": "warn"}, Reason.INVALID_REQUEST),
        ("*", {"checks": "allow"}, Reason.INVALID_REQUEST),
        ("*", {"verdict": "WARN"}, Reason.INVALID_REQUEST),
        ("*", {"immutable_labels": "a, b"}, Reason.INVALID_REQUEST),
        ("*", {"immutable_labels": "a,,b"}, Reason.INVALID_REQUEST),
        ("*", {"immutable_labels": "[ab]"}, Reason.INVALID_REQUEST),
        ("*", {"immutable_labels": "ab," * limits.PATTERNS_CHARS}, Reason.TOO_LARGE),
    ],
)
def test_a_malformed_one_changes_nothing(machine: Machine, scope: str, fields: dict[str, str], reason: Reason) -> None:
    before = machine.dump()
    outcome = assert_rejected(machine.set_policy(scope, **fields), reason)
    assert machine.dump() == before
    if reason is Reason.INVALID_REQUEST and "immutable_labels" not in fields:
        allowed = policies.ALLOWED.get(next(iter(fields), ""), policies.FIELDS)
        assert all(word in outcome.hint for word in allowed)


# ---- which one decides
def test_the_narrowest_scope_that_says_something_decides_each_field(machine: Machine) -> None:
    assert policies.effective(machine.rows, WORKFLOW) == policies.DEFAULTS
    machine.set_policy("*", checks="refuse", unchanged="refuse", literals="refuse")
    machine.set_policy("support/*", unchanged="warn", verdict="confirm")
    machine.set_policy(WORKFLOW, literals="warn")
    rows = machine.rows
    assert policies.effective(rows, WORKFLOW) == Policy(
        unchanged="warn", checks="refuse", literals="warn", verdict="confirm"
    )
    assert policies.effective(rows, "support/other").literals == "refuse"
    assert policies.effective(rows, "support/*").unchanged == "warn"
    assert policies.effective(rows, "support-2/triage").unchanged == "refuse"
    assert policies.effective(rows, "*").verdict == "block"
    assert [policies.source(rows, WORKFLOW, field) for field in policies.FIELDS] == [
        "support/*", "*", WORKFLOW, "support/*", "", "", "", "",
    ]  # fmt: skip
    assert [scope for scope, _ in policies.said(rows, WORKFLOW)] == SCOPES


# ---- publishing
@pytest.mark.parametrize(("value", "start"), [("", "means the same"), ("allow", "means"), ("warn", "warning: means")])
def test_a_publish_that_means_the_same_says_so(machine: Machine, value: str, start: str) -> None:
    machine.set_policy("*", unchanged=value)
    assert publish_notes(machine, b"1", semantic_digest="s1:a") == ()
    (note,) = publish_notes(machine, b"1 ", semantic_digest="s1:a")
    assert note.startswith(start)
    assert note.endswith("means the same as version 1: only layout or formatting changed")
    assert publish_notes(machine, b"1  ", semantic_digest="s2:a") == ()
    assert publish_notes(machine, b"1", semantic_digest="s1:a") == (), "compared with the newest only"


def test_another_secret_value_is_more_than_layout(machine: Machine) -> None:
    machine.set_policy("*", unchanged="refuse")
    for content, value in ((b"1", "a"), (b"1 ", "b")):
        assert publish_notes(machine, content, semantic_digest="s1:a", secrets={"TOKEN": value}) == ()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_publish_that_means_the_same_is_refused_by_policy(machine: Machine, scope: str) -> None:
    machine.set_policy(scope, unchanged="refuse")
    publish_notes(machine, b"1", semantic_digest="s1:a")
    before = without_request_memory(machine.dump(), machine.registry)
    outcome = assert_rejected(machine.publish(b"1 ", semantic_digest="s1:a"), Reason.SAME_SEMANTICS)
    assert (outcome.metadata["version"], outcome.metadata["scope"]) == ("1", scope)
    assert without_request_memory(machine.dump(), machine.registry) == before
    same = machine.publish(b"1", semantic_digest="s1:a")
    assert isinstance(same, Published)
    assert not same.created, "the same bytes create nothing, as ever"


@pytest.mark.parametrize(
    ("field", "carried", "reason"),
    [("checks", "findings", Reason.CHECKS_FAILED), ("literals", "literals", Reason.SECRETS_FOUND)],
)
def test_findings_are_refused_by_policy(machine: Machine, field: str, carried: str, reason: Reason) -> None:
    found = {carried: ("an edge leads nowhere", "two nodes have one id", "no start")}
    assert publish_notes(machine, b"1", **found) == ()
    machine.set_policy(WORKFLOW, **{field: "refuse"})
    outcome = assert_rejected(machine.publish(b"2", **found), reason)
    assert "an edge leads nowhere (and 2 more)" in outcome.message
    assert f"policy {field} of {WORKFLOW}" in outcome.message
    assert outcome.metadata["findings"].splitlines() == list(found[carried])
    assert publish_notes(machine, b"2") == ()


# ---- switching
@pytest.fixture
def strict(machine: Machine) -> Machine:
    """Three versions, the first is active; switches are taken up to verdict `warn`. Revision 6."""
    machine.published(b"1", b"2", b"3")
    machine.switched(1)
    machine.set_policy("support/*", verdict="warn")
    return machine


def move(machine: Machine, target: int, verdict: str, verdict_from: int, **fields: bool) -> object:
    asked = Move(workflow=WORKFLOW, pointer="active", target=target, verdict=verdict, verdict_from=verdict_from)
    return machine.apply(machine.switch_command(asked, **fields))


@pytest.mark.parametrize("verdict", policies.VERDICTS)
@pytest.mark.parametrize("worst", policies.VERDICTS)
def test_a_switch_is_taken_with_a_verdict_that_is_good_enough(strict: Machine, worst: str, verdict: str) -> None:
    strict.set_policy(WORKFLOW, verdict=worst)
    outcome = move(strict, 2, verdict, 1)
    if policies.VERDICTS.index(verdict) <= policies.VERDICTS.index(worst):
        assert isinstance(outcome, Switched)
        return
    refused = assert_rejected(outcome, Reason.VERDICT_REFUSED)  # type: ignore[arg-type]
    assert (refused.metadata["verdict"], refused.metadata["policy"]) == (verdict, worst)
    assert f"policy verdict of {WORKFLOW}" in refused.message
    assert "--force" in refused.hint
    assert strict.pointer().version == 1


def test_a_verdict_from_another_version_is_outdated(strict: Machine) -> None:
    for verdict, verdict_from in (("", 0), ("ok", 0), ("ok", 2), ("", 1)):
        outcome = assert_rejected(move(strict, 2, verdict, verdict_from), Reason.VERDICT_OUTDATED)  # type: ignore[arg-type]
        assert outcome.metadata["version"] == "1"
    assert strict.pointer().version == 1


def test_a_pointer_that_was_never_switched_is_judged_from_0(strict: Machine) -> None:
    asked = Move(workflow=WORKFLOW, pointer="canary", target=2, verdict="ok", verdict_from=1)
    assert_rejected(strict.apply(strict.switch_command(asked)), Reason.VERDICT_OUTDATED)
    assert isinstance(strict.apply(strict.switch_command(structs.replace(asked, verdict_from=0))), Switched)


def test_an_outdated_verdict_is_found_again_for_the_same_request(strict: Machine) -> None:
    asked = Move(workflow=WORKFLOW, pointer="active", target=2, verdict="ok", verdict_from=9)
    command = strict.switch_command(asked)
    before = strict.dump()
    assert_rejected(strict.apply(command), Reason.VERDICT_OUTDATED)
    assert strict.dump() == before
    again = structs.replace(command, moves=(structs.replace(asked, verdict_from=1),))
    outcome = strict.apply(again)
    assert isinstance(outcome, Switched)
    assert strict.apply(command) == outcome


def test_the_way_back_and_force_need_no_verdict(strict: Machine) -> None:
    strict.set_policy(WORKFLOW, verdict="ok")
    assert isinstance(strict.switch(2, force=True), Switched)
    assert isinstance(strict.rollback(), Switched)
    assert isinstance(strict.rollback(2, force=True, keep_status=True), Switched)
    assert isinstance(strict.rollback(1), Switched)
    assert isinstance(strict.rollback(1), Switched), "what it names already"
    assert isinstance(strict.switch(3, force=True), Switched)


def test_a_rollback_to_what_the_pointer_never_named_is_no_way_around_the_policy(strict: Machine) -> None:
    strict.set_policy(WORKFLOW, verdict="block")
    strict.switched(3, pointer="canary")
    strict.set_policy(WORKFLOW, verdict="confirm")
    before = without_request_memory(strict.dump(), strict.registry)
    outcome = assert_rejected(strict.rollback(3), Reason.VERDICT_REFUSED)
    assert f"active of {WORKFLOW} never named version 3" in outcome.message
    assert f"policy verdict of {WORKFLOW}" in outcome.message
    assert f"regctl switch {WORKFLOW}@3 --pointer active" in outcome.hint
    assert "--force" in outcome.hint
    assert outcome.metadata == {
        "workflow": WORKFLOW,
        "pointer": "active",
        "version": "1",
        "target": "3",
        "policy": "confirm",
        "scope": WORKFLOW,
    }
    assert without_request_memory(strict.dump(), strict.registry) == before
    assert isinstance(strict.rollback(3, pointer="canary"), Switched)
    assert isinstance(strict.rollback(3, force=True, keep_status=True), Switched)
    assert isinstance(strict.rollback(1), Switched)
    strict.set_policy(WORKFLOW, verdict="block")
    assert isinstance(strict.rollback(2), Switched), "a policy that takes all asks nothing"


def test_what_was_named_is_looked_for_in_a_limited_number_of_switches(
    strict: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        assert isinstance(strict.switch(2, force=True), Switched)
    monkeypatch.setattr(limits, "ROLLBACK_SWITCHES", 3)
    assert_rejected(strict.rollback(1), Reason.VERDICT_REFUSED)
    monkeypatch.setattr(limits, "ROLLBACK_SWITCHES", 4)
    assert isinstance(strict.rollback(1), Switched)


def test_every_move_of_a_switch_is_judged(strict: Machine) -> None:
    good = Move(workflow=WORKFLOW, pointer="active", target=2, verdict="ok", verdict_from=1)
    bad = Move(workflow=WORKFLOW, pointer="canary", target=2, verdict="confirm")
    assert_rejected(strict.apply(strict.switch_command(good, bad)), Reason.VERDICT_REFUSED)
    assert strict.pointer().version == 1


# ---- the key of fingerprints
def test_the_first_key_is_kept(machine: Machine) -> None:
    def keep(key: bytes) -> KeepKey:
        return KeepKey(request_id=machine.request_id(), time_ms=START_MS, key=key)

    assert_rejected(machine.apply(keep(b"1" * 31)), Reason.INVALID_REQUEST)
    before = machine.registry
    assert machine.apply(keep(b"1" * 32)) == KeyKept(revision=1)
    assert machine.apply(keep(b"2" * 32)) == KeyKept(revision=1)
    assert machine.registry == structs.replace(before, fingerprint_key=b"1" * 32)


# ---- older releases
def test_below_level_2_there_are_no_policies(strict: Machine) -> None:
    strict.set_policy("*", unchanged="refuse", checks="refuse")
    strict.level = 1
    before = strict.dump()
    assert_rejected(strict.set_policy("*", checks="warn"), Reason.LEVEL_TOO_LOW)
    key = KeepKey(request_id=strict.request_id(), time_ms=START_MS, key=b"1" * 32)
    assert_rejected(strict.apply(key), Reason.LEVEL_TOO_LOW)
    assert strict.dump() == before
    assert isinstance(strict.switch(2), Switched)
    assert isinstance(strict.rollback(3), Switched)
    assert publish_notes(strict, b"3 ", semantic_digest="s1:33", findings=("broken",)) == ()
