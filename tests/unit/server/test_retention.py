"""What is asked of retention, hold and purge, over tables in memory."""

from __future__ import annotations

from typing import Any

import pytest

from registry.core import commands, limits
from registry.core.commands import Purge, Repack, Retain
from registry.core.errors import Conflict, NotFound, Reason, Refused, RegistryError, Unavailable
from registry.server.budget import Budget
from registry.server.limits import PURGE_ATTEMPTS
from registry.store import content
from registry.v1 import registry_pb2
from tests.unit.server.lone_cluster import Member, near

WORKFLOW = "support/triage"


@pytest.fixture
async def member() -> Member:
    made = Member()
    await made.index()
    return made


def retain(workflow: str = "", *, dry_run: bool = False) -> registry_pb2.RetainRequest:
    return registry_pb2.RetainRequest(workflow=workflow, dry_run=dry_run, principal="ada")


def purge(reference: str, workflow: str = WORKFLOW, *, dry_run: bool = False) -> registry_pb2.PurgeRequest:
    return registry_pb2.PurgeRequest(
        workflow=workflow, reference=reference, reason="a key", principal="ada", dry_run=dry_run
    )


async def reason_of(call: Any) -> Reason:
    with pytest.raises(RegistryError) as caught:
        await call
    return caught.value.reason


async def test_of_one_workflow_all_versions_are_told_of_all_only_what_goes(member: Member) -> None:
    await member.chain(WORKFLOW, near(4))
    await member.chain("a/b", near(3, 2000))
    await member.policy("*", keep_last="2")
    of_one = await member.retention.retain(retain(WORKFLOW, dry_run=True), 5.0)
    assert [(each.version, bool(each.kept_by)) for each in of_one.versions] == [
        (4, True),
        (3, True),
        (2, False),
        (1, False),
    ]
    of_all = await member.retention.retain(retain(dry_run=True), 5.0)
    assert [(each.workflow, each.version) for each in of_all.versions] == [("a/b", 1), (WORKFLOW, 2), (WORKFLOW, 1)]
    assert (of_all.removed, of_all.kept) == (3, 4)
    assert member.cluster.of(Retain) == member.cluster.of(Repack) == []
    done = await member.retention.retain(retain(), 5.0)
    assert (done.removed, done.kept, done.freed_bytes) == (3, 4, of_all.freed_bytes)
    assert {command.reason for command in member.cluster.of(Retain)} == {"retention was asked for"}


async def test_workflows_without_a_policy_are_not_looked_at_and_too_little_time_is_said(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    await member.chain("a/b", near(3))
    await member.chain(WORKFLOW, near(3))
    await member.policy(WORKFLOW, keep_last="1")
    done = await member.retention.retain(retain(dry_run=True), 5.0)
    assert (done.removed, done.kept) == (2, 1)
    monkeypatch.setattr(Budget, "left_s", lambda _: 0.0)
    with pytest.raises(Unavailable, match="nothing was removed"):
        await member.retention.retain(retain(dry_run=True), 5.0)


async def test_time_that_is_over_in_the_middle_is_said_and_what_was_done_stays(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never as if there was no majority, or as if nothing had been done."""
    monkeypatch.setattr(limits, "RETAINED", 2)
    await member.chain(WORKFLOW, near(6))
    await member.policy(WORKFLOW, keep_last="1")
    with pytest.raises(Unavailable, match="nothing was removed") as refused:
        await member.repacker.free([content.digest(near(6)[4])], Budget(0.0))
    assert refused.value.reason is Reason.BUSY
    monkeypatch.setattr(Budget, "left_s", lambda _: 0.0 if member.cluster.of(Retain) else 5.0)
    with pytest.raises(Unavailable, match="2 contents of support/triage were removed") as refused:
        await member.retention.retain(retain(WORKFLOW), 5.0)
    assert refused.value.reason is Reason.BUSY
    assert len(member.cluster.of(Retain)) == 1


async def test_what_a_rule_keeps_by_the_time_it_is_decided_stays_and_is_told(member: Member) -> None:
    await member.chain(WORKFLOW, near(3))
    await member.policy("*", keep_last="1")
    plan = await member.retention.plan(WORKFLOW)
    await member.apply(commands.Hold(**member.stamp(), principal="ada", workflow=WORKFLOW, version=1, reason="audit"))
    done = await member.retention.let_go(WORKFLOW, plan, "ada", "because", Budget(5.0))
    assert [version.number for version in done.removed] == [2]
    assert member.cluster.rows.has_content(content.digest(near(3)[0]))


async def test_bytes_that_another_workflow_has_are_not_counted_as_freed(member: Member) -> None:
    await member.publish(WORKFLOW, b"shared")
    await member.publish(WORKFLOW, b"newest")
    await member.publish("a/b", b"shared")
    await member.policy(WORKFLOW, keep_last="1")
    done = await member.retention.retain(retain(WORKFLOW), 5.0)
    assert (done.removed, done.freed_bytes) == (1, 0)
    assert member.cluster.rows.has_content(content.digest(b"shared"))


async def test_the_index_must_be_complete_and_the_workflow_there() -> None:
    member = Member()
    await member.publish(WORKFLOW, b"one")
    assert await reason_of(member.retention.retain(retain(), 5.0)) is Reason.NOT_INDEXED
    assert await reason_of(member.retention.purge(purge("1"), 5.0)) is Reason.NOT_INDEXED
    await member.index()
    assert await reason_of(member.retention.retain(retain("no/such"), 5.0)) is Reason.WORKFLOW_NOT_FOUND


async def test_what_rests_on_purged_bytes_is_packed_again_first(member: Member) -> None:
    made = near(3)
    await member.chain(WORKFLOW, made)
    shown = await member.retention.purge(purge("1", dry_run=True), 5.0)
    assert member.cluster.of(Repack) == member.cluster.of(Purge) == []
    done = await member.retention.purge(purge("1"), 5.0)
    assert (shown.digest, shown.removed) == (done.digest, done.removed)
    assert (shown.info.revision, done.info.revision) == (3, 4)
    rows = member.cluster.rows
    assert [content.unpack(rows, content.digest(data)) for data in made[1:]] == made[1:]
    with pytest.raises(NotFound) as caught:
        await member.retention.purge(purge("1"), 5.0)
    assert caught.value.reason is Reason.CONTENT_REMOVED


async def test_a_purge_is_tried_again_while_others_pack_over_its_bytes(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publish comes between each look and each attempt."""
    made = near(PURGE_ATTEMPTS + 2)
    base = content.Base(content.digest(made[0]), made[0], 0)
    await member.publish(WORKFLOW, made[0])
    free, later = member.repacker.free, iter(made[1:])

    async def then_published(*arguments: Any) -> None:
        await free(*arguments)
        data = next(later)
        await member.publish(WORKFLOW, data, content.pack(data, [base]))

    monkeypatch.setattr(member.repacker, "free", then_published)
    with pytest.raises(Conflict) as caught:
        await member.retention.purge(purge("1"), 5.0)
    assert caught.value.reason is Reason.BASE_OUTDATED
    assert len(member.cluster.of(Purge)) == PURGE_ATTEMPTS
    monkeypatch.undo()
    assert (await member.retention.purge(purge("1"), 5.0)).digest == base.digest


async def test_a_preview_names_backups_and_agents_and_refuses_as_the_purge_would(member: Member) -> None:
    await member.publish(WORKFLOW, b"one")
    await member.publish(WORKFLOW, b"two")
    for revision, name in ((0, "before"), (1, "holds it")):
        backup = commands.Backup(revision=revision, index=9, taken_ms=1, member=name)
        await member.apply(commands.NoteBackup(**member.stamp(), backup=backup))
    await switched(member, 1)
    ack = commands.Ack(
        agent="edge-1", incarnation="i", sequence=1, workflow=WORKFLOW, pointer="active", generation=1,
        phase="confirmed", running_digest=content.digest(b"one"),
    )  # fmt: skip
    await member.apply(commands.Acknowledge(**member.stamp(), acks=(ack,)))
    with pytest.raises(Refused) as caught:
        await member.retention.purge(purge("1", dry_run=True), 5.0)
    assert caught.value.reason is Reason.VERSION_IN_USE
    await switched(member, 2)
    shown = await member.retention.purge(purge("1", dry_run=True), 5.0)
    assert ([each.member for each in shown.backups], list(shown.agents)) == (["holds it"], ["edge-1"])
    done = await member.retention.purge(purge("1"), 5.0)
    assert (done.backups, done.agents) == (shown.backups, shown.agents)


async def switched(member: Member, version: int) -> None:
    move = commands.Move(workflow=WORKFLOW, pointer="active", target=version)
    await member.apply(commands.Switch(**member.stamp(), principal="ada", moves=(move,), reason="because"))
