"""ClusterService.Backup as a stream: its messages, its bounds, and that a caller who does not read is left."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from registry.client import Client
from registry.server import backup, limits
from registry.server.inspector import Inspector
from registry.server.services import backup as service
from registry.store.state import Rows
from registry.v1 import cluster_pb2
from tests.integration.server_kit import WAIT_S, Peer, failed, free_port, members, start_member, until
from tests.unit.logged import logged, said

WORKFLOW = "a/b"
CONTENTS = [os.urandom(900_000) for _ in range(20)]  # gRPC does not take all of it from a member unread


async def filled(peer: Peer) -> None:
    for content in CONTENTS:
        await peer.publish(WORKFLOW, content, kind="binary")


async def test_a_stream_is_a_whole_file_in_bounded_messages(tmp_path: Path) -> None:
    async with members(tmp_path) as (peer,):
        await filled(peer)
        stream = peer.cluster.Backup(cluster_pb2.BackupRequest())
        first, *data, last = [message async for message in stream]
    assert {message.WhichOneof("part") for message in data} == {"data"}
    sizes = [len(message.data) for message in data]
    whole = b"".join(message.data for message in data)
    assert max(sizes) == limits.BACKUP_MESSAGE_BYTES
    assert (last.end.size_bytes, last.end.sha256) == (len(whole), hashlib.sha256(whole).digest())
    about, header, chunks = backup.read(io.BytesIO(whole).read)
    assert (first.start.index, first.start.info.revision) == (about.index, about.revision)
    assert (first.start.info.epoch, first.start.info.cluster_id) == (1, about.cluster_id)
    assert first.start.estimated_bytes >= sum(map(len, CONTENTS))
    assert sum(len(chunk.rows) for chunk in chunks) == sum(header.rows.values())


async def test_backups_under_way_are_bounded_and_one_that_is_not_read_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BACKUP_STALL_S", 0.5)
    async with members(tmp_path) as (peer,):
        await filled(peer)
        unread = [peer.cluster.Backup(cluster_pb2.BackupRequest()) for _ in range(limits.BACKUPS)]
        for stream in unread:
            assert (await stream.read()).HasField("start")
        refused = await failed(_all(peer))
        assert (refused.reason, refused.code) == ("BUSY", grpc.StatusCode.UNAVAILABLE)

        async with asyncio.timeout(WAIT_S):
            while await _is_busy(peer):
                await asyncio.sleep(0.05)
        for stream in unread:
            stream.cancel()


async def _is_busy(peer: Peer) -> bool:
    try:
        await _all(peer)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def _all(peer: Peer, *, stale: bool = False) -> int:
    return len([message async for message in peer.cluster.Backup(cluster_pb2.BackupRequest(stale=stale))])


class FullError(Exception):
    pass


class Full(io.BytesIO):
    def write(self, data: Any) -> int:
        raise FullError


async def test_a_caller_that_cannot_keep_it_leaves_nothing_open(tmp_path: Path) -> None:
    async with members(tmp_path) as (peer,), Client([peer.member.api_address]) as client:
        await filled(peer)
        for _ in range(limits.BACKUPS + 1):
            with pytest.raises(FullError):
                await client.backup(Full())
        await client.backup(io.BytesIO())


async def test_a_backup_is_noted_with_the_moment_it_shows_before_its_first_byte(tmp_path: Path) -> None:
    async with members(tmp_path) as (peer,):
        await peer.publish(WORKFLOW, b"one", kind="binary")
        stream = peer.cluster.Backup(cluster_pb2.BackupRequest())
        start = (await stream.read()).start
        with peer.member._environment.snapshot() as reader:
            (noted,) = Rows(reader).backups()
        stream.cancel()
        shown = (start.info.revision, start.index, start.taken_ms, "n1")
        assert (noted.revision, noted.index, noted.taken_ms, noted.member) == shown
        await _all(peer, stale=True)
        with peer.member._environment.snapshot() as reader:
            assert len(list(Rows(reader).backups())) == 2


async def test_a_backup_without_a_quorum_is_given_and_not_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logged(monkeypatch, service)
    monkeypatch.setattr(limits, "NOTE_STALE_S", 0.1)
    cluster = {f"n{number}": f"127.0.0.1:{free_port()}" for number in (1, 2)}
    async with AsyncExitStack() as stack:
        inspector = await stack.enter_async_context(Inspector())
        peer = await start_member(stack, tmp_path, "n1", cluster, inspector)
        async with AsyncExitStack() as away:
            await start_member(away, tmp_path, "n2", cluster, inspector)
            await until(lambda: peer.member.ready)
            await peer.publish(WORKFLOW, b"one", kind="binary")
        assert await _all(peer, stale=True) > 2
    assert said(log, "no purge will name")
