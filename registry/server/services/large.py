"""Publishing large content: its chunks are here already, and nobody has the whole of it in memory.

It is kept as it is. No format reads it, so it is of kind text or binary, without findings, summary and verdict.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from typing import cast

from msgspec import structs

from registry.core import commands, limits, model, names, outcomes, publishing
from registry.core.errors import Invalid, Reason, Refused, RegistryError, error
from registry.server import convert
from registry.server.budget import Budget
from registry.server.feed import busy
from registry.server.limits import LARGE_AT_ONCE
from registry.server.proposer import Proposer
from registry.server.replies import Replies
from registry.server.services.chunks import WHAT
from registry.server.services.reads import Reads
from registry.server.status import rejection
from registry.store import content
from registry.store.state import Rows
from registry.v1 import registry_pb2

TEXT, BINARY = "text", "binary"  # kinds of content that nothing has to read


class LargePublish:
    """limit_bytes: of one content in chunks; content_limit_bytes: of what is read. Set by the operator."""

    def __init__(
        self, *, proposer: Proposer, reads: Reads, replies: Replies, limit_bytes: int, content_limit_bytes: int
    ) -> None:
        self._proposer = proposer
        self._reads = reads
        self._replies = replies
        self._limit_bytes = limit_bytes
        self._content_limit_bytes = content_limit_bytes
        self._hashing = asyncio.Semaphore(LARGE_AT_ONCE)

    async def publish(
        self, request: registry_pb2.PublishRequest, request_id: str, parents: tuple[int, ...], budget: Budget
    ) -> registry_pb2.PublishResponse:
        """What can be refused is refused before the chunks are looked at: clients ask first and send afterwards."""
        self._check(request)
        await self._proposer.require_level_2(WHAT, budget.left_s())
        command = self._command(request, request_id, parents)
        try:
            kind = self._decided(command, request.kind) or await self._kind(request, budget)
            outcome = await self._proposer.propose(structs.replace(command, kind=kind), budget.left_s())
        except Refused as refusal:
            raise self._explained(refusal, request.large) from None
        assert isinstance(outcome, outcomes.Published)
        kept_as_it_is = f"{self._why(request.large)}: kept as it is, not read, checked or compared"
        return registry_pb2.PublishResponse(
            info=self._replies.info(outcome.revision),
            version=convert.version(outcome.version),
            created=outcome.created,
            notes=[*outcome.notes, kept_as_it_is, *convert.unkept_needs(outcome, request.needs)],
        )

    def _why(self, large: registry_pb2.LargeContent) -> str:
        """Nobody has read it."""
        limit_bytes = self._content_limit_bytes
        return f"larger than {limit_bytes:,} bytes" if large.size_bytes > limit_bytes else "sent in chunks"

    def _check(self, request: registry_pb2.PublishRequest) -> None:
        large = request.large
        if request.content:
            raise Invalid(
                Reason.INVALID_REQUEST,
                "the request holds content, and names chunks; nothing was stored",
                hint="give one of them",
            )
        names.check_digest(large.digest)
        for digest in large.chunks:
            names.check_digest(digest)
        if request.kind not in ("", TEXT, BINARY):
            raise Invalid(
                Reason.INVALID_CONTENT,
                f"content in chunks is not read, so it cannot be of kind {request.kind}; nothing was stored",
                hint="publish it with kind text or binary under a name of its own, or have the members started with a "
                f"higher --content-limit BYTES, up to {limits.CONTENT_BYTES_CEILING}",
            )
        if large.size_bytes > self._limit_bytes:
            raise Invalid(
                Reason.TOO_LARGE,
                f"the content has {large.size_bytes:,} bytes, {self._limit_bytes:,} are allowed; nothing was stored",
                hint="start the members with a higher --large-content-limit BYTES, up to "
                f"{limits.LARGE_CONTENT_BYTES_CEILING}",
                metadata={"limit": str(self._limit_bytes), "size_bytes": str(large.size_bytes)},
            )
        count = -(-large.size_bytes // limits.CHUNK_BYTES)
        if not count or len(large.chunks) != count:
            raise Invalid(
                Reason.INVALID_CONTENT,
                f"{len(large.chunks)} chunks for {large.size_bytes:,} bytes; nothing was stored",
                hint=f"every chunk has {limits.CHUNK_BYTES} bytes, the last one the rest: that makes {count}",
            )

    def _command(
        self, request: registry_pb2.PublishRequest, request_id: str, parents: tuple[int, ...]
    ) -> commands.Publish:
        """But for the kind, which may have to be found."""
        large = request.large
        digest_hex = large.digest.removeprefix("sha256:")
        return commands.Publish(
            request_id=request_id,
            time_ms=self._proposer.clock_ms(),
            principal=request.principal,
            workflow=request.workflow,
            kind=BINARY,
            digest=large.digest,
            value_digest=f"v1:{digest_hex}",  # as text and binary content has them
            semantic_digest=f"s1:{digest_hex}",
            content=model.Content(encoding="chunks", data=b"", size_bytes=large.size_bytes, chunks=tuple(large.chunks)),
            message=request.message,
            labels=dict(request.labels),
            parents=parents,
            parent_references=tuple(request.parents),
            requires=tuple(dict.fromkeys(request.requires)),
            asked_requires=tuple(request.requires),
            snapshot=cast(model.Snapshot, request.snapshot or "published"),  # checked with the command
            needs=tuple(request.needs),
        )

    def _decided(self, command: commands.Publish, asked_kind: str) -> str:
        """The kind, where the request was decided already: apply has the outcome. Else empty.
        Raises what apply would refuse now, whatever is in the chunks, and CHUNKS_MISSING."""
        with self._reads.peek() as reader:
            rows = Rows(reader)
            known = rows.remembered(command.request_id)
            if known is not None and isinstance(known.outcome, outcomes.Published):
                return known.outcome.version.kind
            workflow = rows.workflow(command.workflow)
            likely = asked_kind or (workflow.kind if workflow and workflow.kind in (TEXT, BINARY) else BINARY)
            missing = [each for each in dict.fromkeys(command.content.chunks) if rows.chunk_uses(each) is None]
            decided = None
            if known is None:
                decided = publishing.decide(rows, structs.replace(command, kind=likely), level=self._proposer.level)
        if isinstance(decided, outcomes.Rejected):
            raise rejection(decided)
        if missing:
            raise chunks_missing(missing)
        return ""

    async def _kind(self, request: registry_pb2.PublishRequest, budget: Budget) -> str:
        """Looks at every chunk. Raises INVALID_CONTENT if they are not what was announced."""
        whole = Whole()
        last = len(request.large.chunks) - 1
        rest = request.large.size_bytes - last * limits.CHUNK_BYTES
        try:
            async with asyncio.timeout(budget.left_s()), self._hashing:
                for index, digest in enumerate(request.large.chunks):
                    with self._reads.peek() as reader:
                        stored = Rows(reader).chunk(digest)
                    if stored is None:
                        raise chunks_missing([digest])
                    if stored.size_bytes != (rest if index == last else limits.CHUNK_BYTES):
                        raise _other_bytes(f"chunk {index + 1} of {last + 1} has {stored.size_bytes:,} bytes")
                    await asyncio.to_thread(whole.add, stored, digest)
        except TimeoutError:
            raise busy(
                "the chunks could not be looked at in time; this attempt stored nothing, and an earlier one with the "
                "same request id may have"
            ) from None
        if (digest := whole.finish()) != request.large.digest:
            raise _other_bytes(f"the chunks together are {digest}, announced was {request.large.digest}")
        if request.kind == TEXT and not whole.is_text:
            raise _other_bytes("it is not text: a NUL byte, or not UTF-8", hint="publish it with kind binary")
        return request.kind or (TEXT if whole.is_text else BINARY)

    def _explained(self, refusal: RegistryError, large: registry_pb2.LargeContent) -> RegistryError:
        """That the kind does not fit may come of this alone: a format did not read it."""
        kind = refusal.metadata.get("kind", "")
        if refusal.reason is not Reason.KIND_MISMATCH or kind in (TEXT, BINARY):
            return refusal
        return error(
            refusal.reason,
            f"{refusal.metadata.get('workflow')} is of kind {kind}, and this content is not read, because it is "
            f"{self._why(large)}; nothing was stored",
            hint="publish it under another name, as text or binary, or have the members started with a higher "
            f"--content-limit BYTES, up to {limits.CONTENT_BYTES_CEILING}",
            metadata=refusal.metadata,
        )


class Whole:
    """Content that goes by, one chunk after the other."""

    def __init__(self) -> None:
        self.is_text = True
        self._sha256 = hashlib.sha256()
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def finish(self) -> str:
        """Its digest. From now on `is_text` is true of the whole."""
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            self.is_text = False
        return f"sha256:{self._sha256.hexdigest()}"

    def add(self, stored: model.Content, digest: str) -> None:
        """CPU-bound. Raises CORRUPT_CONTENT."""
        data = content.decode(stored, digest)
        self._sha256.update(data)
        if not self.is_text:
            return
        try:
            self._decoder.decode(data)
            self.is_text = b"\0" not in data
        except UnicodeDecodeError:
            self.is_text = False


def chunks_missing(missing: list[str]) -> RegistryError:
    return error(
        Reason.CHUNKS_MISSING,
        f"{len(missing)} chunks of the content are not here; nothing was stored",
        hint="send them (FindChunks says which), then repeat the publish",
        metadata={"missing": str(len(missing)), "digests": ",".join(missing[: limits.MISSING_SHOWN])},
    )


def _other_bytes(what: str, hint: str = "the file may have changed while it was read: publish it again") -> Invalid:
    return Invalid(Reason.INVALID_CONTENT, f"{what}; nothing was stored", hint=hint)
