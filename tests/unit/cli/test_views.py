"""What is printed: JSON as promised, tables that fit 80 columns."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console, RenderableType

from registry.cli import tables, views
from registry.client import (
    AgentRow,
    ClusterStatus,
    Dependent,
    Impact,
    MemberStatus,
    PolicyInForce,
    Published,
    ReplyInfo,
    SiteSummary,
    WaitingMember,
    WorkflowSummary,
)
from registry.core.model import Change, Pointer, Policy, Removed, StatusChange, Version
from registry.core.outcomes import Switched

NAME = "support-department/customer-triage-with-a-long-name"
DIGEST = "sha256:" + "ab" * 32
TIME_MS = 1_770_000_000_123


def a_version(**changes: object) -> Version:
    fields = {
        "workflow": NAME,
        "number": 12,
        "digest": DIGEST,
        "value_digest": "v1:" + "cd" * 32,
        "semantic_digest": "s1:" + "ef" * 32,
        "kind": "dify",
        "size_bytes": 305_000,
        "author": "alice",
        "created_ms": TIME_MS,
        "message": "a shorter prompt, and temperature down, because answers were long\nsecond line",
        "labels": {"semver": "v1.4.0"},
        "revision": 70,
    }
    return msgspec.convert(fields | changes, Version)


def a_pointer(**changes: object) -> Pointer:
    fields = {
        "workflow": NAME,
        "pointer": "active",
        "version": 12,
        "digest": DIGEST,
        "previous_version": 11,
        "generation": 42,
        "revision": 71,
        "reason": "5xx since 02:40, all regions, on call decided to go back",
        "principal": "alice@example.com",
        "time_ms": TIME_MS,
    }
    return msgspec.convert(fields | changes, Pointer)


def rendered(table: RenderableType, width: int = 80) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(table)
    return file.getvalue()


REMOVED = Removed(
    cause="retention", revision=80, time_ms=TIME_MS, principal="registry", reason="policy of *: keep_last=2"
)


def a_change(**changes: object) -> Change:
    fields = {"revision": 71, "time_ms": TIME_MS, "principal": "alice", "action": "switch", "workflows": [NAME]}
    return msgspec.convert(fields | changes, Change)


ROLLBACK = a_change(
    action="rollback",
    reason="5xx",
    pointers=[a_pointer()],
    status_changes=[StatusChange(workflow=NAME, version=12, previous_status="stable", status="failed")],
)


def a_publish(**changes: object) -> Published:
    return msgspec.convert(msgspec.to_builtins(a_version()) | {"created": True} | changes, Published)


def test_publish_has_exactly_the_promised_fields():
    assert list(views.published(a_publish())) == [
        *("workflow", "version", "digest", "value_digest", "semantic_digest", "kind", "size_bytes"),
        *("status", "created", "revision", "summary", "change", "verdict", "findings", "notes"),
    ]


def test_publish_says_what_changed_then_the_worst_findings_then_notes():
    findings = [{"code": "x", "level": "warn", "text": f"warning {number}"} for number in range(12)]
    findings += [{"code": "cycle", "level": "block", "text": "runs go\nin a circle", "where": "Classify"}]
    value = a_publish(
        summary="1 node added", change="major", verdict="block", findings=findings, notes=["1 secret value \x1b[2J"]
    )
    lines = views.publish_lines(value)
    assert lines[:3] == [
        "  1 node added (major change, verdict block)",
        "  block: runs go in a circle (Classify)",
        "  warn: warning 0",
    ]
    assert lines[-2:] == ["  and 3 more findings; -o json shows them", "  note: 1 secret value �[2J"]
    assert views.publish_lines(a_publish()) == []
    assert views.publish_lines(a_publish(created=False, summary="identical", notes=["nothing new"])) == [
        "  note: nothing new"
    ]


def test_a_change_of_labels_or_policy_says_what_holds_now():
    labelled = a_change(action="label", version=a_version())
    assert views.what(labelled) == "version 12 has semver=v1.4.0"
    ruled = a_change(action="policy", scope="a/*", policy=Policy(verdict="ok", checks="refuse"), workflows=[])
    assert views.what(ruled) == "a/* says checks=refuse verdict=ok"
    assert views.change(ruled)["policy"]["verdict"] == "ok"


def test_what_is_held_and_what_was_removed_is_said():
    assert views.what(a_change(action="hold", version=a_version(hold="audit"))) == "version 12 is held"
    assert views.what(a_change(action="hold", version=a_version())) == "version 12 is no longer held"
    gone = [{"workflow": name, "version": each, "digest": DIGEST} for name in (NAME, "a/b") for each in (3, 1, 2, 7)]
    purged = a_change(action="purge", removed=gone)
    assert views.what(purged) == f"content of a/b 1-3, 7; {NAME} 1-3, 7 removed"
    assert views.what(purged, NAME) == "content of 1-3, 7 removed"
    assert views.change(purged)["removed"][0] == gone[0]
    assert "removed" not in views.change(a_change())
    assert views.removed_words(None) == ""
    assert views.removed_words(REMOVED) == "removed 2026-02-02 by retention"
    assert views.version(a_version())["removed"] is None


def test_numbers_that_follow_one_another_are_one_range():
    assert views.ranges([]) == ""
    assert views.ranges([5, 1, 2, 3, 9, 10]) == "1-3, 5, 9-10"


def a_dependent(name: str, **changes: object) -> Dependent:
    fields = {"workflow": name, "version": 4, "pointers": ("active",), "via": NAME, "through": "", "distance": 1}
    return msgspec.convert(fields | changes, Dependent)


IMPACT = Impact(
    dependents=(
        *(a_dependent(f"support/answer-{number}") for number in range(4)),
        a_dependent(f"{NAME}-more", distance=2, through="support/answer-0", via="support/answer-0", pointers=()),
    ),
    more=False,
)


def test_impact_counts_and_names_the_nearest():
    said = "4 direct, 1 indirect: support/answer-0, support/answer-1, support/answer-2 and 2 more"
    assert views.impact_words(IMPACT) == said
    assert views.impact_words(Impact(dependents=(), more=False)) == "nobody"


def test_a_policy_says_which_scope_decides():
    found = PolicyInForce(
        effective=Policy(unchanged="allow", checks="refuse", literals="warn", verdict="ok"),
        scopes={"*": Policy(checks="refuse", verdict="warn"), "a/*": Policy(verdict="ok")},
    )
    shown = {tuple(line.split()) for line in rendered(tables.policy(found)).splitlines()}
    assert {("checks", "refuse", "*"), ("verdict", "ok", "a/*"), ("unchanged", "allow", "default")} <= shown
    assert ("immutable_labels", "-", "default") in shown


def test_switch_has_the_promised_fields_and_times_in_rfc_3339():
    one = views.switched(Switched(revision=71, pointers=(a_pointer(),)))
    promised = "workflow pointer version previous_version generation revision reason principal time"
    assert set(promised.split()) <= set(one)
    assert one["time"] == "2026-02-02T02:40:00.123Z"
    both = views.switched(Switched(revision=71, pointers=(a_pointer(), a_pointer(workflow="a/b"))), took_ms=4.2)
    assert [row["workflow"] for row in both] == [NAME, "a/b"]
    assert [row["took_ms"] for row in both] == [4.2, 4.2]


def test_when_agents_may_install_it_is_said_wherever_a_switch_is_shown():
    pointer = a_pointer(not_before_ms=TIME_MS, deadline_ms=TIME_MS + 3_600_000)
    shown = views.pointer(pointer)
    assert (shown["not_before"], shown["deadline"]) == ("2026-02-02T02:40:00.123Z", "2026-02-02T03:40:00.123Z")
    window = "not before 2026-02-02 02:40:00 UTC and no later than 2026-02-02 03:40:00 UTC"
    assert views.moved(pointer) == f"active 11 -> 12 (generation 42), {window}"
    assert window in views.what(a_change(pointers=[pointer]))
    assert window in " ".join(rendered(tables.pointer(pointer), 200).split())
    assert views.window(0, TIME_MS) == "no later than 2026-02-02 02:40:00 UTC"
    plain = views.pointer(a_pointer())
    assert (plain["not_before"], plain["deadline"]) == ("", "")
    assert views.moved(a_pointer()) == "active 11 -> 12 (generation 42)"


def test_needs_are_shown_with_their_version():
    value = a_version(needs=["dify>=1.9", "cap:gpu"])
    assert views.version(value)["needs"] == ("dify>=1.9", "cap:gpu")
    assert "dify>=1.9, cap:gpu" in rendered(tables.version(value))


def test_status_has_the_promised_fields():
    value = views.status(a_status())
    assert {"cluster_id", "leader", "term", "revision", "members"} <= set(value)
    promised = "name role address datacenter alive applied_index lag"
    assert set(promised.split()) <= set(value["members"][0])


def a_status() -> ClusterStatus:
    member = MemberStatus(
        id="registry-eu-central-1a",
        name="registry-eu-central-1a",
        role="observer",
        address="registry-eu-central-1a.internal.example.com:7400",
        peer_address="10.0.0.1:7401",
        datacenter="eu-central-1",
        alive=False,
        applied_index=123_456_789,
        lag=1_234,
    )
    info = ReplyInfo(revision=9, served_by="n1", cluster_id="c1", epoch=1, leader="")
    process = WaitingMember(
        id="registry-eu-central-1b/0123456789abcdef",
        name="registry-eu-central-1b",
        role="voter",
        address="",
        peer_address="registry-eu-central-1b.internal.example.com:7401",
        datacenter="eu-central-1",
        alive=True,
        feature_level=1,
        command="regctl cluster add registry-eu-central-1b",
    )
    return ClusterStatus(
        info=info,
        leader="n1",
        term=3,
        commit_index=9,
        members=(member,),
        version="0.1.0",
        waiting=(process,),
        fetching="12 of 90 MiB from n2",
    )


def test_status_ends_with_who_waits_and_what_should_worry():
    said = " ".join(rendered(tables.status(a_status()), width=100).split())
    assert "admit it: regctl cluster add registry-eu-central-1b" in said
    assert "n1 fetches: 12 of 90 MiB from n2" in said
    assert "warning: registry-eu-central-1a is not heard" in said
    assert "cluster c1, term 3, revision 9" in said


def test_a_step_of_membership_says_who_votes_now():
    made = views.membership("n4/aa", "voter", a_status(), ["noted"])
    assert made == {"id": "n4/aa", "name": "n4", "role": "voter", "voters": 0, "may_fail": 0, "notes": ["noted"]}


def an_agent() -> AgentRow:
    return AgentRow(
        agent="edge-frankfurt-0123",
        site="eu-central-1",
        labels={},
        workflow=NAME,
        pointer="active",
        version=12,
        digest=DIGEST,
        generation=42,
        target_generation=43,
        state="error",
        code="PROBE_FAILED",
        detail="GET http://127.0.0.1:9000/health answered 503 three times in a row",
        reported_ms=TIME_MS,
        age_ms=3_700_000,
    )


TOLD = a_version(
    change="major",
    summary="4 nodes added, 1 removed, 7 changed; model gpt-4o-mini -> gpt-4.1-mini in 'Classify'; 9 edges added",
    requires=[f"support/workflow-number-{number}" for number in range(9)],
    secrets={"environment.ACCESS_TOKEN_OF_THE_CRM": "k1:" + "ab" * 12, "b": "k1:" + "cd" * 12},
)
TABLES = {
    "versions": lambda: tables.versions([TOLD]),
    "versions of all": lambda: tables.versions([TOLD], with_names=True),
    "impact": lambda: tables.impact(NAME, IMPACT),
    "policy": lambda: tables.policy(
        PolicyInForce(effective=Policy(immutable_labels="release-*," * 20), scopes={NAME: Policy(verdict="ok")})
    ),
    "versions without content": lambda: tables.versions([a_version(removed=msgspec.to_builtins(REMOVED))]),
    "version without content": lambda: tables.version(a_version(hold="audit", removed=msgspec.to_builtins(REMOVED))),
    "told": lambda: tables.version(TOLD),
    "workflows": lambda: tables.workflows(
        [
            WorkflowSummary(
                name=NAME,
                kind="dify",
                versions=12,
                created_ms=TIME_MS,
                pointers=(a_pointer(), a_pointer(pointer="canary")),
                newest=a_version(),
            )
        ]
    ),
    "history": lambda: tables.history([ROLLBACK], NAME),
    "history by force": lambda: tables.history([msgspec.structs.replace(ROLLBACK, forced=True)], NAME),
    "agents": lambda: tables.agents([an_agent()]),
    "status": lambda: tables.status(a_status()),
    "version": lambda: tables.version(a_version()),
    "pointer": lambda: tables.pointer(a_pointer()),
}


@pytest.mark.parametrize("name", list(TABLES))
def test_tables_fit_80_columns(name):
    assert max(map(len, rendered(TABLES[name]()).splitlines())) <= 80


def test_what_identifies_is_never_cut():
    assert "12  candidate  major   2026-02-02 02:40" in rendered(TABLES["versions"]())
    wide = rendered(tables.versions([a_version(change="major")], wide=True), width=120)
    assert "12  candidate  major   sha256:abababab  298 KiB  2026-02-02 02:40" in wide
    history = " ".join(rendered(TABLES["history"]()).split())
    assert "71 2026-02-02 02:40:00 rollback" in history
    words = set(history.split())
    assert {"failed", "5xx", "11", "12"} <= words


def test_what_others_wrote_cannot_drive_the_terminal():
    hostile = a_version(message="\x1b[2J[bold]gone[/bold]", author="\x07")
    text = rendered(tables.versions([hostile]), width=120) + rendered(tables.version(hostile))
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "[bold]gone[/bold]" in text
    assert "\x1b" not in views.line(a_change(reason="\x1b[2J"))


def test_a_change_is_one_line():
    assert views.line(ROLLBACK) == (
        f"71  2026-02-02 02:40:00Z  rollback  {NAME}  active 11 -> 12 (generation 42); "
        f"version 12 stable -> failed  alice: 5xx"
    )
    published = a_change(action="publish", version=a_version(), workflows=[NAME])
    assert views.line(published).endswith("version 12, 298 KiB  alice: " + a_version().message.replace("\n", " "))


def test_what_was_done_by_force_says_so():
    forced = a_change(forced=True)
    assert "  switch, forced  " in views.line(forced)
    assert (views.change(forced)["action"], views.change(forced)["forced"]) == ("switch", True)
    assert "forced" not in views.change(ROLLBACK)
    assert "switch, forced" in rendered(tables.history([forced], NAME), width=120)


def test_a_switch_of_several_names_each():
    change = a_change(pointers=[a_pointer(workflow="a/x"), a_pointer(workflow="a/y", previous_version=0)])
    assert views.what(change) == "a/x active 11 -> 12 (generation 42); a/y active none -> 12 (generation 42)"
    assert views.what(change, "a/y") == "active none -> 12 (generation 42)"


@pytest.mark.parametrize(("ms", "text"), [(400, "0.4 s"), (59_000, "59 s"), (200_000, "3 m"), (9_000_000, "2 h")])
def test_ages(ms, text):
    assert views.age(ms) == text


def test_status_changes_of_several_workflows_say_whose():
    change = Change(
        revision=9,
        time_ms=TIME_MS,
        principal="alice",
        action="rollback",
        workflows=("a/b", "a/c"),
        pointers=(a_pointer(workflow="a/b"), a_pointer(workflow="a/c")),
        status_changes=tuple(
            StatusChange(workflow=name, version=5, previous_status="candidate", status="failed")
            for name in ("a/b", "a/c")
        ),
    )
    assert "a/b version 5 candidate -> failed; a/c version 5 candidate -> failed" in views.what(change)
    assert "a/b version" not in views.what(change, "a/b")


def test_the_fleet_in_numbers_says_what_is_not_as_it_should_be() -> None:
    names = ("agents", "on_target", "behind", "nacked", "drifted", "silent", "twins", "generation", "oldest_contact_ms")
    counts = dict.fromkeys(names, 0) | {"agents": 9, "on_target": 5, "behind": 2, "nacked": 1, "silent": 1}
    site = SiteSummary(workflow="a/b", pointer="active", site="", version=3, oldest_behind_ms=4000, **counts)
    shown = Console(width=100, file=io.StringIO())
    shown.print(tables.sites([site]))
    assert shown.file.getvalue().splitlines()[1].rstrip().split(maxsplit=5) == [
        *("a/b:active", "-", "3", "9", "5"),
        "2 behind (4.0 s), 1 nacked, 1 silent",
    ]
