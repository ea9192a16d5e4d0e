"""The agent dies before and after every single operation that it makes durable; the next one brings it to the end."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.agent import ProbeSpec, files
from tests.integration.agent_bench import WORKFLOW, Edge, shorten_waits
from tests.integration.fake_registry import FakeRegistry

VERSIONS = {1: b"good one", 2: b"bad two", 3: b"good three"}
PROBE = ProbeSpec('! grep -q bad "$REGISTRY_PATH"', interval_s=0.001, failures=2)


class Crash(Exception):
    pass


class Crashes:
    """Ends the agent at the n-th durable operation; from then on nothing of that life reaches the disk."""

    def __init__(self, at: int, *, before: bool) -> None:
        self.left = at
        self.before = before
        self.happened = False

    def around(self, operation: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **named: Any) -> None:
            if self.happened:
                raise Crash
            self.left -= 1
            self.happened = self.left == 0
            if self.happened and self.before:
                raise Crash
            operation(*arguments, **named)
            if self.happened:
                raise Crash

        return run


async def life(edge: Edge, registry: FakeRegistry, generation: int) -> bool:
    """Runs an agent until it has told the end of `generation`. False: it crashed before."""
    agent = edge.agent(probe=PROBE, post="true")
    phase = "reverted" if generation == 2 else "confirmed"
    running = asyncio.create_task(agent.run())
    told = asyncio.create_task(registry.until_acked(phase, generation))
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    agent.stop()
    told.cancel()
    (result,) = await asyncio.gather(running, return_exceptions=True)
    assert (
        result is None or (isinstance(result, ExceptionGroup) and result.subgroup(Crash)) or isinstance(result, Crash)
    )
    return told.done() and not told.cancelled() and result is None


async def registry_at(generation: int) -> FakeRegistry:
    registry = FakeRegistry()
    for each in range(1, generation + 1):
        await registry.switch(WORKFLOW, await registry.publish(WORKFLOW, VERSIONS[each]))
    return registry


async def earlier_lives(machine: Path, generation: int) -> bytes | None:
    """Brings a machine to where `generation` is next. What it shows then."""
    machine.mkdir()
    for earlier in range(1, generation):
        registry = await registry_at(earlier)
        assert await life(Edge(machine, registry), registry, earlier)
    return Edge(machine, await registry_at(0)).shown()


@pytest.mark.parametrize("generation", [1, 2, 3])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_a_crash_at_any_durable_operation(
    generation: int, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch)
    originals = {name: getattr(files, name) for name in ("write", "link", "unlink")}
    machine, before_it = tmp_path / "machine", tmp_path / "before"
    proven = await earlier_lives(machine, generation)
    shutil.copytree(machine, before_it, symlinks=True)
    for at in range(1, 100):
        shutil.rmtree(machine)
        shutil.copytree(before_it, machine, symlinks=True)
        registry = await registry_at(generation - 1)
        registry.inline = generation == 3
        edge = Edge(machine, registry)
        version = await registry.publish(WORKFLOW, VERSIONS[generation])
        start_ms = edge.clock_ms() + 30 if generation == 3 else 0
        await registry.switch(WORKFLOW, version, not_before_ms=start_ms)
        crashes = Crashes(at, before=before)
        for name, operation in originals.items():
            monkeypatch.setattr(files, name, crashes.around(operation))
        finished = await life(edge, registry, generation)
        assert edge.shown() in (proven, VERSIONS[generation])
        for name, operation in originals.items():
            monkeypatch.setattr(files, name, operation)
        if not crashes.happened:
            assert finished
            assert at > 10, "an installation has more durable operations than this"
            return
        assert await life(edge, registry, generation), f"not brought to its end after a crash at operation {at}"
        expected = VERSIONS[1] if generation == 2 else VERSIONS[generation]
        assert edge.shown() == expected
    pytest.fail("an installation should have fewer than 100 durable operations")
