"""Large content on its way: in chunks, a few at once, and only those that the other side does not have."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import io
import os
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from msgspec import Struct

from registry.client import limits
from registry.client.calls import Attempt, Plan, rpc
from registry.core.errors import Invalid, Reason, Refused
from registry.core.limits import CHUNK_BYTES, CONTENT_BYTES_CEILING, LARGE_CONTENT_BYTES_CEILING
from registry.core.model import Version
from registry.v1 import registry_pb2

Progress = Callable[[int, int], None]  # bytes that have arrived, bytes of the whole
Readable = bytes | Path | BinaryIO
Run = Callable[[Plan, Attempt[Any]], Awaitable[Any]]
_Result = TypeVar("_Result")


class Source:
    """A file that can be read twice: first for its digests, then to send what is missing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell()
        self.size_bytes = file.seek(0, os.SEEK_END) - self._start
        self._reading = asyncio.Lock()

    async def chunk(self, index: int) -> bytes:
        if isinstance(self._file, io.BytesIO):  # without giving way: calls started together must travel together
            return self._read(index)
        async with self._reading:
            return await asyncio.to_thread(self._read, index)

    async def all(self) -> bytes:
        return b"".join([await self.chunk(index) for index in range(-(-self.size_bytes // CHUNK_BYTES))])

    def _read(self, index: int) -> bytes:
        self._file.seek(self._start + index * CHUNK_BYTES)
        return self._file.read(CHUNK_BYTES)


class Summed(Struct, frozen=True, kw_only=True):
    """What a publish of large content says of it."""

    digest: str
    size_bytes: int
    chunks: tuple[str, ...]


@contextmanager
def opened(content: Readable) -> Iterator[Source]:
    """What cannot be read twice, a pipe, is copied to a temporary file. Raises OSError."""
    if isinstance(content, bytes):
        yield Source(io.BytesIO(content))
    elif isinstance(content, Path):
        with content.open("rb") as file:
            yield from _seekable(file)
    else:
        yield from _seekable(content)


def _seekable(file: BinaryIO) -> Iterator[Source]:
    if file.seekable():
        yield Source(file)
        return
    head = _taken(file, CONTENT_BYTES_CEILING + 1)
    if len(head) <= CONTENT_BYTES_CEILING:
        yield Source(io.BytesIO(head))
        return
    with tempfile.TemporaryFile() as copy:
        copy.write(head)
        left = LARGE_CONTENT_BYTES_CEILING + 1 - len(head)  # one byte more than any registry takes
        while left and (data := _taken(file, min(CHUNK_BYTES, left))):
            copy.write(data)
            left -= len(data)
        copy.seek(0)
        yield Source(cast(BinaryIO, copy))


def _taken(file: BinaryIO, size_bytes: int) -> bytes:
    """So many bytes, or fewer at the end."""
    parts = []
    while size_bytes and (data := file.read(size_bytes)):
        parts.append(data)
        size_bytes -= len(data)
    return b"".join(parts)


def refused_for_size(error: Invalid, size_bytes: int) -> bool:
    """Whether a publish was refused because the content is larger than what this registry reads."""
    return error.reason is Reason.TOO_LARGE and error.metadata.get("size_bytes") == str(size_bytes)


async def summed(source: Source) -> Summed:
    """Reads the whole of it. Raises Invalid TOO_LARGE."""
    if source.size_bytes > LARGE_CONTENT_BYTES_CEILING:
        raise Invalid(
            Reason.TOO_LARGE,
            f"the content exceeds {LARGE_CONTENT_BYTES_CEILING:,} bytes, the most any registry takes; nothing was sent",
            hint="keep large data beside the workflow, and publish where it is",
            metadata={"limit": str(LARGE_CONTENT_BYTES_CEILING)},
        )
    whole, size_bytes = hashlib.sha256(), 0
    digests: list[str] = []
    while size_bytes < source.size_bytes and (data := await source.chunk(len(digests))):
        digests.append(await asyncio.to_thread(_digest, data, whole))
        size_bytes += len(data)
    return Summed(digest=f"sha256:{whole.hexdigest()}", size_bytes=size_bytes, chunks=tuple(digests))


def _digest(data: bytes, whole: Any) -> str:
    whole.update(data)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Chunks:
    """The calls about chunks. Each may be repeated, and goes to another member when one fails."""

    def __init__(self, run: Run, timeout_s: float) -> None:
        self._run = run
        self._timeout_s = max(timeout_s, limits.CHUNK_TIMEOUT_S)

    async def missing(self, digests: Iterable[str]) -> set[str]:
        request = registry_pb2.FindChunksRequest(digests=dict.fromkeys(digests))
        reply = await self._call("ask for missing chunks", "FindChunks", request)
        return set(reply.missing)

    async def put(self, digest: str, data: bytes) -> None:
        request = registry_pb2.PutChunkRequest(digest=digest, data=data)
        await self._call("send a chunk", "PutChunk", request, changes=True)

    async def get(self, digest: str) -> bytes:
        """Raises Refused CORRUPT_CONTENT if other bytes arrive."""
        reply = await self._call("read a chunk", "GetChunk", registry_pb2.GetChunkRequest(digest=digest))
        data: bytes = reply.data
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise Refused(
                Reason.CORRUPT_CONTENT,
                f"other bytes arrived for chunk {digest}",
                hint=f"they were dropped; check member {reply.info.served_by} and try again: what is right is kept",
            )
        return data

    async def _call(self, what: str, name: str, request: Any, *, changes: bool = False) -> Any:
        plan = Plan(what=what, timeout_s=self._timeout_s, leader_first=changes, slow=True, repeatable=changes)
        return await self._run(plan, rpc("registry", name, request))

    async def send(self, source: Source, content: Summed, missing: set[str], progress: Progress | None) -> None:
        """A few at once. Raises what `put` raises."""
        left = {digest: index for index, digest in reversed(list(enumerate(content.chunks))) if digest in missing}
        waiting = deque(sorted((index, digest) for digest, index in left.items()))
        size_bytes = content.size_bytes - sum(_size_bytes(content, index) for index in left.values())

        async def work() -> None:
            nonlocal size_bytes
            while waiting:
                index, digest = waiting.popleft()
                await self.put(digest, await source.chunk(index))
                size_bytes += _size_bytes(content, index)
                if progress is not None:
                    progress(size_bytes, content.size_bytes)

        await _together(work() for _ in range(min(limits.CHUNKS_IN_FLIGHT, len(waiting))))

    async def read(self, digests: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """In order, the next ones on their way already."""
        names = iter(digests)
        coming: deque[asyncio.Task[bytes]] = deque()
        try:
            while True:
                while len(coming) < limits.CHUNKS_IN_FLIGHT and (digest := next(names, None)) is not None:
                    coming.append(asyncio.create_task(self.get(digest)))
                if not coming:
                    return
                yield await coming[0]
                coming.popleft()
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)


def _size_bytes(content: Summed, index: int) -> int:
    return min(CHUNK_BYTES, content.size_bytes - index * CHUNK_BYTES)


async def _together(work: Iterable[Awaitable[_Result]]) -> None:
    """Raises what the first one that fails raises, and ends the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def file_to_be(path: Path) -> Iterator[BinaryIO]:
    """PATH.partial, which takes the place of `path` when all went well, and else stays to go on from. Raises OSError,
    also while another download is at it: what both write would be neither."""
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "r+b") as out:
        if not _locked(out, partial):
            raise BlockingIOError(errno.EWOULDBLOCK, "another download is writing it", str(partial))
        yield out
        out.flush()
        os.fsync(out.fileno())
        partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _locked(out: BinaryIO, path: Path) -> bool:
    """Until it is closed; not if it was renamed between opening and locking it."""
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(out.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


async def write(
    chunks: Chunks,
    version: Version,
    digests: Sequence[str],
    out: BinaryIO,
    progress: Progress | None = None,
    *,
    resume: bool = False,
) -> None:
    """The exact bytes of a version to `out`, compared with its digest at the end. `resume`: `out` is a file that may
    hold the beginning; what is right of it stays. Raises Refused CORRUPT_CONTENT, OSError."""
    most_bytes = min(version.size_bytes, LARGE_CONTENT_BYTES_CEILING)
    if len(digests) != -(-most_bytes // CHUNK_BYTES):
        raise _corrupt(version, f"{len(digests)} chunks", f"{version.size_bytes:,} bytes")
    whole = hashlib.sha256()
    count = await asyncio.to_thread(_kept, out, digests, whole) if resume else 0
    size_bytes = min(count * CHUNK_BYTES, version.size_bytes)
    async with aclosing(chunks.read(digests[count:])) as coming:
        async for data in coming:
            size_bytes += len(data)
            if size_bytes > most_bytes:  # before they are on the disk
                raise _corrupt(version, f"more than {most_bytes:,} bytes", f"{version.size_bytes:,}")
            await asyncio.to_thread(_write, out, data, whole)
            if progress is not None:
                progress(size_bytes, version.size_bytes)
    digest = f"sha256:{whole.hexdigest()}"
    if (size_bytes, digest) != (version.size_bytes, version.digest):
        raise _corrupt(version, digest, version.digest)


def _corrupt(version: Version, arrived: str, published: str) -> Refused:
    return Refused(
        Reason.CORRUPT_CONTENT,
        f"{version.workflow}@{version.number} arrived as {arrived}, published was {published}",
        hint="what was written is of no use; check the members with `regctl cluster scrub`, and try again",
    )


def _kept(out: BinaryIO, digests: Sequence[str], whole: Any) -> int:
    """How many chunks `out` begins with; what comes behind them is cut off."""
    count = 0
    out.seek(0)
    for digest in digests:
        data = out.read(CHUNK_BYTES)
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            break
        whole.update(data)
        count += 1
    out.seek(0, os.SEEK_END)
    out.truncate(min(count * CHUNK_BYTES, out.tell()))
    out.seek(0, os.SEEK_END)
    return count


def _write(out: BinaryIO, data: bytes, whole: Any) -> None:
    out.write(data)
    whole.update(data)
