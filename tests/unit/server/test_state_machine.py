from __future__ import annotations

import asyncio

import pytest

from cluster.kv.memory_env import MemoryEnvironment
from registry.core import commands, outcomes, request_ids
from registry.core.limits import FEATURE_LEVEL
from registry.core.model import Registry
from registry.server.feed import Feed
from registry.server.state_machine import RegistryStateMachine
from registry.store import content, queries, tables
from tests.unit.server.lone_cluster import Member

FOUND = commands.encode(commands.Found(request_id=request_ids.make(1, bytes(10)), time_ms=1, cluster_id="c1"))
BEGIN_EPOCH = commands.encode(
    commands.BeginEpoch(
        request_id=request_ids.make(2, bytes(10)), time_ms=2, principal="ada", cause="recover", reason="all was lost"
    )
)


def founded() -> MemoryEnvironment:
    environment = MemoryEnvironment(tables.TABLES)
    RegistryStateMachine(Feed(Registry()), environment).apply(environment.transaction(), FOUND, FEATURE_LEVEL)
    environment.commit()
    return environment


def test_what_was_applied_is_told_once_it_is_committed() -> None:
    environment, feed = MemoryEnvironment(tables.TABLES), Feed(Registry())
    machine = RegistryStateMachine(feed, environment)
    machine.apply(environment.transaction(), FOUND, FEATURE_LEVEL)
    assert feed.registry.revision == 0
    environment.commit()
    machine.committed()
    assert (feed.registry.revision, feed.registry.cluster_id) == (1, "c1")


async def test_an_installed_state_wakes_polls_and_watches_and_forgets_what_was_open() -> None:
    environment, feed = founded(), Feed(Registry())
    machine = RegistryStateMachine(feed, environment)
    moved: list[object] = []
    feed.follow(moved.append)
    watch = asyncio.create_task(feed.revision(1, 60.0))
    await asyncio.sleep(0)
    machine.installed()
    assert await watch
    assert moved == [None]
    with environment.snapshot() as reader:
        assert feed.registry == queries.registry(reader)


def test_a_new_epoch_wakes_every_poll() -> None:
    """No pointer moved, and yet what agents have does not count any more."""
    environment = founded()
    with environment.snapshot() as reader:
        feed = Feed(queries.registry(reader))
    machine = RegistryStateMachine(feed, environment)
    moved: list[object] = []
    feed.follow(moved.append)
    machine.apply(environment.transaction(), BEGIN_EPOCH, FEATURE_LEVEL)
    environment.commit()
    machine.committed()
    assert moved == [None]
    assert feed.registry.epoch == 2


@pytest.mark.parametrize(("level", "decided"), [(1, outcomes.Rejected), (2, outcomes.PolicySet)])
def test_commands_are_decided_at_the_level_of_their_place_in_the_log(level: int, decided: type) -> None:
    environment = founded()
    machine = RegistryStateMachine(Feed(Registry()), environment)
    command = commands.SetPolicy(
        request_id=request_ids.make(3, bytes(10)), time_ms=3, principal="ada", scope="*", fields={"checks": "refuse"},
        reason="because",
    )  # fmt: skip
    outcome = outcomes.decode(machine.apply(environment.transaction(), commands.encode(command), level))
    assert type(outcome) is decided


async def test_a_purge_makes_the_log_forget_once_and_is_told_when_it_is_committed() -> None:
    member, told = Member(), []
    await member.index()
    await member.publish("a/b", b"one")
    environment = member.cluster.environment
    machine = RegistryStateMachine(Feed(Registry()), environment, lambda *removed: told.append(removed))
    purge = commands.Purge(
        **member.stamp(),
        principal="ada",
        workflow="a/b",
        version=1,
        digest=content.digest(b"one"),
        reason="because",
    )
    assert not machine.forget_log()
    machine.apply(environment.transaction(), commands.encode(purge), FEATURE_LEVEL)
    assert [machine.forget_log(), machine.forget_log()] == [True, False]
    assert told == []
    environment.commit()
    machine.committed()
    assert told == [("purge", 1)]
    machine.apply(environment.transaction(), FOUND, FEATURE_LEVEL)
    assert not machine.forget_log()


async def test_a_publish_that_lost_against_a_purge_leaves_the_log_too() -> None:
    """It was proposed before: its entry brings the bytes back."""
    member, told = Member(), []
    await member.index()
    await member.publish("a/b", b"one")
    environment = member.cluster.environment
    machine = RegistryStateMachine(Feed(Registry()), environment, lambda *removed: told.append(removed))
    digest = content.digest(b"one")
    purge = commands.Purge(**member.stamp(), principal="", workflow="a/b", version=1, digest=digest, reason="because")
    again = commands.Publish(
        **member.stamp(),
        principal="",
        workflow="a/c",
        kind="text",
        digest=digest,
        value_digest=digest,
        semantic_digest=digest,
        content=content.encode(b"one"),
    )
    machine.apply(environment.transaction(), commands.encode(purge), FEATURE_LEVEL)
    machine.forget_log()
    machine.apply(environment.transaction(), commands.encode(again), FEATURE_LEVEL)
    assert [machine.forget_log(), machine.forget_log()] == [True, False]
    environment.commit()
    machine.committed()
    assert told == [("purge", 1), ("refused", 0)]


async def test_a_fetched_state_may_know_of_purges() -> None:
    told: list[tuple[str, int]] = []
    machine = RegistryStateMachine(Feed(Registry()), founded(), lambda *removed: told.append(removed))
    machine.installed()
    assert told == [("purge", 0)]


async def test_agents_that_report_or_are_forgotten_are_told_once_it_is_committed() -> None:
    environment, heard = founded(), list[object]()
    with environment.snapshot() as reader:
        feed = Feed(queries.registry(reader))
    feed.hear(heard.append)
    machine, member = RegistryStateMachine(feed, environment), Member()

    def ack(agent: str, pointer: str) -> commands.Ack:
        return commands.Ack(
            agent=agent, incarnation="i", sequence=1, workflow="a/b", pointer=pointer, generation=1, phase="installed"
        )

    acks = (ack("edge-1", "active"), ack("edge-2", "active"), ack("edge-1", "canary"))
    gone = commands.ForgottenAgent(agent="edge-3", rows=(("a/b", "canary"),), entirely=True)
    for command in (
        commands.Acknowledge(**member.stamp(), acks=acks),
        commands.ForgetAgents(**member.stamp(), agents=(gone,)),
    ):
        machine.apply(environment.transaction(), commands.encode(command), FEATURE_LEVEL)
    assert heard == []
    environment.commit()
    machine.committed()
    assert heard == [{("a/b", "active"): {"edge-1", "edge-2"}, ("a/b", "canary"): {"edge-1", "edge-3"}}]
    machine.apply(environment.transaction(), FOUND, FEATURE_LEVEL)
    environment.commit()
    machine.committed()
    assert len(heard) == 1
