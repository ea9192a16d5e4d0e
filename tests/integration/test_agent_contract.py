"""What agents rely on, asked of a real registryd over its socket and of the fake that other tests use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from registry.agent import RegistryApi, connected
from registry.agent.api import Holding, Poll, Polled, PollReply
from registry.agent.guards import digest_of
from registry.cli.local_cluster import LocalCluster
from registry.client import Client
from registry.core import frames, limits
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

    async def poll(
        self, generation: int, *, cluster_id: str = "", epoch: int = 0, wait_s: float = 0, **holding: Any
    ) -> PollReply:
        return (await self.polled(generation, cluster_id=cluster_id, epoch=epoch, wait_s=wait_s, **holding)).reply

    async def polled(
        self, generation: int, *, cluster_id: str, epoch: int, wait_s: float = 0, inline_bytes: int = 0, **holding: Any
    ) -> Polled:
        poll = Poll(
            agent="edge-1",
            cluster_id=cluster_id,
            epoch=epoch,
            session="s1",
            site="eu-1",
            facts={"agent": "0.2"},
            follows=(Holding(workflow=WORKFLOW, pointer="active", generation=generation, **holding),),
            wait_ms=round(wait_s * 1000),
            inline_bytes=inline_bytes,
        )
        return await self.api.poll(poll, timeout_s=10)


@pytest.fixture(params=["fake", "grpc", "http"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "fake":
        fake = FakeRegistry()
        fake.inline = True
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

        over_http = [f"http://{member.http_address}" for member in cluster.members.values()]
        async with connected(over_http if request.param == "http" else cluster.endpoints, name="edge-1") as api:
            yield Subject(api, publish, switch, tmp_path / "arriving")


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
    assert (first.workflow, first.pointer, first.how) == (WORKFLOW, "active", "fetch")
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

    inline: dict[str, Any] = {**mine, "digest": first.digest, "inline_bytes": limits.INLINE_BYTES}
    base = await subject.publish(b"two" * 1000)
    await subject.publish(b"two" * 999)
    await subject.switch(base)
    reply, frames_of = await subject.polled(2, **mine, inline_bytes=limits.INLINE_BYTES)
    (third,) = reply.instructions
    assert (third.how, third.content_bytes) == ("full", len(frames_of[WORKFLOW, "active"]))
    assert frames.unpack(frames_of[WORKFLOW, "active"], third.size_bytes) == b"two" * 1000
    (kept,) = (await subject.polled(2, **inline, kept=(third.digest,))).reply.instructions
    assert kept.how == "have"
    await subject.switch(base + 1)
    reply, frames_of = await subject.polled(3, **(inline | {"digest": third.digest}))
    (fourth,) = reply.instructions
    assert (fourth.how, fourth.delta_base, fourth.base_digest) == ("delta", third.digest, third.digest)
    frame = frames_of[WORKFLOW, "active"]
    assert frames.unpack_over(b"two" * 1000, frame, fourth.size_bytes) == b"two" * 999
    assert (await subject.polled(3, **mine)).frames == {}, "nobody asked for bytes"

    with pytest.raises(Conflict) as mismatch:
        await subject.poll(0, cluster_id="another", epoch=1)
    assert mismatch.value.reason is Reason.CLUSTER_MISMATCH
    with pytest.raises(NotFound) as missing:
        await subject.content(9)
    assert missing.value.reason is Reason.VERSION_NOT_FOUND

    report = ack(1, generation=2, running_generation=2, running_version=2, running_digest=second.digest)
    await subject.api.acknowledge([report])
    await subject.api.acknowledge([report, ack(2, generation=2)])
