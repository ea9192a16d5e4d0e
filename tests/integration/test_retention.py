"""Retention, hold and purge over real members: what goes is gone, what stays reads exactly."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from registry.core.limits import CHUNK_BYTES
from registry.server import upkeep
from registry.server.inspector import Inspector
from registry.store.state import Rows
from registry.v1 import agent_pb2, cluster_pb2, registry_pb2
from tests.integration.server_kit import RPC_S, WAIT_S, Peer, failed, free_port, members, start_member, until

WORKFLOW = "support/triage"
VERSIONS = 12


def contents(count: int = VERSIONS) -> list[bytes]:
    """Lines that do not shrink, a few of which change from version to version: deltas are worth it."""
    rng = random.Random(5)
    lines = [rng.randbytes(32).hex() for _ in range(200)]
    made = []
    for number in range(count):
        lines[number] = rng.randbytes(32).hex()
        made.append("\n".join(lines).encode())
    return made


async def publish_all(peer: Peer, workflow: str = WORKFLOW) -> list[bytes]:
    made = contents()
    for data in made:
        await peer.publish(workflow, data, kind="text")
    return made


async def set_policy(peer: Peer, scope: str = WORKFLOW, **fields: str) -> None:
    request = registry_pb2.SetPolicyRequest(scope=scope, fields=fields, reason="disks")
    await peer.registry.SetPolicy(request, timeout=RPC_S)


async def retain(peer: Peer, workflow: str = WORKFLOW, *, dry_run: bool = False) -> registry_pb2.RetainResponse:
    request = registry_pb2.RetainRequest(workflow=workflow, dry_run=dry_run, principal="ada", reason="full")
    reply: registry_pb2.RetainResponse = await peer.registry.Retain(request, timeout=RPC_S)
    return reply


async def cat(peer: Peer, number: int, workflow: str = WORKFLOW) -> bytes:
    request = registry_pb2.GetContentRequest(workflow=workflow, reference=str(number))
    return bytes((await peer.registry.GetContent(request, timeout=RPC_S)).content)


async def is_gone(peer: Peer, number: int, workflow: str = WORKFLOW) -> bool:
    try:
        await cat(peer, number, workflow)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


async def indexed(peers: list[Peer]) -> None:
    await until(lambda: all(peer.member.feed.registry.is_indexed for peer in peers))


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_INTERVAL_S", 0.05)


def rows_by_rule(reply: registry_pb2.RetainResponse) -> dict[int, set[str]]:
    return {each.version: set(each.kept_by) for each in reply.versions}


async def test_what_no_rule_keeps_goes_and_the_rest_reads_exactly(tmp_path: Path) -> None:
    async with members(tmp_path, 3) as peers:
        await indexed(peers)
        made = await publish_all(peers[0])
        with peers[0].member._environment.snapshot() as reader:
            depths = {row.depth for _, row in Rows(reader).contents()}
        assert max(depths) > 3  # they do rest on one another
        await peers[0].switch(WORKFLOW, 2)
        await peers[0].switch(WORKFLOW, 3)  # 2 is what a rollback goes to
        await peers[0].registry.Hold(hold(4), timeout=RPC_S)
        await peers[0].registry.Label(
            registry_pb2.LabelRequest(workflow=WORKFLOW, reference="5", labels={"approved": "yes"}), timeout=RPC_S
        )
        await peers[0].registry.Mark(
            registry_pb2.MarkRequest(workflow=WORKFLOW, reference="6", status="stable", reason="good"), timeout=RPC_S
        )
        await peers[0].switch(WORKFLOW, 7, pointer="canary")
        await acknowledge(peers[0], made[6])
        await set_policy(peers[0], keep_last="2")

        planned = await retain(peers[1], dry_run=True)
        rules = {
            2: "previous",
            3: "pointer",
            4: "held",
            5: "labelled",
            6: "stable",
            7: "agent",
            11: "last",
            12: "newest",
        }
        for number, rule in rules.items():
            assert rule in rows_by_rule(planned)[number]
        assert [number for number, by in rows_by_rule(planned).items() if not by] == [10, 9, 8, 1]
        assert (planned.removed, planned.kept) == (4, 8)
        assert [await cat(peers[0], number) for number in range(1, VERSIONS + 1)] == made  # nothing went

        done = await retain(peers[1])
        assert (done.removed, done.kept, done.freed_bytes) == (4, 8, planned.freed_bytes)
        assert rows_by_rule(done) == rows_by_rule(planned)
        for peer in peers:
            for number in range(1, VERSIONS + 1):
                if number in rules:
                    assert await cat(peer, number) == made[number - 1]
                else:
                    assert await is_gone(peer, number)
        refused = await failed(cat(peers[2], 9))  # type: ignore[arg-type]
        assert (refused.reason, refused.metadata["cause"]) == ("CONTENT_REMOVED", "retention")
        assert "ada" in refused.message
        assert "full" in refused.message
        version = await peers[2].registry.GetVersion(
            registry_pb2.GetVersionRequest(workflow=WORKFLOW, reference="9"), timeout=RPC_S
        )
        assert (version.version.removed.cause, version.version.removed.principal) == ("retention", "ada")
        newest = await history(peers[2])
        assert (newest.action, sorted(each.version for each in newest.removed)) == ("retention", [1, 8, 9, 10])
        assert (await retain(peers[0])).removed == 0

        again = await peers[0].publish(WORKFLOW, made[8], kind="text")  # it may come back
        assert await cat(peers[1], again.version.number) == made[8]


def hold(number: int, *, release: bool = False) -> registry_pb2.HoldRequest:
    return registry_pb2.HoldRequest(workflow=WORKFLOW, reference=str(number), hold=not release, reason="audit")


async def history(peer: Peer) -> registry_pb2.Change:
    reply = await peer.registry.GetHistory(registry_pb2.GetHistoryRequest(workflow=WORKFLOW), timeout=RPC_S)
    newest: registry_pb2.Change = reply.changes[0]
    return newest


async def acknowledge(peer: Peer, content: bytes) -> None:
    ack = agent_pb2.Ack(
        agent="edge-1",
        incarnation="i1",
        sequence=1,
        workflow=WORKFLOW,
        pointer="canary",
        generation=1,
        phase="confirmed",
        running_generation=1,
        running_version=7,
        running_digest=digest_of(content),
    )
    await peer.agents.Acknowledge(agent_pb2.AcknowledgeRequest(acks=[ack]), timeout=RPC_S)


async def test_the_leader_lets_go_by_itself_and_says_whose_policy_it_was(tmp_path: Path) -> None:
    async with members(tmp_path) as (peer,):
        await indexed([peer])
        made = await publish_all(peer)
        await peer.registry.Hold(hold(3), timeout=RPC_S)
        await peer.registry.Hold(hold(3, release=True), timeout=RPC_S)
        await set_policy(peer, "support/*", keep_last="2")
        peer.member._parts._upkeep._due.clear()  # as an hour later
        await until(
            lambda: 'registry_contents_removed_total{cause="retention"} 10.0' in peer.member.metrics.text().decode()
        )
        assert [await is_gone(peer, number) for number in range(1, 13)] == [True] * 10 + [False] * 2
        assert await cat(peer, 11) == made[10]
        newest = await history(peer)
        assert (newest.principal, newest.reason) == ("registry", "policy of support/*: keep_last=2")
        assert 'registry_upkeep_seconds_total{step="retention"}' in peer.member.metrics.text().decode()


async def test_abandoned_chunks_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "CHUNK_ABANDONED_S", 0.2)
    monkeypatch.setattr(upkeep, "COLLECT_INTERVAL_S", 0.1)
    data = os.urandom(CHUNK_BYTES)
    digest = digest_of(data)
    async with members(tmp_path) as (peer,):
        await peer.registry.PutChunk(registry_pb2.PutChunkRequest(digest=digest, data=data), timeout=RPC_S)
        assert not await missing(peer, digest)
        await until(lambda: not uses(peer, digest))


def uses(peer: Peer, digest: str) -> bool:
    with peer.member._environment.snapshot() as reader:
        return Rows(reader).chunk_uses(digest) is not None


async def missing(peer: Peer, digest: str) -> bool:
    reply = await peer.registry.FindChunks(registry_pb2.FindChunksRequest(digests=[digest]), timeout=RPC_S)
    return bool(reply.missing)


async def test_contents_are_packed_again_when_they_are_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "REPACK_AFTER_S", 0.0)
    monkeypatch.setattr(upkeep, "REPACK_REST_S", 0.0)
    words = [str(number * number) for number in range(4000)]
    made = [" ".join(words[start:] + words[:start]).encode() for start in range(3)]
    async with members(tmp_path) as (peer,):
        for data in made:
            await peer.publish(WORKFLOW, data, kind="text")
        await until(lambda: settled(peer))
        assert [await cat(peer, number) for number in (1, 2, 3)] == made


def settled(peer: Peer) -> bool:
    with peer.member._environment.snapshot() as reader:
        return any(row.settled for _, row in Rows(reader).contents())


async def purge(peer: Peer, number: int, *, dry_run: bool = False, **fields: Any) -> registry_pb2.PurgeResponse:
    request = registry_pb2.PurgeRequest(
        workflow=WORKFLOW, reference=str(number), reason="a key", principal="ada", dry_run=dry_run, **fields
    )
    reply: registry_pb2.PurgeResponse = await peer.registry.Purge(request, timeout=RPC_S)
    return reply


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def holds(path: Path, marker: bytes) -> list[str]:
    """Members with files that hold these bytes. Files come and go meanwhile."""
    found = set()
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if marker in Path(directory, name).read_bytes():
                    found.add(Path(directory).relative_to(path).parts[0])
    return sorted(found)


async def until_held_by(path: Path, marker: bytes, *names: str) -> None:
    """Not by polling all the time: it reads whole databases on the loop."""
    async with asyncio.timeout(WAIT_S):
        while holds(path, marker) != list(names):
            await asyncio.sleep(0.1)


async def test_purged_bytes_are_in_no_file_of_any_member_and_stay_out(tmp_path: Path) -> None:
    secret = os.urandom(6000)  # stored as it is
    marker = secret[3000:3032]
    near = secret[:2000] + secret[4000:]  # rests on it
    async with members(tmp_path, 3) as peers:
        await indexed(peers)
        await peers[0].publish(WORKFLOW, b"one", kind="binary")
        await peers[0].publish(WORKFLOW, secret, kind="binary")
        await peers[0].publish("support/other", secret, kind="binary")
        await peers[0].publish(WORKFLOW, near, kind="binary")
        async for _ in peers[1].cluster.Backup(cluster_pb2.BackupRequest()):
            pass
        assert holds(tmp_path, marker) == ["n1", "n2", "n3"]
        with peers[0].member._environment.snapshot() as reader:
            assert list(Rows(reader).deltas(digest_of(secret))) == [digest_of(near)]

        await peers[0].switch(WORKFLOW, 2)
        refused = await failed(purge(peers[0], 2))  # type: ignore[arg-type]
        assert refused.reason == "VERSION_IN_USE"
        assert (await failed(purge(peers[0], 2, dry_run=True))).reason == "VERSION_IN_USE"  # type: ignore[arg-type]
        await peers[0].switch(WORKFLOW, 1)

        shown = await purge(peers[1], 2, dry_run=True)
        assert holds(tmp_path, marker) == ["n1", "n2", "n3"]
        done = await purge(peers[1], 2)
        assert (shown.removed, shown.backups, shown.digest) == (done.removed, done.backups, done.digest)
        assert [(each.workflow, each.version) for each in done.removed] == [("support/other", 1), (WORKFLOW, 2)]
        assert [each.member for each in done.backups] == ["n2"]

        await until_held_by(tmp_path, marker)
        assert (await failed(cat(peers[2], 2))).metadata["cause"] == "purge"  # type: ignore[arg-type]
        assert await cat(peers[2], 3) == near
        again = await failed(peers[0].publish("support/third", secret, kind="binary"))  # type: ignore[arg-type]
        assert again.reason == "CONTENT_PURGED"
        assert not holds(tmp_path, marker)
        assert (await history(peers[2])).action == "purge"
    assert not holds(tmp_path, marker)


async def test_a_member_that_was_away_during_a_purge_forgets_too(tmp_path: Path) -> None:
    """What the others have left of their log does not reach back to where it stands: it fetches a state."""
    secret = os.urandom(6000)
    marker = secret[3000:3032]
    cluster = {f"n{number}": f"127.0.0.1:{free_port()}" for number in (1, 2, 3)}
    async with AsyncExitStack() as stack:
        inspector = await stack.enter_async_context(Inspector())
        peers = [await start_member(stack, tmp_path, name, cluster, inspector) for name in ("n1", "n2")]
        async with AsyncExitStack() as away:
            await start_member(away, tmp_path, "n3", cluster, inspector)
            await until(lambda: all(peer.member.ready for peer in peers))
            await indexed(peers)
            await peers[0].publish(WORKFLOW, secret, kind="binary")
            await peers[0].publish(WORKFLOW, b"two", kind="binary")
            await until_held_by(tmp_path, marker, "n1", "n2", "n3")
        await purge(peers[0], 1)
        await peers[0].publish(WORKFLOW, b"three", kind="binary")
        await until_held_by(tmp_path, marker, "n3")
        back = await start_member(stack, tmp_path, "n3", cluster, inspector)
        await until(lambda: back.member.ready)
        await until_held_by(tmp_path, marker)
        assert await is_gone(back, 1)
        assert await cat(back, 3) == b"three"
        await back.publish(WORKFLOW, b"four", kind="binary")
    assert not holds(tmp_path, marker)
