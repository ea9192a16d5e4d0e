"""The whole agent in this process: what comes with replies, guards, time, several lives."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from registry.agent import FileSpec, FollowSpec, ProbeSpec, limits
from registry.agent.guards import Identity, digest_of
from registry.agent.home import AgentFile, Home
from registry.agent.journal import Installed, Record
from registry.agent.transitions import State
from registry.core.delivery import Instruction
from tests.integration.agent_bench import WORKFLOW, Edge, shorten_waits, until
from tests.integration.fake_registry import FakeRegistry

HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def edge(tmp_path: Path, registry: FakeRegistry) -> Edge:
    return Edge(tmp_path, registry)


async def live(registry: FakeRegistry, data: bytes, **fields: Any) -> int:
    """Publishes and switches; the generation."""
    return await registry.switch(WORKFLOW, await registry.publish(WORKFLOW, data), **fields)


def record(edge: Edge) -> Record:
    found = Home(edge.state_dir).load_record(WORKFLOW, "active")
    assert found is not None
    return found


# What comes with a reply


async def test_content_that_comes_with_the_reply_is_not_fetched(edge: Edge, registry: FakeRegistry) -> None:
    registry.inline = True
    async with edge.running(facts={"dify": "1.9.2"}):
        for generation, data in enumerate((b"one" * 100, b"two" * 100, b"one" * 99), start=1):
            await live(registry, data)
            await registry.until_acked("confirmed", generation)
            assert edge.shown() == data
        await registry.switch(WORKFLOW, 1, rollback=True)
        await registry.until_acked("confirmed", 4)
        assert edge.shown() == b"one" * 100
        await until(lambda: registry.asked[-1].follows[0].generation == 4)
    assert registry.told == [(1, "full"), (2, "delta"), (3, "delta"), (4, "have")]
    assert registry.fetched == []
    last = registry.asked[-1]
    assert set(last.follows[0].kept) == {digest_of(b"two" * 100), digest_of(b"one" * 99)}
    assert last.facts["dify"] == "1.9.2"
    assert last.facts["agent"]
    assert {poll.session for poll in registry.asked} == {last.session}
    async with edge.running():
        await until(lambda: registry.asked[-1].session not in ("", last.session))


async def test_a_damaged_frame_is_replaced_by_full_content(edge: Edge, registry: FakeRegistry) -> None:
    registry.inline = registry.corrupt_frames = True
    with capture_logs() as logs:
        async with edge.running():
            for generation, data in enumerate((b"one" * 100, b"two" * 100), start=1):
                await live(registry, data)
                await registry.until_acked("confirmed", generation)
                assert edge.shown() == data
    assert [version for _, version in registry.fetched] == [1, 2]
    assert registry.bases == [b"", b""]
    assert sum("of no use" in line["event"] for line in logs) == 2
    assert not [ack for ack in registry.acks if ack.code], "a detour is no failure"


async def test_what_is_kept_no_longer_is_fetched(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running():
        for generation, data in enumerate((b"one", b"two"), start=1):
            await live(registry, data)
            await registry.until_acked("confirmed", generation)
        Home(edge.state_dir).content_path(digest_of(b"one")).unlink()
        await registry.switch(WORKFLOW, 1, rollback=True)
        await registry.until_acked("confirmed", 3)
    assert registry.told[-1] == (3, "have")
    assert edge.shown() == b"one"


async def test_on_another_base_full_content_is_taken(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running():
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
    await live(registry, b"missed")
    registry.inline = True
    await live(registry, b"three")
    with capture_logs() as logs:
        async with edge.running():
            await registry.until_acked("confirmed", 3)
    assert registry.told[-1] == (3, "delta")
    assert registry.bases[1:] == [b""]
    (line,) = [line for line in logs if line.get("code") == "BASE_MISMATCH"]
    assert (line["expected"], line["running"]) == (digest_of(b"missed"), digest_of(b"one"))


# What this machine refuses


@pytest.mark.parametrize(
    ("fields", "changes", "code"),
    [
        ({"needs": ("dify>=1.9",)}, {"facts": {"dify": "1.8.1"}}, "INCOMPATIBLE"),
        ({"deadline_ms": 1}, {}, "EXPIRED"),
        ({}, {"pre_check": "echo no room; exit 3"}, "CHECK_FAILED"),
    ],
)
async def test_a_refusal_is_told_once_and_stops_nothing_else(
    fields: dict[str, Any], changes: dict[str, Any], code: str, edge: Edge, registry: FakeRegistry
) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
    await live(registry, b"two", **fields)
    triage, router = (FileSpec(path) for path in (edge.path, edge.directory / "router.yml"))
    follows = (FollowSpec(WORKFLOW, "active", triage), FollowSpec("support/router", "active", router))
    with capture_logs() as logs:
        async with edge.running(follows=follows, **changes):
            nack = await registry.until_acked("refused", 2)
            assert (nack.code, nack.running_generation) == (code, 1)
            if code != "CHECK_FAILED":  # that hook is for both
                await registry.switch("support/router", await registry.publish("support/router", b"route"))
                await registry.until_acked("confirmed", 1, "support/router")
                await live(registry, b"three")
                await registry.until_acked("confirmed", 3)
    assert sum(line["event"].endswith("-> refuse") for line in logs) == 1
    assert len([ack for ack in registry.acks if ack.generation == 2]) == 1
    assert ((WORKFLOW, 2) in registry.fetched) is (code == "CHECK_FAILED"), "refused before anything is fetched"


async def test_what_was_refused_because_of_facts_is_looked_at_again_when_they_change(
    edge: Edge, registry: FakeRegistry
) -> None:
    await live(registry, b"one", needs=("dify>=1.9", "agent>=0.0.1"))
    async with edge.running(facts={"dify": "1.8.1"}):
        nack = await registry.until_acked("refused", 1)
        assert nack.detail == "needs dify>=1.9, and 1.8.1 is here"
    async with edge.running(facts={"dify": "1.9.2"}):
        await registry.until_acked("confirmed", 1)
    assert edge.shown() == b"one"


async def test_a_namespace_that_is_not_pinned_is_not_installed(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live(registry, b"one")
    agent = edge.agent()
    object.__setattr__(agent.config, "namespaces", ("billing",))  # which AgentConfig itself refuses, with this follow
    running = asyncio.create_task(agent.run())
    nack = await registry.until_acked("refused", 1)
    agent.stop()
    await running
    assert nack.code == "NOT_PINNED"
    assert edge.shown() is None


# Time


async def test_content_is_there_before_its_time_and_installed_at_it(edge: Edge, registry: FakeRegistry) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
        await live(registry, b"two", not_before_ms=edge.clock_ms() + HOUR_MS)
        await until(lambda: record(edge).state is State.HOLD)
        assert registry.fetched[-1] == (WORKFLOW, 2)
    assert edge.shown() == b"one"
    registry.unavailable = 10**9
    async with edge.running() as agent:
        await until(lambda: agent.status()["follows"][0]["step"] == "hold")
        edge.ahead_ms = HOUR_MS - 100_000
        reads = edge.clock_reads
        await until(lambda: edge.clock_reads > reads + 5)
        assert edge.shown() == b"one"
        assert agent.status()["follows"][0]["next"]["version"] == 2
        edge.ahead_ms = HOUR_MS
        await until(lambda: edge.shown() == b"two")
    registry.unavailable = 0
    async with edge.running():
        await registry.until_acked("confirmed", 2)
    assert len(registry.fetched) == 2


async def test_a_newer_instruction_ends_the_wait_and_a_missed_deadline_is_refused(
    edge: Edge, registry: FakeRegistry
) -> None:
    start_ms = edge.clock_ms() + HOUR_MS
    async with edge.running():
        await live(registry, b"one", not_before_ms=start_ms)
        await until(lambda: (edge.state_dir / "follows" / WORKFLOW / "active.json").exists())
        await until(lambda: record(edge).state is State.HOLD)
        await live(registry, b"two")
        await registry.until_acked("confirmed", 2)
        await live(registry, b"three", not_before_ms=start_ms, deadline_ms=start_ms + 1000)
        await until(lambda: record(edge).state is State.HOLD)
    edge.ahead_ms = 2 * HOUR_MS
    async with edge.running():
        assert (await registry.until_acked("refused", 3)).code == "EXPIRED"
    assert edge.shown() == b"two"
    assert not [ack for ack in registry.acks if ack.generation == 1]


async def test_nothing_unproven_stays_because_something_newer_is_too_early(edge: Edge, registry: FakeRegistry) -> None:
    gate = edge.directory / "gate"
    probe = ProbeSpec(f'grep -q one "$REGISTRY_PATH" || while ! test -e {gate}; do sleep 0.01; done', timeout_s=90)
    await live(registry, b"one")
    async with edge.running(probe=probe):
        await registry.until_acked("confirmed", 1)
        await live(registry, b"two")
        await registry.until_acked("installed", 2)
        polls = len(registry.asked)
        await live(registry, b"three", not_before_ms=edge.clock_ms() + HOUR_MS)
        await until(lambda: len(registry.asked) > polls)
        gate.touch()
        await registry.until_acked("confirmed", 2)
        await until(lambda: record(edge).state is State.HOLD)
        edge.ahead_ms = HOUR_MS
        await registry.until_acked("confirmed", 3)


async def test_what_is_superseded_before_it_is_proven_does_not_fill_the_disk(
    edge: Edge, registry: FakeRegistry
) -> None:
    probe = ProbeSpec('grep -q one "$REGISTRY_PATH" || sleep 60', timeout_s=90)
    await live(registry, b"one")
    async with edge.running(probe=probe):
        await registry.until_acked("confirmed", 1)
        for number in range(2, 8):
            await live(registry, b"not proven %d" % number)
            await registry.until_acked("installed", number)
        assert len(list(edge.state_dir.glob("objects/*"))) <= 3, "last good, shown, and what comes next"
        await registry.switch(WORKFLOW, 1, rollback=True)
        await registry.until_acked("confirmed", 8)
    assert edge.shown() == b"one"


async def test_bytes_that_are_not_shown_any_more_are_judged_like_others(edge: Edge, registry: FakeRegistry) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
        edge.path.unlink()
        await live(registry, b"one", needs=("cap:gpu",))
        assert (await registry.until_acked("refused", 2)).code == "INCOMPATIBLE"
        assert edge.shown() is None
        await live(registry, b"one")
        await registry.until_acked("confirmed", 3)
        assert edge.shown() == b"one"


# Over several lives


async def test_repairing_what_ran_before_a_restore_does_not_hide_what_comes(edge: Edge, registry: FakeRegistry) -> None:
    """The generations of the restored history may be lower."""
    await live(registry, b"one")
    ran = Installed(generation=50, version=1, digest=digest_of(b"one"), size_bytes=3)
    before = Record(workflow=WORKFLOW, pointer="active", epoch=2, generation=3, running=ran, last_good=ran, kept=(ran,))
    home = Home(edge.state_dir)
    os.close(home.lock())
    home.save_agent(AgentFile(agent="edge-1", incarnation="i", identity=Identity(cluster_id="c1", epoch=2)))
    home.save_record(before)
    await registry.restore(2, {(WORKFLOW, "active"): (3, 1)})
    async with edge.running():
        await until(lambda: edge.shown() == b"one" and record(edge).state is State.IDLE)
        assert record(edge).fence == (2, 3)
        assert await live(registry, b"two") == 4
        await registry.until_acked("confirmed", 4)
    assert edge.shown() == b"two"


async def test_an_agent_that_a_version_takes_down_again_and_again_reverts_it(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No life asks for the instruction again that it goes on with: that would start the count anew."""
    monkeypatch.setattr(limits, "RESTARTS", 3)
    probe = ProbeSpec('test "$(cat $REGISTRY_PATH)" = good || sleep 100', timeout_s=90)
    await live(registry, b"good")
    async with edge.running(probe=probe):
        await registry.until_acked("confirmed", 1)
        await live(registry, b"hangs")
        await registry.until_acked("installed", 2)
    for life in range(1, 4):
        polls = len(registry.asked)
        async with edge.running(probe=probe):
            while len(registry.asked) == polls or record(edge).restarts < life:
                await asyncio.sleep(0.002)
    async with edge.running(probe=probe):
        nack = await registry.until_acked("reverted", 2)
    assert (nack.code, nack.running_generation) == ("RESTARTS_EXCEEDED", 1)
    assert registry.told == [(1, "fetch"), (2, "fetch")]
    assert edge.shown() == b"good"


async def test_what_overtook_another_one_and_failed_is_tried_again(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, content = asyncio.Event(), registry.content
    hung = asyncio.Event()

    async def hang(workflow: str, version: int, **arguments: Any) -> bytes | None:
        if version == 1:
            arrived.set()
            await hung.wait()
        return await content(workflow, version, **arguments)

    monkeypatch.setattr(registry, "content", hang)
    async with edge.running():
        await live(registry, b"one")
        await arrived.wait()
        registry.corrupt = True
        await live(registry, b"two")
        await registry.until_acked("refused", 2)
        registry.corrupt = False
        await registry.until_acked("confirmed", 2)


def test_a_record_of_the_first_release_is_read(edge: Edge) -> None:
    home = Home(edge.state_dir)
    place = edge.state_dir / "follows" / WORKFLOW / "active.json"
    place.parent.mkdir(parents=True)
    installed = {"generation": 3, "version": 2, "digest": digest_of(b"one"), "size_bytes": 3}
    target = {"workflow": WORKFLOW, "pointer": "active", "epoch": 1, "generation": 4, "version": 3}
    old = {"workflow": WORKFLOW, "pointer": "active", "path": "/srv/x", "state": "probe", "epoch": 1, "generation": 3}
    old |= {"target": target | {"digest": digest_of(b"two"), "size_bytes": 3}, "kept": [installed]}
    old |= {"running": installed, "last_good": installed}
    old |= {"failure": {"generation": 2, "version": 1, "code": "PROBE_FAILED", "detail": "3 failures in a row"}}
    place.write_text(json.dumps(old))
    found = home.load_record(WORKFLOW, "active")
    assert found is not None
    assert isinstance(found.target, Instruction)
    assert found.failure is not None
    assert found.failure.is_final
