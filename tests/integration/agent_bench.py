"""A place to run agents in this process: against any RegistryApi, with short waits between attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.agent import Agent, AgentConfig, FileSpec, FollowSpec, RegistryApi, limits

WORKFLOW = "support/triage"
TIMEOUT_S = 20.0


def shorten_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "POLL_BACKOFF_S",
        "FETCH_BACKOFF_S",
        "HOLD_OFF_S",
        "REVERT_BACKOFF_S",
        "RESTORE_BACKOFF_S",
        "ACK_BACKOFF_S",
        "CHECK_BACKOFF_S",
        "INSTALL_BACKOFF_S",
        "RELOAD_BACKOFF_S",
        "DISK_BACKOFF_S",
    ):
        monkeypatch.setattr(limits, name, (0.001, 0.01))
    monkeypatch.setattr(limits, "CLOCK_EVERY_S", 0.002)


class Edge:
    """One machine: a state directory and paths, over several lives of its agent."""

    def __init__(self, directory: Path, api: RegistryApi) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.path = directory / "srv" / "triage.yml"
        self.api = api
        self.ahead_ms = 0  # the clock of this machine
        self.clock_reads = 0

    def agent(self, *, follows: tuple[FollowSpec, ...] = (), api: RegistryApi | None = None, **changes: Any) -> Agent:
        follows = follows or (FollowSpec(WORKFLOW, "active", FileSpec(self.path)),)
        config = AgentConfig(name="edge-1", site="eu-1", state_dir=self.state_dir, follows=follows, **changes)
        return Agent(config, api or self.api, clock_ms=self.clock_ms)

    def clock_ms(self) -> int:
        self.clock_reads += 1
        return time.time_ns() // 1_000_000 + self.ahead_ms

    @asynccontextmanager
    async def running(self, **arguments: Any) -> AsyncIterator[Agent]:
        agent = self.agent(**arguments)
        task = asyncio.create_task(agent.run())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield agent
        finally:
            agent.stop()
            await task

    def shown(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)
