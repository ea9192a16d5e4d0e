"""Must hold: an agent killed at random moments during switches of a 300 KB file always leaves exactly one complete
published version at PATH, and converges after its restart."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.client import Client

FULL = os.environ.get("REGISTRY_FAULTS") == "full"
KILLS = 500 if FULL else 15
AT_THE_START = 0.25  # of the lives are ended before the agent need have done anything
VERSIONS = 8
SIZE_BYTES = 300_000
WORKFLOW = "support/triage"
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]


class Reader(threading.Thread):
    """Reads PATH without a break. Once something was there, it must be one whole published version each time."""

    def __init__(self, path: Path, published: set[bytes]) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._published = published
        self._ending = threading.Event()
        self.reads = 0
        self.changes = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        last = b""
        while not self._ending.is_set():
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                if self.reads:
                    self.wrong.append("nothing at PATH")
                self._ending.wait(0.001)
                continue
            self.reads += 1
            self.changes += data != last
            last = data
            if data not in self._published:
                self.wrong.append(f"{len(data)} bytes that were never published, first {data[:20]!r}")
            self._ending.wait(0.0005)

    def finish(self) -> None:
        self._ending.set()
        self.join()


class Edge:
    """The agent as a process, over several lives."""

    def __init__(self, directory: Path, endpoints: tuple[str, ...]) -> None:
        self.path = directory / "live.json"
        self.state_dir = directory / "state"
        self._log = directory / "agent.log"
        self._command = [
            *(sys.executable, "-m", "registry.agent.main", "--name", "edge-1", "--endpoints", ",".join(endpoints)),
            *("--state-dir", str(self.state_dir), "--follow", f"{WORKFLOW}={self.path}"),
            *("--reload", "true", "--probe", 'test -s "$REGISTRY_PATH"', "--probe-interval", "0.01"),
        ]

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        """One life; nothing is left of it."""
        with self._log.open("ab") as log, subprocess.Popen(self._command, stderr=log) as agent:
            try:
                yield agent
            finally:
                agent.kill()

    def record(self) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads((self.state_dir / "follows" / WORKFLOW / "active.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    async def until_acted_above(self, generation: int, agent: subprocess.Popen[bytes]) -> None:
        async with asyncio.timeout(60):
            while self.acted_on() <= generation and agent.poll() is None:
                await asyncio.sleep(0.002)

    def acted_on(self) -> int:
        generation = self.record().get("generation", 0)
        assert isinstance(generation, int)
        return generation


async def switch_without_a_break(client: Client, chance: random.Random, generations: list[int]) -> None:
    while True:
        switched = await client.switch(WORKFLOW, chance.randint(1, VERSIONS), reason="load")
        generations.append(switched.generation)
        await asyncio.sleep(chance.uniform(0.0, 0.06))


async def test_path_shows_one_complete_version_whenever_the_agent_is_killed(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    contents = [_content(number) for number in range(1, VERSIONS + 1)]
    async with LocalCluster(tmp_path / "cluster", 1) as cluster, Client(cluster.endpoints) as client:
        for content in contents:
            await client.publish(WORKFLOW, content)
        edge = Edge(tmp_path, cluster.endpoints)
        reader = Reader(edge.path, set(contents))
        reader.start()
        generations: list[int] = []
        switching = asyncio.create_task(switch_without_a_break(client, chance, generations))
        killed_in: Counter[str] = Counter()
        for _ in range(KILLS):
            before = edge.acted_on()
            with edge.agent() as agent:
                if chance.random() < AT_THE_START:
                    await asyncio.sleep(chance.uniform(0.0, 2.0))
                else:
                    await edge.until_acted_above(before, agent)
                    await asyncio.sleep(chance.uniform(0.0, 0.25))
            assert agent.returncode == -signal.SIGKILL, "the agent ended by itself; see agent.log"
            killed_in[str(edge.record().get("state", "idle"))] += 1
        switching.cancel()
        await asyncio.gather(switching, return_exceptions=True)
        last = await client.switch(WORKFLOW, VERSIONS, reason="the last one")
        with edge.agent() as agent:
            await edge.until_acted_above(last.generation - 1, agent)
            async with asyncio.timeout(60):
                while [row.generation async for row in client.agents()] != [last.generation]:
                    await asyncio.sleep(0.02)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0
    reader.finish()
    print(
        f"seed {SEED}: {KILLS} kills in {dict(killed_in)} during {len(generations)} switches, {reader.reads} reads, "
        f"{reader.changes} changes seen"
    )
    assert reader.wrong == [], f"seed {SEED}"
    assert edge.path.read_bytes() == contents[-1]
    assert len(generations) >= KILLS
    assert reader.changes > KILLS / 2, "the reader saw too few versions to prove anything"
    assert len(killed_in) >= 3, "the kills hit too few states to prove anything"
    assert len(os.listdir(edge.state_dir / "objects")) <= 6


def _content(number: int) -> bytes:
    head = b'{"version": %d, "text": "' % number
    return head + b"%d" % (number % 10) * (SIZE_BYTES - len(head) - 2) + b'"}'
