from __future__ import annotations

import dataclasses

import msgspec

from registry.client import convert as client
from registry.core import impact, model, outcomes
from registry.server import convert
from registry.store import queries
from registry.v1 import registry_pb2


def report(contact: model.LastContact) -> queries.AgentReport:
    target = model.Pointer(workflow="a/b", pointer="active", version=1, digest="d", generation=3, revision=9)
    agent = model.Agent(
        agent="edge-1",
        workflow="a/b",
        pointer="active",
        incarnation="i",
        sequence=1,
        generation=3,
        phase="confirmed",
        running_generation=3,
        running_digest="d",
    )
    return queries.AgentReport(agent, contact, target)


def test_age_counts_from_the_last_contact_and_is_never_negative() -> None:
    row = report(model.LastContact(time_ms=5_000))
    shown = convert.agent(row, now_ms=7_500)
    assert (shown.generation, shown.target_generation, shown.age_ms, shown.state) == (3, 3, 2_500, "current")
    assert convert.agent(row, now_ms=4_000).age_ms == 0
    assert convert.agent(row, now_ms=126_000).state == "silent"


def test_twins_are_shown_until_they_are_over() -> None:
    row = report(model.LastContact(time_ms=5_000, session="b", previous_session="a", twins_ms=4_000))
    assert convert.agent(row, now_ms=603_999).twins
    assert not convert.agent(row, now_ms=604_000).twins
    assert client.agent_row(convert.agent(row, now_ms=5_000)).twins


def test_who_publishes_the_newest_bytes_with_other_needs_is_told() -> None:
    version = model.Version(
        workflow="a/b", number=3, digest="d", value_digest="", semantic_digest="", kind="json", size_bytes=1,
        needs=("dify>=1.9", "cap:gpu"),
    )  # fmt: skip
    same = outcomes.Published(revision=1, version=version, created=False)
    assert convert.unkept_needs(same, ["cap:gpu", "dify>=1.9"]) == []
    assert convert.unkept_needs(same, []) == []
    assert convert.unkept_needs(msgspec.structs.replace(same, created=True), ["dify"]) == []
    assert "version 3 has these bytes and needs dify>=1.9, cap:gpu" in convert.unkept_needs(same, ["dify"])[0]


def test_rows_cross_the_wire_whole() -> None:
    """What the client makes of a message is what the member had: no field is forgotten on either side."""
    version = model.Version(
        workflow="a/b",
        number=3,
        digest="sha256:1",
        value_digest="v1:2",
        semantic_digest="s1:3",
        kind="dify",
        size_bytes=9,
        status="stable",
        parents=(1, 2),
        author="ann",
        created_ms=5,
        message="m",
        labels={"semver": "v1.0.0"},
        facts={"nodes": "4"},
        revision=7,
        requires=("a/c", "n8n:4"),
        secrets={"environment.TOKEN": "k1:ab"},
        summary="1 node added",
        change="minor",
        snapshot="manual",
        hold="audit",
        removed=model.Removed(cause="purge", revision=9, time_ms=10, principal="ann", reason="a key"),
        needs=("dify>=1.9",),
    )
    pointer = model.Pointer(
        workflow="a/b",
        pointer="active",
        version=3,
        digest="d",
        previous_version=2,
        generation=1,
        revision=7,
        reason="why",
        principal="ann",
        time_ms=8,
        rollback=True,
        not_before_ms=9,
        deadline_ms=10,
    )
    policy = model.Policy(
        unchanged="warn",
        checks="refuse",
        literals="warn",
        verdict="ok",
        immutable_labels="x-*",
        keep_last="3",
        keep_days="all",
        agents_expire_days="never",
    )
    change = model.Change(
        revision=7,
        time_ms=8,
        principal="ann",
        action="policy",
        reason="why",
        request_id="r",
        workflows=("a/b",),
        version=version,
        pointers=(pointer,),
        previous_status="candidate",
        status_changes=(model.StatusChange(workflow="a/b", version=3, previous_status="candidate", status="stable"),),
        epoch=2,
        scope="a/*",
        policy=policy,
        forced=True,
        removed=(model.RemovedVersion(workflow="a/b", version=3, digest="sha256:1"),),
    )
    for row in (version, pointer, policy, change):
        left_out = [name for name in row.__struct_fields__ if not getattr(row, name)]
        assert not left_out, "give every field a value, or this test does not see it"
    assert client.version(convert.version(version)) == version
    assert client.pointer(convert.pointer(pointer)) == pointer
    assert client.policy(convert.policy(policy)) == policy
    assert client.change(convert.change(change)) == change


def test_impact_and_policies_cross_the_wire_whole() -> None:
    info = registry_pb2.ReplyInfo()
    dependent = impact.Dependent("a/c", 2, ("active", "canary"), "a/b", "a/d", 2)
    reply = client.impact(convert.impact(impact.Impact((dependent,), more=True), info))
    assert reply.more
    assert msgspec.structs.asdict(reply.dependents[0]) == dataclasses.asdict(dependent)
    scopes = (("*", model.Policy(checks="refuse")), ("a/*", model.Policy(verdict="ok")))
    in_force = queries.PolicyInForce(model.Policy(verdict="ok", checks="refuse"), scopes)
    found = client.policy_in_force(convert.policy_in_force(in_force, info))
    assert (found.effective, tuple(found.scopes.items())) == (in_force.effective, scopes)
