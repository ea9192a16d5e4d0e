"""The examples as their users run them: processes, against a real member's HTTP port."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from examples.demo import TRIAGE
from registry.cli.local_cluster import LocalCluster
from registry.client import Client

WORKFLOW = "support/triage"
TIMEOUT_S = 30.0


@asynccontextmanager
async def example(module: str, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Its output; what it says on stderr is shown when the test fails."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"examples.{module}", WORKFLOW, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield process.stdout
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def said(lines: asyncio.StreamReader, text: str) -> str:
    while line := (await lines.readline()).decode():
        if text in line:
            return line.strip()
    raise AssertionError(f"it ended without saying {text!r}")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[tuple[LocalCluster, Client]]:
    async with LocalCluster(tmp_path / "cluster", 1) as cluster, Client(cluster.endpoints) as client:
        for number in (1, 2, 3):
            await client.publish(WORKFLOW, (TRIAGE / f"v{number}.yml").read_bytes(), kind="dify")
        await client.switch(WORKFLOW, 1, reason="first")
        yield cluster, client


async def confirmed(client: Client, agent: str, version: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not [row async for row in client.agents() if (row.agent, row.version) == (agent, version)]:
            await asyncio.sleep(0.02)


async def test_examples(registry: tuple[LocalCluster, Client], tmp_path: Path) -> None:
    cluster, client = registry
    endpoint = ("--endpoints", f"http://{cluster['n1'].http_address}")
    cache = ("--cache", str(tmp_path / "triage.last-good"))
    directory = tmp_path / "embedded"
    directory.mkdir()
    async with (
        example("follow", *endpoint, *cache) as followed,
        example("embedded_agent", *endpoint, "--directory", str(directory)) as embedded,
    ):
        assert (await said(followed, "now version 1, generation 1: ")).endswith(" nodes [live]")
        assert await said(embedded, "version 1") == "version 1, current"
        await client.switch(WORKFLOW, 2, reason="better")
        assert "generation 2" in await said(followed, "now version 2")
        await said(embedded, "version 2, current")
        await client.switch(WORKFLOW, 3, reason="the probe refuses it")
        await said(followed, "version 3")
        await said(embedded, "version 2, error: PROBE_FAILED at generation 3")
        assert (directory / "workflow.yml").read_bytes() == (TRIAGE / "v2.yml").read_bytes()
        await client.rollback(WORKFLOW, reason="answers are wrong")
        await said(followed, "back to version 2, generation 4")
        for agent in ("worker-7", "embedded-1"):
            await confirmed(client, agent, 2)
    await cluster.stop()
    async with example("follow", *endpoint, *cache) as followed:
        assert (await said(followed, "version 2")).endswith("[live]"), "it was in contact a moment ago"
