"""Hostile content against real members: refused or judged soon and within bounds, and the cluster goes on meanwhile.

The bounds of time here are many times what a quiet machine shows, which is under two seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from registry.cli.local_cluster import LocalCluster
from registry.client import Client, Published
from registry.core.errors import Invalid, Reason, Rejected
from registry.core.limits import CONTENT_BYTES, MIB
from tests.integration import hostile

JUDGED_S = 25.0
SIZE_REFUSED_S = 1.0
WORKER_BYTES = 500 * MIB
BEAT_S = 0.05
GAP_S = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(made.start())
        yield made
    finally:
        asyncio.run(made.stop())


def worker_peak_bytes(cluster: LocalCluster) -> int:
    """The most resident memory that any worker living now has had."""
    peaks = [0]
    for member in cluster.members.values():
        assert member.process is not None
        pid = member.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                status = Path(f"/proc/{child}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended meanwhile
            if "VmHWM:" in status:  # or it has ended, and nobody has asked how
                peaks.append(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
    return max(peaks)


class Pulse:
    """A switch every BEAT_S: the longest time without one that was acknowledged. And the most memory that a worker was
    seen to have had: those that were killed too, up to a beat before."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self.longest_s = 0.0
        self.count = 0
        self.worker_bytes = 0

    async def beat(self, client: Client) -> None:
        last = time.monotonic()
        while True:
            await client.switch("hostile/pulse", 1, reason="beat")
            now = time.monotonic()
            self.longest_s, last = max(self.longest_s, now - last), now
            self.count += 1
            self.worker_bytes = max(self.worker_bytes, worker_peak_bytes(self._cluster))
            await asyncio.sleep(BEAT_S)


@asynccontextmanager
async def watched(cluster: LocalCluster) -> AsyncIterator[tuple[Client, Pulse]]:
    """A client, while another one switches on; the leader must stay the same."""
    pulse = Pulse(cluster)
    async with Client(cluster.endpoints, timeout_s=60.0) as client, Client(cluster.endpoints) as other:
        await client.publish("hostile/pulse", b"{}")
        before = await client.status()
        beating = asyncio.create_task(pulse.beat(other))
        try:
            yield client, pulse
        finally:
            beating.cancel()
            (ended,) = await asyncio.gather(beating, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
        after = await client.status()
        assert (after.term, after.leader) == (before.term, before.leader)


async def judged(client: Client, workflow: str, content: hostile.Content) -> tuple[Published | Rejected, float]:
    """What became of it and how long that took. Anything but an answer fails the test."""
    data, kind = content
    assert len(data) <= CONTENT_BYTES
    started = time.monotonic()
    try:
        outcome: Published | Rejected = await client.publish(workflow, data, kind=kind)
    except Rejected as error:
        outcome = error
    return outcome, time.monotonic() - started


async def test_every_content_is_answered_and_the_cluster_goes_on(cluster: LocalCluster) -> None:
    async with watched(cluster) as (client, pulse):
        for number, (name, content) in enumerate(hostile.cases()):
            outcome, took_s = await judged(client, f"hostile/case-{number}", content)
            assert took_s < JUDGED_S, name
            if isinstance(outcome, Rejected):
                assert isinstance(outcome, Invalid), (name, outcome)
                assert outcome.reason in (Reason.INVALID_CONTENT, Reason.TOO_LARGE), (name, outcome)
        assert pulse.count > 10
        assert pulse.longest_s < GAP_S
    assert 0 < pulse.worker_bytes < WORKER_BYTES


async def test_comparing_with_the_parent_is_bounded_too(cluster: LocalCluster) -> None:
    async with watched(cluster) as (client, pulse):
        for number, (name, old, new) in enumerate(hostile.pairs()):
            for content in (old, new):
                outcome, took_s = await judged(client, f"hostile/pair-{number}", content)
                assert isinstance(outcome, Published), (name, outcome)
                assert took_s < JUDGED_S, name
            assert outcome.summary or "not compared" in outcome.notes[0], name
        assert pulse.longest_s < GAP_S
    assert 0 < pulse.worker_bytes < WORKER_BYTES


async def test_too_much_is_refused_before_it_is_looked_at(cluster: LocalCluster) -> None:
    async with Client(cluster.endpoints) as client:
        for content in (bytes(CONTENT_BYTES + 1), bytes(8 * MIB), bytes(8 * MIB + 1)):
            started = time.monotonic()
            with pytest.raises(Invalid) as caught:
                await client.publish("hostile/large", content, kind="json")
            assert time.monotonic() - started < SIZE_REFUSED_S
            assert caught.value.reason is Reason.INVALID_CONTENT
            assert "--content-limit" in caught.value.hint
