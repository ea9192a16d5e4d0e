"""The whole agent in this process: hooks around an installation, and targets that are busy or say what they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from registry.agent import FileSpec, FollowSpec, ProbeSpec, journal, limits
from registry.agent.home import Home
from registry.agent.targets.base import Applied, Candidate
from registry.agent.targets.file import FileTarget
from registry.agent.transitions import Code, State
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


# Hooks


async def test_the_pre_check_hook_says_when(edge: Edge, registry: FakeRegistry) -> None:
    calls, gate = edge.directory / "calls", edge.directory / "gate"
    hook = f'echo "$(cat $REGISTRY_CONTENT) $(cat $REGISTRY_PATH)" >> {calls}; test -e {gate} || exit 75'
    await live(registry, b"one")
    async with edge.running():
        await registry.until_acked("confirmed", 1)
    await live(registry, b"two")
    async with edge.running(pre_check=hook):
        await until(lambda: calls.exists() and len(calls.read_text().splitlines()) > 2 * limits.CHECK_ATTEMPTS)
        assert edge.shown() == b"one"
        gate.touch()
        await registry.until_acked("confirmed", 2)
    assert set(calls.read_text().splitlines()) == {"two one"}
    assert not [ack for ack in registry.acks if ack.code]


async def test_nothing_unproven_stays_while_the_pre_check_hook_waits(edge: Edge, registry: FakeRegistry) -> None:
    gate = edge.directory / "gate"
    hook = f'case "$(cat $REGISTRY_CONTENT)" in three) test -e {gate} || exit 75;; esac'
    probe = ProbeSpec('! grep -q two "$REGISTRY_PATH" || sleep 60', timeout_s=90)
    await live(registry, b"one")
    async with edge.running(pre_check=hook, probe=probe):
        await registry.until_acked("confirmed", 1)
        await live(registry, b"two")
        await registry.until_acked("installed", 2)
        assert edge.shown() == b"two"
        await live(registry, b"three")
        nack = await registry.until_acked("reverted", 3)
        assert (nack.code, nack.running_generation) == ("INTERRUPTED", 1)
        assert edge.shown() == b"one"
        gate.touch()
        await registry.until_acked("confirmed", 3)
        assert edge.shown() == b"three"


async def test_a_pre_check_hook_that_waits_is_left_for_something_newer_or_the_deadline(
    edge: Edge, registry: FakeRegistry
) -> None:
    async with edge.running(pre_check='test "$REGISTRY_GENERATION" = 2 || exit 75'):
        await live(registry, b"one")
        await until(lambda: registry.fetched)
        await live(registry, b"two")
        await registry.until_acked("confirmed", 2)
        await live(registry, b"three", deadline_ms=edge.clock_ms() + HOUR_MS)
        await until(lambda: (WORKFLOW, 3) in registry.fetched)
        edge.ahead_ms = 2 * HOUR_MS
        assert (await registry.until_acked("refused", 3)).code == "EXPIRED"


async def test_a_reload_may_ask_for_another_try(edge: Edge, registry: FakeRegistry) -> None:
    calls = edge.directory / "calls"
    async with edge.running(reload=f"echo x >> {calls}; test $(wc -l < {calls}) -ge 4 || exit 75"):
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
    assert calls.read_text().count("x") == 4


async def test_a_post_hook_runs_after_the_confirmation_and_its_failure_is_only_told(
    edge: Edge, registry: FakeRegistry
) -> None:
    async with edge.running(post='test "$REGISTRY_VERSION" != 2 || { echo $REGISTRY_GENERATION; exit 4; }') as agent:
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
        await live(registry, b"two")
        await until(lambda: [ack for ack in registry.acks if ack.detail])
        assert agent.status()["follows"][0]["state"] == "current"
    first, second = (ack for ack in registry.acks if ack.generation == 2)
    assert (first.phase, first.detail) == ("confirmed", "")
    assert (second.phase, second.code, second.detail) == ("confirmed", "", "post hook: exit code 4: 2")


# Targets


class Moody(FileTarget):
    """A file that says what it is, and is busy for a while."""

    told: ClassVar[dict[str, str]] = {}
    busy: ClassVar[list[str]] = []  # "check" or "apply", for each time
    answers: ClassVar[asyncio.Event]  # to who asks for facts, from then on

    async def facts(self) -> dict[str, str]:
        await self.answers.wait()
        return dict(self.told)

    async def check(self, candidate: Candidate) -> Applied:
        return self._mood("check") or await super().check(candidate)

    async def apply(self, candidate: Candidate | None) -> Applied:
        return self._mood("apply") or await super().apply(candidate)

    def _mood(self, now: str) -> Applied | None:
        if now not in self.busy:
            return None
        self.busy.remove(now)
        return Applied(Code.TARGET_FAILED, "busy", later=True)


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> type[Moody]:
    monkeypatch.setattr(Moody, "told", {})
    monkeypatch.setattr(Moody, "busy", [])
    monkeypatch.setattr(Moody, "answers", asyncio.Event(), raising=False)
    Moody.answers.set()

    def make(follow: FollowSpec, home: Home, **_: Any) -> Moody:
        assert isinstance(follow.target, FileSpec)
        return Moody(follow.target, home, follow.name)

    monkeypatch.setattr("registry.agent.agent.make_target", make)
    return Moody


async def test_a_busy_target_is_asked_again_and_told_only_when_it_stays_so(
    edge: Edge, registry: FakeRegistry, moody: type[Moody]
) -> None:
    async with edge.running():
        moody.busy += ["check", "check", "apply", "apply"]
        await live(registry, b"one")
        await registry.until_acked("confirmed", 1)
        assert moody.busy == []
        assert not [ack for ack in registry.acks if ack.code]
        moody.busy += ["apply"] * (limits.INSTALL_ATTEMPTS + 1)
        await live(registry, b"two")
        nack = await registry.until_acked("refused", 2)
        assert (nack.code, nack.detail, nack.running_generation) == ("TARGET_FAILED", "busy", 1)
        await registry.until_acked("confirmed", 2)
    assert edge.shown() == b"two"


async def test_a_deadline_that_passes_while_the_target_is_busy_is_kept(
    edge: Edge, registry: FakeRegistry, moody: type[Moody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_ATTEMPTS", {State.INSTALL: 10**6})
    moody.busy += ["apply"] * 10**4
    async with edge.running():
        await live(registry, b"one", deadline_ms=edge.clock_ms() + HOUR_MS)
        await until(lambda: len(moody.busy) < 10**4)
        edge.ahead_ms = 2 * HOUR_MS
        nack = await registry.until_acked("refused", 1)
    assert nack.code == "EXPIRED"
    assert edge.shown() is None


async def test_a_version_is_looked_at_again_when_its_target_says_other_facts(
    edge: Edge, registry: FakeRegistry, moody: type[Moody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FACTS_EVERY_S", 0.001)
    monkeypatch.setattr(limits, "POLL_WAIT_S", 0.02)
    moody.told["dify"] = "1.8.1"
    await live(registry, b"one", needs=("dify>=1.9",))
    async with edge.running(facts={"dify": "9.9", "cap:gpu": ""}):
        assert (await registry.until_acked("refused", 1)).code == "INCOMPATIBLE"
        assert registry.asked[-1].facts.items() >= {"dify": "1.8.1", "cap:gpu": ""}.items()
        moody.told["dify"] = "1.9.0"
        await registry.until_acked("confirmed", 1)
        assert registry.asked[-1].facts["dify"] == "1.9.0"


async def test_a_target_that_does_not_say_its_facts_holds_up_nothing(
    edge: Edge, registry: FakeRegistry, moody: type[Moody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FACTS_START_S", 0.001, raising=False)
    monkeypatch.setattr(limits, "FACTS_TIMEOUT_S", 3600.0)
    monkeypatch.setattr(limits, "POLL_WAIT_S", 0.02)
    moody.answers.clear()
    moody.told["dify"] = "1.9.0"
    await live(registry, b"one")
    async with edge.running(facts={"cap:gpu": ""}):
        await registry.until_acked("confirmed", 1)
        assert registry.asked[0].facts.keys() == {"agent", "cap:gpu"}
        await live(registry, b"two", needs=("dify>=1.9",))
        assert (await registry.until_acked("refused", 2)).code == "INCOMPATIBLE"
        moody.answers.set()
        await registry.until_acked("confirmed", 2)
        assert registry.asked[-1].facts["dify"] == "1.9.0"


async def test_a_member_that_is_cut_off_is_no_contact(
    edge: Edge, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POLL_WAIT_S", 0.01)
    registry.age_ms = round(limits.STALE_AFTER_S * 1000) + 1
    async with edge.running() as agent:
        await until(lambda: len(registry.asked) > 2)
        (follow,) = agent.status()["follows"]
        assert (follow["state"], follow["last_contact_s"]) == ("stale", None)
        registry.age_ms -= 1
        await until(lambda: agent.status()["follows"][0]["state"] == "current")
