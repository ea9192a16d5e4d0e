from __future__ import annotations

import dataclasses
from typing import get_args

import msgspec
import pytest

from registry.client import convert as client
from registry.core import impact, model
from registry.server import convert
from registry.store import queries
from registry.v1 import registry_pb2


def report(generation: int, phase: model.Phase, running_generation: int) -> model.Agent:
    return model.Agent(
        agent="edge-1",
        workflow="a/b",
        pointer="active",
        incarnation="i",
        sequence=1,
        generation=generation,
        phase=phase,
        running_generation=running_generation,
    )


@pytest.mark.parametrize(
    ("generation", "phase", "running", "state"),
    [
        (3, "installed", 3, "installing"),
        (3, "confirmed", 3, "current"),
        (3, "reverted", 2, "error"),
        (3, "refused", 2, "error"),
        (2, "confirmed", 2, "behind"),
        (2, "refused", 1, "behind"),
    ],
)
def test_an_agents_state_is_seen_from_the_pointers_generation(
    generation: int, phase: model.Phase, running: int, state: str
) -> None:
    assert phase in get_args(model.Phase)
    assert convert.agent_state(report(generation, phase, running), 3, age_ms=60_000) == state
    assert convert.agent_state(report(generation, phase, running), 3, age_ms=121_000) == "silent"


def test_age_counts_from_the_last_contact_and_is_never_negative() -> None:
    target = model.Pointer(workflow="a/b", pointer="active", version=1, digest="", generation=3, revision=9)
    row = queries.AgentReport(report(3, "reverted", 2), 5_000, target)
    shown = convert.agent(row, now_ms=7_500)
    assert (shown.generation, shown.target_generation, shown.age_ms) == (2, 3, 2_500)
    assert convert.agent(row, now_ms=4_000).age_ms == 0


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
    )
    policy = model.Policy(
        unchanged="warn",
        checks="refuse",
        literals="warn",
        verdict="ok",
        immutable_labels="x-*",
        keep_last="3",
        keep_days="all",
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
        pointers=(model.Pointer(workflow="a/b", pointer="active", version=3, digest="d", generation=1, revision=7),),
        previous_status="candidate",
        status_changes=(model.StatusChange(workflow="a/b", version=3, previous_status="candidate", status="stable"),),
        epoch=2,
        scope="a/*",
        policy=policy,
        forced=True,
        removed=(model.RemovedVersion(workflow="a/b", version=3, digest="sha256:1"),),
    )
    for row in (version, policy, change):
        left_out = [name for name in row.__struct_fields__ if not getattr(row, name)]
        assert not left_out, "give every field a value, or this test does not see it"
    assert client.version(convert.version(version)) == version
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
