"""ClusterService.Backup: one snapshot as a stream, while the member goes on.

The snapshot is read on the member's loop, a chunk at a time, and the loop rests from it as long as each chunk took. A
caller that does not read holds nothing but the snapshot, and not for ever: what a snapshot shows cannot be reused on
the disk. It is left without a word, since what is said would stand behind what it does not read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from importlib import metadata

import structlog

from cluster.kv.api import Environment
from registry.core import commands, model
from registry.core.errors import RegistryError
from registry.server import backup, limits
from registry.server.backup import About
from registry.server.feed import Feed, busy
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.v1 import cluster_pb2

RELEASE = metadata.version("workflow-registry")
log = structlog.get_logger()


class Backups:
    def __init__(
        self,
        *,
        member: str,
        environment: Environment,
        proposer: Proposer,
        feed: Feed,
        replies: Replies,
    ) -> None:
        self._member = member
        self._environment = environment
        self._proposer = proposer
        self._feed = feed
        self._replies = replies
        self._open = 0

    async def backup(self, request: cluster_pb2.BackupRequest) -> AsyncIterator[cluster_pb2.BackupResponse]:
        if not self._feed.registry.cluster_id:
            raise busy("this member knows nothing yet: it has not been admitted, or fetches the state")
        if self._open >= limits.BACKUPS:
            raise busy(f"{self._open} backups are under way on this member, as many as it gives")
        if not request.stale:
            await self._proposer.barrier(limits.CALL_S)
        self._open += 1
        try:
            async for message in self._stream(stale=request.stale):
                yield message
        finally:
            self._open -= 1

    async def _note(self, about: About, timeout_s: float) -> None:
        """Before the first byte leaves, so that a purge can name this backup. One that cannot be noted is given all the
        same: there may be no quorum, or no room."""
        if self._proposer.level < 2:
            return
        noted = model.Backup(revision=about.revision, index=about.index, taken_ms=about.taken_ms, member=about.member)
        note = commands.NoteBackup(
            request_id=self._proposer.new_request_id(), time_ms=self._proposer.clock_ms(), backup=noted
        )
        try:
            await self._proposer.propose(note, timeout_s)
        except RegistryError as error:
            log.warning("gives a backup that no purge will name", reason=error.reason, error=error.message)

    async def _stream(self, *, stale: bool) -> AsyncIterator[cluster_pb2.BackupResponse]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        with self._environment.snapshot() as reader:
            info = self._replies.info(0, stale=stale)
            about = backup.about(
                reader,
                member=self._member,
                release=RELEASE,
                taken_ms=self._proposer.clock_ms(),
                age_ms=info.age_ms,
            )
            info.revision, info.epoch = about.revision, about.epoch
            await self._note(about, limits.NOTE_STALE_S if stale else limits.CALL_S)
            estimated_bytes = sum(self._environment.size_bytes(table) for table in backup.TABLES)
            start = cluster_pb2.BackupStart(
                info=info, index=about.index, taken_ms=about.taken_ms, estimated_bytes=estimated_bytes
            )
            yield cluster_pb2.BackupResponse(start=start)
            digest, size_bytes = hashlib.sha256(), 0
            pieces = backup.pieces(reader, about)
            stalled = loop.call_later(limits.BACKUP_STALL_S, task.cancel)
            try:
                while True:
                    began = loop.time()
                    piece = next(pieces, None)
                    if piece is None:
                        break
                    digest.update(piece)
                    size_bytes += len(piece)
                    took_s = loop.time() - began
                    for data in _cut(piece):
                        yield cluster_pb2.BackupResponse(data=data)
                    stalled.cancel()
                    stalled = loop.call_later(limits.BACKUP_STALL_S, task.cancel)
                    await asyncio.sleep(took_s)
            finally:
                stalled.cancel()
        yield cluster_pb2.BackupResponse(end=cluster_pb2.BackupEnd(size_bytes=size_bytes, sha256=digest.digest()))


def _cut(piece: bytes) -> Iterator[bytes]:
    for start in range(0, len(piece), limits.BACKUP_MESSAGE_BYTES):
        yield piece[start : start + limits.BACKUP_MESSAGE_BYTES]
