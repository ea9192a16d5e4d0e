"""The SDK against three real members: what a caller sees of races, deaths and pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster, LocalMember
from registry.client import Client, Follow, Move, PollRequest
from registry.core import commands
from registry.core.errors import Conflict, Invalid, NotFound, Reason, Refused, RegistryError
from registry.core.limits import LARGE_CONTENT_BYTES


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.stop())


async def leader_of(cluster: LocalCluster) -> LocalMember:
    async with Client(cluster.endpoints) as client:
        while not (name := (await client.status()).leader):
            await asyncio.sleep(0.02)
    return cluster[name]


async def publish(client: Client, workflow: str, count: int = 3) -> None:
    for number in range(1, count + 1):
        await client.publish(workflow, b'{"number": %d}' % number)


async def test_publish_switch_rollback(cluster):
    async with Client(cluster.endpoints, principal="alice") as client:
        first = await client.publish("sdk/walk", b'{"a": 1}', message="first", labels={"semver": "v1.0.0"})
        again = await client.publish("sdk/walk", b'{"a": 1}')
        second = await client.publish("sdk/walk", b'{"a": 2}\n')
        assert (first.number, first.created, first.kind, first.author) == (1, True, "json", "alice")
        assert (again.number, again.created) == (1, False)
        assert await client.content("sdk/walk", 2) == b'{"a": 2}\n'
        assert await client.content("sdk/walk", "v1.0.0") == b'{"a": 1}'
        live = await client.switch("sdk/walk", 1, expected_generation=0, reason="go live")
        assert (live.version, live.generation, live.principal) == (1, 1, "alice")
        await client.mark("sdk/walk", 1, "stable", reason="proven")
        await client.switch("sdk/walk", second.number, expected_generation=1, reason="next")
        back = await client.rollback("sdk/walk", reason="5xx")
        assert (back.version, back.previous_version, back.generation, back.rollback) == (1, 2, 3, True)
        assert await client.pointer("sdk/walk") == back
        assert (await client.version("sdk/walk", 2)).status == "failed"
        assert [change.action async for change in client.history("sdk/walk", page_size=2)] == [
            *("rollback", "switch", "mark", "switch"),
            *("publish", "publish"),
        ]
        assert [version.number async for version in client.versions("sdk/walk", page_size=1)] == [2, 1]
        assert [row.name async for row in client.workflows("sdk/walk")] == ["sdk/walk"]
        comparison = await client.compare("sdk/walk", 1, "sdk/walk", 2)
        assert comparison.summary
        assert comparison.comparison["changes"]


async def test_refusals_carry_what_a_caller_needs(cluster):
    async with Client(cluster.endpoints) as client:
        await publish(client, "sdk/refuse")
        await client.switch("sdk/refuse", 1, reason="one")
        with pytest.raises(Conflict) as mismatch:
            await client.switch("sdk/refuse", 2, expected_generation=7, reason="two")
        assert mismatch.value.reason is Reason.GENERATION_MISMATCH
        assert mismatch.value.metadata["generation"] == "1"
        with pytest.raises(NotFound) as missing:
            await client.version("sdk/refuse", 9)
        assert missing.value.reason is Reason.VERSION_NOT_FOUND
        for size_bytes in (1024 * 1024 + 1, 8 * 1024 * 1024 + 1):
            with pytest.raises(Refused) as unread:
                await client.publish("sdk/refuse", bytes(size_bytes))
            assert unread.value.reason is Reason.KIND_MISMATCH
        with pytest.raises(Invalid) as large:
            await client.publish("sdk/refuse-large", bytes(LARGE_CONTENT_BYTES + 1))
        assert large.value.reason is Reason.TOO_LARGE


async def test_several_pointers_move_all_or_none(cluster):
    async with Client(cluster.endpoints) as client:
        await publish(client, "sdk/many-a")
        await publish(client, "sdk/many-b")
        done = await client.switch_many([Move("sdk/many-a", 1), Move("sdk/many-b", 2)], reason="both")
        assert len({pointer.revision for pointer in done.pointers}) == 1
        with pytest.raises(NotFound):
            await client.switch_many([Move("sdk/many-a", 2), Move("sdk/many-b", 9)], reason="one is missing")
        assert (await client.pointer("sdk/many-a")).version == 1


async def test_of_two_with_the_same_expectation_one_wins(cluster):
    async with Client(cluster.endpoints[0]) as one, Client(cluster.endpoints[1]) as two:
        await publish(one, "sdk/race")
        for generation in range(50):
            outcomes = await asyncio.gather(
                one.switch("sdk/race", 1, expected_generation=generation, reason="one"),
                two.switch("sdk/race", 2, expected_generation=generation, reason="two"),
                return_exceptions=True,
            )
            refused = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
            assert len(refused) == 1, outcomes
            assert refused[0].metadata["generation"] == str(generation + 1)


async def test_hundreds_of_concurrent_calls_each_have_their_own_outcome(cluster):
    async with Client(cluster.endpoints) as client:
        names = [f"sdk/wide-{number}" for number in range(300)]
        await asyncio.gather(*(client.publish(name, b"{}") for name in names))
        calls = [client.switch(name, 1 + number % 2, reason="go") for number, name in enumerate(names)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        for number, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
            if number % 2:
                assert isinstance(outcome, NotFound)
            else:
                assert not isinstance(outcome, BaseException)
                assert (outcome.workflow, outcome.generation) == (name, 1)


async def test_an_agent_is_told_at_once_and_its_report_is_listed(cluster):
    async with Client(cluster.endpoints) as operator, Client(cluster.endpoints) as edge:
        await publish(operator, "sdk/edge", 1)
        request = PollRequest(agent="edge-1", site="eu", follows=(Follow(workflow="sdk/edge"),), wait_ms=20_000)
        polling = asyncio.create_task(edge.poll(request))
        live = await operator.switch("sdk/edge", 1, reason="go")
        (instruction,) = (await polling).instructions
        assert (instruction.generation, instruction.version.number) == (live.generation, 1)
        content = await edge.content(
            "sdk/edge", instruction.version.number, stale=True, min_revision=instruction.min_revision
        )
        assert content == b'{"number": 1}'
        ack = commands.Ack(
            agent="edge-1",
            incarnation="i1",
            sequence=1,
            site="eu",
            workflow="sdk/edge",
            pointer="active",
            generation=live.generation,
            phase="confirmed",
            running_generation=live.generation,
            running_version=1,
            running_digest=instruction.version.digest,
        )
        await edge.acknowledge([ack])
        (row,) = [row async for row in operator.agents("sdk/edge")]
        assert (row.agent, row.version, row.generation, row.state) == ("edge-1", 1, live.generation, "current")


async def test_writes_continue_when_the_leader_is_killed(cluster):
    leader = await leader_of(cluster)
    async with Client(leader.address) as client:  # the others are learned
        await publish(client, "sdk/failover")
        before = await client.switch("sdk/failover", 1, reason="before")
        async with asyncio.timeout(5):
            while len(client.endpoints) < 3:
                await asyncio.sleep(0.01)
        leader.kill()
        after = await client.switch("sdk/failover", 2, reason="after")
        assert after.generation == before.generation + 1
        assert (await client.pointer("sdk/failover")) == after
        await cluster.restart(leader.name)
    async with Client(leader.address) as client:
        assert (await client.pointer("sdk/failover")) == after


async def test_a_paused_leader_does_not_eat_the_deadline(cluster):
    leader = await leader_of(cluster)
    async with Client(cluster.endpoints) as client:
        await publish(client, "sdk/pause")
        await client.switch("sdk/pause", 1, reason="before")
        leader.pause()
        try:
            after = await client.switch("sdk/pause", 2, reason="while the leader sleeps")
        finally:
            leader.resume()
        assert after.generation == 2
    async with Client(leader.address) as client:
        assert (await client.pointer("sdk/pause")) == after


async def test_a_watch_sees_every_change_once_over_the_death_of_members(cluster):
    async with Client(cluster.endpoints) as client:
        await publish(client, "sdk/watched")
        start = await client.switch("sdk/watched", 1, reason="start")
        seen: list[int] = []

        async def watch() -> None:
            async with aclosing(client.watch(["sdk/watched"], from_revision=start.revision)) as changes:
                async for change in changes:
                    seen.append(change.pointers[0].generation)
                    if len(seen) == 40:
                        return

        watching = asyncio.create_task(watch())
        for number in range(39):
            if number in (10, 25):
                victim = (await leader_of(cluster)) if number == 10 else cluster["n1"]
                victim.kill()
                await client.switch("sdk/watched", 1 + number % 3, reason="a member is dead")
                await cluster.restart(victim.name)
            else:
                await client.switch("sdk/watched", 1 + number % 3, reason="go")
        async with asyncio.timeout(20):
            await watching
        assert seen == list(range(1, 41))


async def test_everything_acknowledged_outlives_the_death_of_all(tmp_path: Path):
    async with LocalCluster(tmp_path) as cluster:
        acknowledged: dict[str, int] = {}

        async def load(client: Client, name: str) -> None:
            try:
                while True:
                    pointer = await client.switch(name, 1, reason="load", timeout_s=1.0)
                    acknowledged[name] = pointer.generation
            except RegistryError:
                return

        async with Client(cluster.endpoints) as client:
            names = [f"sdk/crash-{number}" for number in range(20)]
            await asyncio.gather(*(client.publish(name, b"{}") for name in names))
            loads = [asyncio.create_task(load(client, name)) for name in names]
            async with asyncio.timeout(20):
                while min(acknowledged.get(name, 0) for name in names) < 5:
                    await asyncio.sleep(0.01)
            for member in cluster.members.values():
                member.kill()
            await asyncio.gather(*loads)
            await cluster.start()
            for name in names:
                assert (await client.pointer(name)).generation >= acknowledged[name]
