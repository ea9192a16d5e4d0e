"""What agents rely on, asked of a real registryd over its socket and of the fake that other tests use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from registry.agent import ClientApi, RegistryApi
from registry.agent.api import Holding, PollReply
from registry.agent.guards import digest_of
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.core.errors import Conflict, NotFound, Reason
from tests.integration.fake_registry import FakeRegistry
from tests.unit.agent.samples import ack

WORKFLOW = "support/triage"


class Subject(NamedTuple):
    api: RegistryApi
    publish: Callable[[bytes], Awaitable[int]]
    switch: Callable[[int], Awaitable[int]]
    arriving: Path  # where large content goes

    async def content(self, version: int, *, min_revision: int = 0, base: bytes = b"") -> bytes | None:
        return await self.api.content(
            WORKFLOW, version, min_revision=min_revision, base=base, into=self.arriving, progress=lambda *_: None
        )

    async def poll(self, generation: int, *, cluster_id: str = "", epoch: int = 0, wait_s: float = 0) -> PollReply:
        return await self.api.poll(
            cluster_id=cluster_id,
            epoch=epoch,
            agent="edge-1",
            site="eu-1",
            labels={},
            follows=[Holding(workflow=WORKFLOW, pointer="active", generation=generation)],
            wait_s=wait_s,
        )


@pytest.fixture(params=["fake", "real"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        fake = FakeRegistry()
        yield Subject(
            fake,
            lambda data: fake.publish(WORKFLOW, data),
            lambda version: fake.switch(WORKFLOW, version),
            tmp_path / "arriving",
        )
        return
    async with LocalCluster(tmp_path / "cluster", 1) as cluster, Client(cluster.endpoints) as client:

        async def publish(data: bytes) -> int:
            return (await client.publish(WORKFLOW, data)).number

        async def switch(version: int) -> int:
            return (await client.switch(WORKFLOW, version, reason="test")).generation

        yield Subject(ClientApi(client), publish, switch, tmp_path / "arriving")


async def test_what_agents_rely_on(subject: Subject) -> None:
    empty = await subject.poll(0)
    assert empty.instructions == (), "a pointer that nobody has switched yet is no error"
    assert empty.cluster_id
    assert empty.epoch >= 1

    assert await subject.publish(b"one") == 1
    assert await subject.publish(b"two") == 2
    assert await subject.switch(1) == 1
    reply = await subject.poll(0, cluster_id=empty.cluster_id, epoch=empty.epoch)
    (first,) = reply.instructions
    assert (first.workflow, first.pointer, first.epoch) == (WORKFLOW, "active", empty.epoch)
    assert (first.generation, first.version, first.size_bytes, first.base_digest) == (1, 1, 3, "")
    assert first.digest == digest_of(b"one")
    for base in (b"", b"one", b"two", b"never seen"):
        assert await subject.content(1, min_revision=first.min_revision, base=base) == b"one"

    mine: dict[str, Any] = {"cluster_id": empty.cluster_id, "epoch": empty.epoch}
    assert (await subject.poll(1, **mine)).instructions == ()
    assert (await subject.poll(7, **mine)).instructions == (), "never a generation that the agent is past"

    waiting = asyncio.create_task(subject.poll(1, **mine, wait_s=20))
    await subject.switch(2)
    (second,) = (await waiting).instructions
    assert (second.generation, second.version, second.base_digest) == (2, 2, digest_of(b"one"))
    assert second.min_revision > first.min_revision

    with pytest.raises(Conflict) as mismatch:
        await subject.poll(0, cluster_id="another", epoch=1)
    assert mismatch.value.reason is Reason.CLUSTER_MISMATCH
    with pytest.raises(NotFound) as missing:
        await subject.content(9)
    assert missing.value.reason is Reason.VERSION_NOT_FOUND

    report = ack(1, generation=2, running_generation=2, running_version=2, running_digest=second.digest)
    await subject.api.acknowledge([report])
    await subject.api.acknowledge([report, ack(2, generation=2)])
