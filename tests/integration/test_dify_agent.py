"""The whole agent with a Dify target, against a server with Dify's rules (tests/dify_server)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.agent import FollowSpec, HookSpec, ProbeSpec
from tests.dify_server import DifyServer, Fault
from tests.integration.agent_bench import WORKFLOW, Edge, shorten_waits, until
from tests.integration.dify_kit import DATA, OPENAI, TOKEN, Site
from tests.integration.fake_registry import FakeRegistry

ONE, TWO = ((DATA / f"orders-{number}.yml").read_bytes() for number in (1, 2))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def edge(tmp_path: Path, registry: FakeRegistry) -> Edge:
    return Edge(tmp_path, registry)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    server = DifyServer(plugins=[OPENAI])
    server.start()
    yield Site(server, tmp_path)
    server.stop()


def into(site: Site, hooks: HookSpec | None = None) -> tuple[FollowSpec, ...]:
    return (FollowSpec(WORKFLOW, "active", site.spec(), hooks),)


async def live(registry: FakeRegistry, data: bytes) -> int:
    return await registry.switch(WORKFLOW, await registry.publish(WORKFLOW, data))


def names(site: Site) -> list[str]:
    """Of what was published, oldest first."""
    return [row["marked_name"] for row in reversed(site.published())]


async def test_switches_and_a_rollback(edge: Edge, registry: FakeRegistry, site: Site) -> None:
    async with edge.running(follows=into(site)):
        for generation, data in enumerate((ONE, TWO), start=1):
            await live(registry, data)
            await registry.until_acked("confirmed", generation)
        await registry.switch(WORKFLOW, 1, rollback=True)
        ack = await registry.until_acked("confirmed", 3)
    assert ack.running_version == 1
    assert names(site) == ["@1", "@2", "@1"]
    assert site.secret() == TOKEN


async def test_a_version_whose_probe_fails_is_taken_back_over_an_edit(
    edge: Edge, registry: FakeRegistry, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody edits the draft while it is probed: the way back does not wait for that."""
    publish = site.server.dify.publish

    def and_edit(app: str, name: str, comment: str) -> dict:
        reply = publish(app, name, comment)
        if name == "@2":
            row = site.server.dify.store.draft(app)
            assert row is not None
            site.server.dify.save_draft(app, row["graph"], {"edited": True}, row["environment"], row["conversation"])
        return reply

    monkeypatch.setattr(site.server.dify, "publish", and_edit)
    probe = ProbeSpec('test "$REGISTRY_VERSION" != 2', interval_s=0.001)
    async with edge.running(follows=into(site, HookSpec(probe=probe))):
        await live(registry, ONE)
        await registry.until_acked("confirmed", 1)
        await live(registry, TWO)
        nack = await registry.until_acked("reverted", 2)
    assert (nack.code, nack.running_version) == ("PROBE_FAILED", 1)
    assert names(site) == ["@1", "@2", "@1"]


async def test_what_went_live_otherwise_is_taken_back(edge: Edge, registry: FakeRegistry, site: Site) -> None:
    site.server.faults.append(Fault("race", "POST .*/publish", skip=1))  # somebody saves right before
    async with edge.running(follows=into(site)):
        await live(registry, ONE)
        await registry.until_acked("confirmed", 1)
        await live(registry, TWO)
        nack = await registry.until_acked("refused", 2)
    assert (nack.code, nack.running_version) == ("READ_BACK_DIFFERS", 1)
    assert names(site) == ["@1", "@2", "@1"]


async def test_a_first_version_that_fails_stays_where_nothing_was_before(
    edge: Edge, registry: FakeRegistry, site: Site
) -> None:
    probe = ProbeSpec("exit 1", interval_s=0.001)
    async with edge.running(follows=into(site, HookSpec(probe=probe))):
        await live(registry, ONE)
        nack = await registry.until_acked("refused", 1)
    assert nack.code == "REVERT_FAILED"
    assert "cannot take back" in nack.detail
    assert names(site) == ["@1"]


async def test_drift_is_told_and_stops_only_this(edge: Edge, registry: FakeRegistry, site: Site) -> None:
    async with edge.running(follows=into(site)):
        await live(registry, ONE)
        await registry.until_acked("confirmed", 1)
        site.server.edit_draft(site.app, lambda row: row["environment"][1].update(value=9))
        await live(registry, TWO)
        nack = await registry.until_acked("refused", 2)
        assert nack.code == "DRIFTED"
        assert nack.running_version == 1
        site.server.edit_draft(site.app, lambda row: row["environment"][1].update(value=3))
        await live(registry, TWO)
        await registry.until_acked("confirmed", 3)
    assert names(site) == ["@1", "@3"]


async def test_a_server_that_fails_for_a_while(edge: Edge, registry: FakeRegistry, site: Site) -> None:
    site.server.faults += [Fault("502", times=3), Fault("drop_after", "POST .*/publish"), Fault("drop", skip=30)]
    async with edge.running(follows=into(site)):
        for generation, data in enumerate((ONE, TWO), start=1):
            await live(registry, data)
            await registry.until_acked("confirmed", generation)
    assert names(site) == ["@1", "@2"]


async def test_a_restart_publishes_nothing(edge: Edge, registry: FakeRegistry, site: Site) -> None:
    async with edge.running(follows=into(site)):
        await live(registry, ONE)
        await registry.until_acked("confirmed", 1)
    site.server.faults.append(Fault("502", times=5))  # it does not answer when the agent comes back
    async with edge.running(follows=into(site)):
        await live(registry, TWO)
        await registry.until_acked("confirmed", 2)
    async with edge.running(follows=into(site)) as agent:
        await registry.switch(WORKFLOW, 2)
        await registry.until_acked("confirmed", 3)
        assert agent.status()["follows"][0]["version"] == 2
    assert names(site) == ["@1", "@2"]


async def test_a_server_that_comes_up_after_the_agent(edge: Edge, registry: FakeRegistry, site: Site) -> None:
    async with edge.running(follows=into(site)):
        await live(registry, ONE)
        await registry.until_acked("confirmed", 1)
    down = Fault("502", times=1000)
    site.server.faults.append(down)
    async with edge.running(follows=into(site)) as agent:
        await until(lambda: agent.status()["follows"][0]["state"] == "error")
        site.server.faults.remove(down)
        await until(lambda: agent.status()["follows"][0]["state"] == "current")
    assert names(site) == ["@1"]
