"""Contents over a member's HTTP face: small ones in compact form into memory, large ones into a file, gone on with."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from io import BufferedRandom
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from registry.client import limits
from registry.client.http_connection import Connection, Head
from registry.client.http_messages import Implausible, Refusal, get
from registry.core import frames
from registry.core.limits import CHUNK_BYTES, CONTENT_BYTES_CEILING, LARGE_CONTENT_BYTES_CEILING

Progress = Callable[[int, int], None]  # bytes that have arrived, bytes of the whole
_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})", re.ASCII)
_SUFFICIENT = CONTENT_BYTES_CEILING + limits.HTTP_FRAME_SLACK_BYTES  # for any frame


class Asked(NamedTuple):
    """`digest` and `size_bytes` as a poll announced them; empty, -1: nothing was said, then the member's own word
    counts, and the exact bytes are asked for. `base`: bytes of another version that are here."""

    workflow: str
    version: int
    min_revision: int
    base: bytes
    into: Path
    progress: Progress
    digest: str = ""
    size_bytes: int = -1
    compact: bool = True


class NotThis(Implausible):
    """What the file held, or the frame that came, does not lead to this content; the file is empty now. To be asked
    once more, for the exact bytes."""


async def fetch(connection: Connection, host: str, asked: Asked) -> bytes | None:
    """The bytes, or None: they are in the file, which stays as it is when this fails in the middle. Raises Implausible
    and NotThis, Refusal, BrokenConnection, TimeoutError; OSError of the file."""
    have = await asyncio.to_thread(_size_bytes, asked.into)
    start = max(0, have - limits.HTTP_OVERLAP_BYTES)
    try:
        async with asyncio.timeout(limits.HTTP_CALL_S):
            head = await get(connection, _path(asked, whole=not have), host, f"bytes={start}-" if have else "")
    except Refusal as refusal:
        if refusal.status != 416:  # the file is longer than the content
            raise
        await asyncio.to_thread(os.truncate, asked.into, 0)
        raise NotThis("the file holds more than the content") from None
    size_bytes = _whole_bytes(asked, head, start)
    if head.status == 200 and size_bytes <= CONTENT_BYTES_CEILING:
        return await _small(connection, asked, head, size_bytes)
    await _large(connection, asked, head, start if head.status == 206 else 0, size_bytes)
    return None


def _path(asked: Asked, *, whole: bool) -> str:
    query: dict[str, str | int] = {"min_revision": asked.min_revision}
    if whole and asked.compact and asked.size_bytes >= 0:
        query["form"] = "compact"
        if asked.base:
            query["base"] = _digest(asked.base)
    return f"/v1/content/{asked.workflow}/{asked.version}?{urlencode(query, safe=':')}"


def _whole_bytes(asked: Asked, head: Head, start: int) -> int:
    """The size of the content. Raises Implausible where member and announcement differ."""
    size_bytes = asked.size_bytes
    if head.status == 206:
        found = _RANGE.fullmatch(head.headers.get("content-range", ""))
        if found is None or int(found[1]) != start:
            raise Implausible(f"another range came than bytes {start:,} to the end")
        size_bytes = int(found[2])
    elif _encoding(head) == "raw" and head.length is not None:
        size_bytes = head.length
    if asked.size_bytes not in (-1, size_bytes) or not 0 <= size_bytes <= LARGE_CONTENT_BYTES_CEILING:
        raise Implausible(f"content of {size_bytes:,} bytes came, {asked.size_bytes:,} were announced")
    if asked.digest and head.headers.get("x-registry-digest", asked.digest) != asked.digest:
        raise Implausible(f"other content than {asked.digest} came")
    if not (asked.digest or head.headers.get("x-registry-digest")):
        raise Implausible("content without a digest came")
    return size_bytes


def _encoding(head: Head) -> str:
    return head.headers.get("x-registry-encoding", "raw")


async def _small(connection: Connection, asked: Asked, head: Head, size_bytes: int) -> bytes:
    async with asyncio.timeout(limits.HTTP_CALL_S):
        body = await connection.read(min(size_bytes + limits.HTTP_FRAME_SLACK_BYTES, _SUFFICIENT))
    encoding = _encoding(head)
    if encoding == "delta" and head.headers.get("x-registry-base") not in (None, _digest(asked.base)):
        raise Implausible("a difference from bytes that are not here came")
    data: bytes | None
    match encoding:
        case "raw":
            data = body
        case "zstd":
            data = await asyncio.to_thread(frames.unpack, body, size_bytes)
        case "delta":
            data = await asyncio.to_thread(frames.unpack_over, asked.base, body, size_bytes)
        case _:
            data = None
    if data is None or _digest(data) != (asked.digest or head.headers["x-registry-digest"]):
        wrong = NotThis if asked.compact and encoding != "raw" else Implausible
        raise wrong(f"other bytes came than the digest says, as {encoding}")
    asked.progress(len(data), len(data))
    return data


async def _large(connection: Connection, asked: Asked, head: Head, start: int, size_bytes: int) -> None:
    if _encoding(head) != "raw":
        raise Implausible(f"large content came as {_encoding(head)}")
    with asked.into.open("r+b" if asked.into.exists() else "w+b") as file:
        if not start:
            file.truncate(0)
        await _stream(connection, asked, file, start, size_bytes)
        digest = await asyncio.to_thread(_file_digest, file)
        if digest != (asked.digest or head.headers.get("x-registry-digest")):
            file.truncate(0)
            wrong = NotThis if start else Implausible  # it may have been the beginning, which was here
            raise wrong("other bytes came than the digest says")


async def _stream(connection: Connection, asked: Asked, file: BufferedRandom, start: int, size_bytes: int) -> None:
    """At least CHUNK_BYTES in every CHUNK_TIMEOUT_S, and nothing on the disk past the size."""
    loop = asyncio.get_running_loop()
    overlap = await asyncio.to_thread(_tail, file, start)
    at = marked = start
    async with asyncio.timeout(limits.CHUNK_TIMEOUT_S) as silence:
        async for part in connection.parts(size_bytes - start):
            known, part = part[: len(overlap)], part[len(overlap) :]
            if known != overlap[: len(known)]:
                file.truncate(0)
                raise NotThis("the file holds something else")
            overlap = overlap[len(known) :]
            await asyncio.to_thread(file.write, part)
            at += len(known) + len(part)
            if at - marked >= CHUNK_BYTES:
                marked = at
                silence.reschedule(loop.time() + limits.CHUNK_TIMEOUT_S)
                asked.progress(at, size_bytes)
    file.truncate(at)
    if at != size_bytes:
        raise Implausible(f"{at:,} of {size_bytes:,} bytes came")
    asked.progress(at, size_bytes)


def _tail(file: BufferedRandom, start: int) -> bytes:
    file.seek(start)
    return file.read()


def _file_digest(file: BufferedRandom) -> str:
    file.flush()
    file.seek(0)
    return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
