"""Stored contents: what they rest on (another content as a dictionary, chunks), and how they come, change and go.

A delta is deeper than its base, always: a chain ends, and never goes round. Its base stays as long as it does.
"""

from __future__ import annotations

from itertools import islice

from registry.core import limits
from registry.core.commands import Collect, PutChunk, Repack
from registry.core.decisions import reject
from registry.core.encoding import fingerprint
from registry.core.errors import Reason
from registry.core.model import Content
from registry.core.outcomes import ChunkKept, Collected, Rejected, Repacked
from registry.core.state import State, View


def refuse(state: View, digest: str, content: Content) -> Rejected | None:
    """Why new content cannot be stored as it is: what it rests on is not there. Another try may do better."""
    if content.encoding == "delta" and not _is_base(state, content):
        return reject(
            state,
            Reason.BASE_OUTDATED,
            f"the content {digest} was packed with the help of {content.base}, which is not stored that way any more; "
            "nothing was stored",
            hint="repeat it: the content is packed again",
            metadata={"digest": digest, "base": content.base},
        )
    missing = [chunk for chunk in dict.fromkeys(content.chunks) if state.chunk_uses(chunk) is None]
    if not missing:
        return None
    return reject(
        state,
        Reason.CHUNKS_MISSING,
        f"{len(missing)} of the {len(content.chunks)} chunks of {digest} are not here; nothing was stored",
        hint="send them, then repeat the publish",
        metadata={
            "digest": digest,
            "missing": str(len(missing)),
            "digests": ",".join(missing[: limits.MISSING_SHOWN]),
        },
    )


def store(state: State, digest: str, content: Content) -> None:
    """New content that nothing refuses."""
    state.put_content(digest, content)
    for chunk in dict.fromkeys(content.chunks):
        state.put_chunk_uses(chunk, _uses(state, chunk) + 1)


def drop(state: State, digest: str) -> None:
    """With the chunks that no other content names. No delta may rest on it."""
    content = state.content(digest)
    if content is None:
        raise KeyError(f"content {digest} is missing")
    state.delete_content(digest)
    for chunk in dict.fromkeys(content.chunks):
        uses = _uses(state, chunk) - 1
        if uses:
            state.put_chunk_uses(chunk, uses)
        else:
            state.delete_chunk(chunk)


def repack(state: State, command: Repack) -> Repacked:
    before, after = state.content(command.digest), command.content
    done = (
        before is not None
        and before.encoding != "chunks"
        and fingerprint(before) == command.was
        and before.size_bytes == after.size_bytes
        and (after.encoding != "delta" or _is_base(state, after))
        and (after.depth <= before.depth or not any(islice(state.deltas(command.digest), 1)))
    )
    if done:
        state.put_content(command.digest, after)
    return Repacked(revision=state.registry().revision, done=done)


def put_chunk(state: State, command: PutChunk) -> ChunkKept:
    if state.chunk_uses(command.digest) is None:
        state.put_chunk(command.digest, command.content)
    return ChunkKept(revision=state.registry().revision)


def collect(state: State, command: Collect) -> Collected:
    unused = [digest for digest in dict.fromkeys(command.digests) if state.chunk_uses(digest) == 0]
    for digest in unused:
        state.delete_chunk(digest)
    return Collected(revision=state.registry().revision, deleted=len(unused))


def _is_base(state: View, content: Content) -> bool:
    base = state.content(content.base)
    return base is not None and base.encoding != "chunks" and base.depth + 1 == content.depth


def _uses(state: View, chunk: str) -> int:
    uses = state.chunk_uses(chunk)
    if uses is None:
        raise KeyError(f"chunk {chunk} is missing")
    return uses
