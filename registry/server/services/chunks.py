"""Chunks of large content: which are missing, one in, one out. They never change, so any member may give them."""

from __future__ import annotations

import asyncio

from registry.core import commands, limits, model, names
from registry.core.errors import Invalid, NotFound, Reason
from registry.server.budget import Budget
from registry.server.feed import busy
from registry.server.limits import CHUNKS_UNDER_WAY
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.reads import Reads
from registry.store import content, queries
from registry.store.state import Rows
from registry.v1 import registry_pb2

WHAT = "content in chunks"
LEVEL = 5  # of zstd: packed while a client waits, and higher ones take several times as long for a few percent


class Chunks:
    def __init__(self, *, proposer: Proposer, reads: Reads, replies: Replies) -> None:
        self._proposer = proposer
        self._reads = reads
        self._replies = replies
        self._taking = _Bound("chunks are on their way into the log")
        self._giving = _Bound("chunks are being read")

    async def find_chunks(
        self, request: registry_pb2.FindChunksRequest, timeout_s: float
    ) -> registry_pb2.FindChunksResponse:
        if len(request.digests) > limits.CHUNKS:
            raise Invalid(
                Reason.TOO_LARGE,
                f"{len(request.digests)} chunks in one call",
                hint=f"ask for at most {limits.CHUNKS}",
                metadata={"limit": str(limits.CHUNKS)},
            )
        for digest in request.digests:
            names.check_digest(digest)
        budget = Budget(timeout_s)
        await self._proposer.require_level_2(WHAT, budget.left_s())
        await self._proposer.barrier(budget.left_s())
        with self._reads.peek() as reader:
            rows = Rows(reader)
            missing = [each for each in dict.fromkeys(request.digests) if rows.chunk_uses(each) is None]
            info = self._replies.info(queries.registry(reader).revision)
        return registry_pb2.FindChunksResponse(info=info, missing=missing)

    async def put_chunk(self, request: registry_pb2.PutChunkRequest, timeout_s: float) -> registry_pb2.PutChunkResponse:
        names.check_digest(request.digest)
        _check_size(len(request.data))
        budget = Budget(timeout_s)
        await self._proposer.require_level_2(WHAT, budget.left_s())
        with self._taking:
            stored = await asyncio.to_thread(_packed, request.data, request.digest)
            if self._is_here(request.digest):
                return registry_pb2.PutChunkResponse(info=self._replies.info(self._reads.revision))
            command = commands.PutChunk(
                request_id=self._proposer.new_request_id(),
                time_ms=self._proposer.clock_ms(),
                digest=request.digest,
                content=stored,
            )
            outcome = await self._proposer.propose(command, budget.left_s())
        return registry_pb2.PutChunkResponse(info=self._replies.info(outcome.revision))

    async def get_chunk(self, request: registry_pb2.GetChunkRequest, timeout_s: float) -> registry_pb2.GetChunkResponse:
        names.check_digest(request.digest)
        stored = self._stored(request.digest)
        if stored is None:  # another member gave its digest out, and this one may be behind
            await self._proposer.barrier(timeout_s)
            stored = self._stored(request.digest)
        if stored is None:
            raise NotFound(
                Reason.CHUNK_NOT_FOUND,
                f"there is no chunk {request.digest}",
                hint="read the version again: its content may have been removed",
                metadata={"digest": request.digest},
            )
        with self._giving:
            data = await asyncio.to_thread(content.decode, stored, request.digest)
        return registry_pb2.GetChunkResponse(info=self._replies.info(self._reads.revision), data=data)

    def _stored(self, digest: str) -> model.Content | None:
        with self._reads.peek() as reader:
            return Rows(reader).chunk(digest)

    def _is_here(self, digest: str) -> bool:
        with self._reads.peek() as reader:
            return Rows(reader).chunk_uses(digest) is not None


class _Bound:
    """At most CHUNKS_UNDER_WAY at once. Raises BUSY."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0

    def __enter__(self) -> None:
        if self._count >= CHUNKS_UNDER_WAY:
            raise busy(f"{self._count} {self._what} already")
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1


def _check_size(size_bytes: int) -> None:
    if not size_bytes:
        raise Invalid(Reason.INVALID_CONTENT, "the chunk has zero bytes; nothing was stored", hint="leave it out")
    if size_bytes > limits.CHUNK_BYTES:
        raise Invalid(
            Reason.TOO_LARGE,
            f"the chunk has {size_bytes:,} bytes; nothing was stored",
            hint=f"a chunk has {limits.CHUNK_BYTES} bytes, the last one of a content at most that",
            metadata={"limit": str(limits.CHUNK_BYTES), "size_bytes": str(size_bytes)},
        )


def _packed(data: bytes, digest: str) -> model.Content:
    """Raises Invalid(INVALID_CONTENT) if these are other bytes."""
    if (actual := content.digest(data)) != digest:
        raise Invalid(
            Reason.INVALID_CONTENT,
            f"the chunk was announced as {digest}, and its bytes are {actual}; nothing was stored",
            hint="the file may have changed while it was read: publish it again",
            metadata={"digest": digest},
        )
    return content.encode(data, LEVEL)
