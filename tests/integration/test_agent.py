"""The whole agent in this process, against the fake registry that test_agent_contract.py verifies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.agent import ConfigError, FileSpec, FollowSpec, HomeError, ProbeSpec, limits
from registry.agent.guards import digest_of
from registry.agent.home import Home
from registry.agent.journal import Record
from tests.integration.agent_bench import WORKFLOW, Edge, shorten_waits, until
from tests.integration.fake_registry import FakeRegistry

NO = ProbeSpec("exit 1", interval_s=0.001)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def edge(tmp_path: Path, registry: FakeRegistry) -> Edge:
    return Edge(tmp_path, registry)


async def live(registry: FakeRegistry, data: bytes) -> int:
    """Publishes and switches; the generation."""
    return await registry.switch(WORKFLOW, await registry.publish(WORKFLOW, data))


async def test_a_switch_is_installed_confirmed_and_told(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running() as agent:
        for generation, data in enumerate((b"one", b"two"), start=1):
            await live(registry, data)
            ack = await registry.until_acked("confirmed", generation)
            assert edge.shown() == data
            assert (ack.agent, ack.site, ack.code) == ("edge-1", "eu-1", "")
            assert (ack.running_generation, ack.running_version) == (generation, generation)
            assert ack.running_digest == digest_of(data)
    (follow,) = agent.status()["follows"]
    assert (follow["state"], follow["version"], follow["last_error"]) == ("current", 2, None)
    assert edge.path.is_symlink()
    assert not os.access(edge.path, os.W_OK) or os.geteuid() == 0


async def test_a_rollback_to_a_kept_version_costs_no_content(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running():
        for generation, data in enumerate((b"one", b"two", b"three"), start=1):
            await live(registry, data)
            await registry.until_acked("confirmed", generation)
        await registry.switch(WORKFLOW, 1, rollback=True)
        await registry.until_acked("confirmed", 4)
    assert edge.shown() == b"one"
    assert [version for _, version in registry.fetched] == [1, 2, 3]
    assert registry.bases == [b"", b"one", b"two"], "what runs, so that only what differs has to travel"


async def test_the_newest_five_confirmed_versions_stay_on_disk(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running():
        for generation in range(1, 9):
            await live(registry, b"%d" % generation)
            await registry.until_acked("confirmed", generation)
    kept = {digest_of(b"%d" % number).replace(":", "-") for number in range(4, 9)}
    assert set(os.listdir(edge.state_dir / "objects")) == kept
    assert len(kept) == limits.KEPT_VERSIONS


async def test_a_version_whose_probe_fails_is_reverted_told_and_remembered(edge: Edge, registry: FakeRegistry) -> None:
    tried = edge.directory / "tried"
    probe = ProbeSpec(f'echo $REGISTRY_VERSION >> {tried}; grep -qv bad "$REGISTRY_PATH"', interval_s=0.001)
    async with edge.running(probe=probe):
        await live(registry, b"good\n")
        await registry.until_acked("installed", 1)
        await registry.until_acked("confirmed", 1)
        await live(registry, b"bad\n")
        nack = await registry.until_acked("reverted", 2)
        assert edge.shown() == b"good\n"
        assert nack.code == "PROBE_FAILED"
        assert "3 failures in a row" in nack.detail
        assert (nack.running_generation, nack.running_version) == (1, 1)
    async with edge.running(probe=probe) as agent:
        (follow,) = agent.status()["follows"]
        assert follow["state"] == "error"
        assert (follow["generation"], follow["last_good"]["generation"]) == (1, 1)
        await live(registry, b"better\n")
        await registry.until_acked("confirmed", 3)
        assert agent.status()["follows"][0]["last_error"] is None
    assert tried.read_text().split() == ["1", "2", "2", "2", "3"], "not tried again after the restart"


async def test_a_first_version_that_fails_leaves_nothing(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running(probe=NO):
        await live(registry, b"bad")
        nack = await registry.until_acked("reverted", 1)
    assert edge.shown() is None
    assert not edge.path.is_symlink()
    assert nack.running_digest == ""


async def test_reload_runs_after_the_swap_and_again_after_the_swap_back(edge: Edge, registry: FakeRegistry) -> None:
    calls = edge.directory / "calls"
    reload = f'echo "$REGISTRY_VERSION $(cat $REGISTRY_PATH)" >> {calls}; test "$(cat $REGISTRY_PATH)" != bad'
    async with edge.running(reload=reload):
        await live(registry, b"good")
        await registry.until_acked("confirmed", 1)
        await live(registry, b"bad")
        nack = await registry.until_acked("reverted", 2)
    assert nack.code == "RELOAD_FAILED"
    assert nack.detail == "exit code 1"
    assert calls.read_text().splitlines() == ["1 good", "2 bad", "1 good"]


async def test_other_bytes_than_named_are_never_shown_and_hold_up_nobody(edge: Edge, registry: FakeRegistry) -> None:
    other = FollowSpec("support/router", "active", FileSpec(edge.directory / "router.yml"))
    async with edge.running(follows=(FollowSpec(WORKFLOW, "active", FileSpec(edge.path)), other)):
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
        registry.corrupt = True
        await live(registry, b"two")
        nack = await registry.until_acked("refused", 2)
        assert (nack.code, nack.running_generation) == ("DIGEST_MISMATCH", 1)
        assert edge.shown() == b"one"
        registry.corrupt = False
        await registry.switch("support/router", await registry.publish("support/router", b"route"))
        await registry.until_acked("confirmed", 1, "support/router")
        assert other.path.read_bytes() == b"route"
        await registry.until_acked("confirmed", 2)
    assert edge.shown() == b"two", "what may pass is tried again"


async def test_a_registry_that_comes_and_goes(edge: Edge, registry: FakeRegistry) -> None:
    registry.unavailable = 30
    async with edge.running():
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
        registry.unavailable = 30
        await live(registry, b"two")
        await registry.until_acked("confirmed", 2)
    assert edge.shown() == b"two"


async def test_what_runs_is_told_once_at_a_start_and_after_a_long_silence(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that has forgotten the agent learns of it."""
    monkeypatch.setattr(limits, "POLL_WAIT_S", 0.01)

    async def polls(more: int) -> None:
        asked = len(registry.asked) + more
        await until(lambda: len(registry.asked) >= asked)

    async with edge.running():
        await polls(3)
        assert registry.acks == []  # nothing was ever installed
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
    registry.acks.clear()
    async with edge.running():
        told = await registry.until_acked("confirmed", 1)
        assert (told.running_version, told.running_digest) == (1, digest_of(b"one"))
        await polls(3)
        assert len(registry.acks) == 1
        registry.unavailable = 3
        await polls(5)
        assert len(registry.acks) == 1  # that was not long
        edge.ahead_ms += round(limits.STANDING_AFTER_S * (1 + limits.STANDING_JITTER) * 1000)
        await until(lambda: len(registry.acks) > 1)
        await polls(3)
        assert [(ack.phase, ack.generation) for ack in registry.acks] == [("confirmed", 1)] * 2


async def test_what_runs_is_told_with_generations_of_this_epoch_alone(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POLL_WAIT_S", 0.01)
    async with edge.running():
        for generation, data in enumerate((b"one", b"two"), start=1):
            await live(registry, data)
            await registry.until_acked("confirmed", generation)
    registry.acks.clear()
    await registry.restore(2, {})  # the pointer is not there any more
    async with edge.running():
        asked = len(registry.asked) + 5
        await until(lambda: len(registry.asked) >= asked)
        assert registry.acks == []


async def test_a_member_of_another_cluster_is_refused(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running():
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
    stranger = FakeRegistry("c2")
    for data in (b"x", b"y", b"z"):
        await live(stranger, data)
    async with edge.running(api=stranger) as agent:
        await until(lambda: agent.status()["follows"][0]["state"] == "error")
        nack = await stranger.until_acked("refused", 1)
        assert (nack.code, nack.running_generation) == ("CLUSTER_MISMATCH", 1)
        assert edge.shown() == b"one"
        assert stranger.fetched == []
    async with edge.running() as agent:
        await live(registry, b"two")
        await registry.until_acked("confirmed", 2)
        assert agent.status()["follows"][0]["state"] == "current"


async def test_a_higher_epoch_compares_anew_and_a_lower_one_is_ignored(edge: Edge, registry: FakeRegistry) -> None:
    for data in (b"one", b"two", b"three"):
        await live(registry, data)
    async with edge.running() as agent:
        await registry.until_acked("confirmed", 3)
        await registry.restore(2, {(WORKFLOW, "active"): (1, 2)})
        ack = await registry.until_acked("confirmed", 1)
        assert ack.running_version == 2
        assert edge.shown() == b"two"
        assert agent.status()["epoch"] == 2
        polls = len(registry.asked)
        await registry.restore(1, {(WORKFLOW, "active"): (9, 3)})
        await until(lambda: len(registry.asked) > polls + 3)
        assert edge.shown() == b"two"
        assert agent.status()["epoch"] == 2


async def test_it_starts_without_the_network_from_what_was_good(edge: Edge, registry: FakeRegistry) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
    edge.path.unlink()
    registry.unavailable = 10**9
    async with edge.running():
        await until(lambda: edge.shown() == b"one")


async def test_a_path_that_cannot_be_shown_at_the_start_is_shown_later(edge: Edge, registry: FakeRegistry) -> None:
    async with edge.running():
        await registry.switch(WORKFLOW, await registry.publish(WORKFLOW, b"one"))
        await registry.until_acked("confirmed", 1)
    edge.path.unlink()
    edge.path.parent.rmdir()
    edge.path.parent.write_text("as where a file system is not mounted yet")
    async with edge.running() as agent:
        await until(lambda: "INSTALL_FAILED" in (agent.status()["follows"][0]["last_error"] or ""))
        edge.path.parent.unlink()
        await until(lambda: agent.status()["follows"][0]["state"] == "current")
        assert edge.shown() == b"one"


async def test_damaged_content_is_fetched_again(edge: Edge, registry: FakeRegistry) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
    content = edge.path.resolve()
    content.chmod(0o644)
    content.write_bytes(b"onf")
    registry.corrupt = True
    async with edge.running() as agent:
        await until(lambda: len(registry.fetched) > limits.FETCH_ATTEMPTS)
        assert agent.status()["follows"][0]["state"] == "error"
        registry.corrupt = False
        await until(lambda: edge.shown() == b"one")
        await until(lambda: agent.status()["follows"][0]["state"] == "current")


async def test_a_newer_generation_takes_over_from_a_running_probe(edge: Edge, registry: FakeRegistry) -> None:
    probe = ProbeSpec('if grep -q slow "$REGISTRY_PATH"; then sleep 100; fi', timeout_s=90)
    async with edge.running(probe=probe):
        await live(registry, b"good")
        await registry.until_acked("confirmed", 1)
        await live(registry, b"slow")
        await registry.until_acked("installed", 2)
        await registry.switch(WORKFLOW, 1, rollback=True)
        await registry.until_acked("confirmed", 3)
    assert edge.shown() == b"good"
    assert not [ack for ack in registry.acks if ack.generation == 2 and ack.phase != "installed"]


async def test_an_installation_that_was_stopped_goes_on(edge: Edge, registry: FakeRegistry) -> None:
    gate = edge.directory / "gate"
    probe = ProbeSpec(f"while ! test -e {gate}; do sleep 0.01; done", timeout_s=90)
    await live(registry, b"one")
    async with edge.running(probe=probe):
        await registry.until_acked("installed", 1)
    assert Home(edge.state_dir).load_record(WORKFLOW, "active").state == "probe"  # type: ignore[union-attr]
    gate.touch()
    async with edge.running(probe=probe):
        await registry.until_acked("confirmed", 1)
    assert len(registry.fetched) == 1


async def test_a_file_of_somebody_else_is_not_touched(edge: Edge, registry: FakeRegistry) -> None:
    edge.path.parent.mkdir()
    edge.path.write_text("mine")
    with pytest.raises(ConfigError, match=r"is left as it is; move it away \(mv .*triage.yml.before\)"):
        await edge.agent().run()
    edge.path.unlink()
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
        edge.path.unlink()
        edge.path.write_text("mine")
        await live(registry, b"two")
        nack = await registry.until_acked("refused", 2)
        assert nack.code == "PATH_OCCUPIED"
        assert edge.path.read_text() == "mine"
        edge.path.unlink()
        await registry.until_acked("confirmed", 2)
    assert edge.shown() == b"two"


async def test_a_path_that_moves_in_the_configuration_moves_on_disk(edge: Edge, registry: FakeRegistry) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
    old, edge.path = edge.path, edge.directory / "elsewhere" / "triage.yml"
    registry.unavailable = 10**9
    async with edge.running():
        await until(lambda: edge.shown() == b"one" and not old.is_symlink())


async def test_what_is_not_followed_any_more_stays_readable(edge: Edge, registry: FakeRegistry) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
    await registry.switch("support/router", await registry.publish("support/router", b"route"))
    async with edge.running(
        follows=(FollowSpec("support/router", "active", FileSpec(edge.directory / "router.yml")),)
    ) as agent:
        await registry.until_acked("confirmed", 1, "support/router")
    assert edge.shown() == b"one"
    assert [follow["workflow"] for follow in agent.status()["follows"]] == ["support/router"]


async def test_a_state_directory_has_one_agent(edge: Edge, registry: FakeRegistry) -> None:
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
        with pytest.raises(HomeError, match="another agent runs"):
            await edge.agent().run()


async def test_a_state_directory_of_another_agent_is_refused(edge: Edge) -> None:
    async with edge.running() as agent:
        await until(lambda: (edge.state_dir / "agent.json").exists())
    assert agent.config.name == "edge-1"
    text = (edge.state_dir / "agent.json").read_text()
    (edge.state_dir / "agent.json").write_text(text.replace("edge-1", "edge-2"))
    with pytest.raises(HomeError, match="belongs to agent edge-2, not to edge-1"):
        await edge.agent().run()


async def test_a_directory_that_refuses_the_swap_is_told_and_tried_again(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    show = Home.show

    def refuse(home: Home, path: Path, digest: str | None) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
        monkeypatch.setattr(Home, "show", refuse)
        await live(registry, b"two")
        nack = await registry.until_acked("refused", 2)
        assert (nack.code, nack.running_generation) == ("INSTALL_FAILED", 1)
        assert edge.shown() == b"one"
        monkeypatch.setattr(Home, "show", show)
        await registry.until_acked("confirmed", 2)


async def test_a_full_disk_stops_nothing_that_runs(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Home.save_record
    refused = 0

    def full(home: Home, record: Record) -> None:
        nonlocal refused
        if refused == 3:
            return save(home, record)
        refused += 1
        assert edge.shown() == b"one", "nothing is changed before its step is on disk"
        raise OSError(28, "No space left on device")

    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
        monkeypatch.setattr(Home, "save_record", full)
        await live(registry, b"two")
        await registry.until_acked("confirmed", 2)
    assert edge.shown() == b"two"
    assert refused == 3


async def test_large_content_that_fills_the_disk_gives_the_room_back(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving: list[Path] = []

    async def content(workflow: str, version: int, *, into: Path, **_: object) -> None:
        into.write_bytes(b"as much as there was room for")
        arriving.append(into)
        raise OSError(28, "No space left on device")

    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
        monkeypatch.setattr(registry, "content", content)
        await live(registry, b"two")
        await registry.until_acked("refused", 2)
        assert arriving
        assert not arriving[-1].exists()
        assert edge.shown() == b"one"
