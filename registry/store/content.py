"""Content as it is stored: raw, a zstd frame, or a zstd frame over the bytes of another content. CPU-bound; no I/O
but of the rows it is given. Which other content: see `packing`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from registry.core import frames, limits
from registry.core.errors import Invalid, Reason, Refused
from registry.core.model import Content

PUBLISH_LEVEL = 9
SETTLED_LEVEL = 19  # in the background: some forty times the CPU for 8 % less
SETTLED_BYTES = limits.MIB  # of a content and of what it is packed over; past it that level takes a core for a minute
_DELTA_ROW_BYTES = 160  # what a delta has beside its frame: the digest of its base, twice
_SMALL_ENOUGH = 16  # a delta below one part in so many of the bytes: what they would take alone is not looked at
_CLEARLY = 0.9  # a delta is worth its cost in reading below this part of what the content takes alone


class Base(NamedTuple):
    """Another content, to pack over."""

    digest: str
    data: bytes  # exact
    depth: int  # of its row


class Contents(Protocol):
    def content(self, digest: str) -> Content | None: ...


class Chain(NamedTuple):
    """What leads to the exact bytes of one content, read in one snapshot. Unpacking it needs no I/O."""

    digest: str
    links: tuple[tuple[str, Content], ...]  # rows with their digests, the asked one first, each over the next
    under: bytes | None = None  # exact bytes of what the last one lies over; None: it stands alone
    whole: bytes | None = None  # exact bytes of the asked one, where they were known: `links` is its row alone

    @property
    def row(self) -> Content:
        return self.links[0][1]

    @property
    def work_bytes(self) -> int:
        """What unpacking will produce."""
        return 0 if self.whole is not None else sum(row.size_bytes for _, row in self.links)


def digest(data: bytes) -> str:
    """The identity of exact bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encode(data: bytes, level: int = PUBLISH_LEVEL) -> Content:
    """Alone: zstd where that is smaller, raw where not."""
    compressed = frames.pack(data, level)
    if len(compressed) < len(data):
        return Content(encoding="zstd", data=compressed, size_bytes=len(data))
    return Content(encoding="raw", data=data, size_bytes=len(data))


def pack(data: bytes, bases: Iterable[Base], level: int = PUBLISH_LEVEL) -> Content:
    """Over the base that makes it smallest, or alone where none makes it clearly smaller."""
    deltas = [_over(base, data, level) for base in bases if base.depth < limits.DELTA_DEPTH and data]
    best = min((each for each in deltas if each is not None), key=cost_bytes, default=None)
    if best is not None and cost_bytes(best) <= len(data) // _SMALL_ENOUGH:
        return best
    alone = encode(data, level)
    return best if best is not None and cost_bytes(best) <= _CLEARLY * cost_bytes(alone) else alone


def cost_bytes(row: Content) -> int:
    """What a row takes, about."""
    return len(row.data) + (_DELTA_ROW_BYTES if row.base else 0)


def decode(content: Content, expected_digest: str) -> bytes:
    """The exact bytes of a content that stands alone. Raises Refused: CORRUPT_CONTENT if they have another digest."""
    data = _undo(content, None)
    if data is None or digest(data) != expected_digest:
        raise corrupt(expected_digest)
    return data


def chain(
    rows: Contents, digest: str, row: Content | None = None, known: Callable[[str], bytes | None] = lambda _: None
) -> Chain:
    """What is needed to unpack a content; `row`: its row, if it was read already; `known`: exact bytes by digest, where
    the caller has them. Raises Refused: CORRUPT_CONTENT if a row is missing or is not what leads on;
    Invalid: TOO_LARGE for content in chunks, which is read chunk by chunk."""
    links: list[tuple[str, Content]] = []
    at, depth = digest, limits.DELTA_DEPTH + 1
    while True:
        row = row or rows.content(at)
        if row is None:
            raise _broken(digest, at, "is missing")
        if row.encoding == "chunks":
            raise _in_chunks(digest, row) if at == digest else _broken(digest, at, "is in chunks")
        if (row.encoding == "delta") != bool(row.base) or row.depth >= depth or bool(row.base) != bool(row.depth):
            raise _broken(digest, at, "is damaged")
        links.append((at, row))
        whole = known(digest) if at == digest else None
        if whole is not None or not row.base:
            return Chain(digest, tuple(links), whole=whole)
        at, depth, row = row.base, row.depth, None
        if (under := known(at)) is not None:
            return Chain(digest, tuple(links), under)


def exact(found: Chain) -> bytes:
    """The exact bytes, checked. Long chains take milliseconds. Raises Refused: CORRUPT_CONTENT."""
    if found.whole is not None:
        return found.whole
    data = found.under
    for _, row in reversed(found.links):
        data = _undo(row, data)
        if data is None:
            break
    if data is None or digest(data) != found.digest:
        raise _broken(found.digest, _damaged(found), "is damaged")
    return data


def unpack(rows: Contents, digest: str) -> bytes:
    """The exact bytes, checked. Raises as `chain`."""
    return exact(chain(rows, digest))


def corrupt(expected_digest: str, what: str = "is damaged") -> Refused:
    return Refused(
        Reason.CORRUPT_CONTENT,
        f"the stored content {expected_digest} {what} on this member",
        hint="nothing was delivered; read from another member; `regctl cluster scrub` finds it, and has it repaired",
        metadata={"digest": expected_digest},
    )


def _over(base: Base, data: bytes, level: int) -> Content | None:
    """None: it would not come back. Deltas are undone once before they replace anything: nothing else has the bytes."""
    frame = frames.pack_over(base.data, data, level)
    if frames.unpack_over(base.data, frame, len(data)) != data:
        return None
    return Content(encoding="delta", data=frame, size_bytes=len(data), base=base.digest, depth=base.depth + 1)


def _undo(row: Content, under: bytes | None) -> bytes | None:
    match row.encoding:
        case "raw":
            return row.data
        case "zstd":
            return frames.unpack(row.data, row.size_bytes)
        case "delta":
            return None if under is None else frames.unpack_over(under, row.data, row.size_bytes)
        case _:
            return None


def _broken(digest: str, at: str, what: str) -> Refused:
    return corrupt(digest, what if at == digest else f"lies over {at}, which {what},")


def _damaged(found: Chain) -> str:
    """The deepest one whose bytes are wrong."""
    data = found.under
    for at, row in reversed(found.links):
        data = _undo(row, data)
        if data is None or digest(data) != at:
            return at
    return found.digest


def _in_chunks(digest: str, row: Content) -> Invalid:
    return Invalid(
        Reason.TOO_LARGE,
        f"the content {digest} has {row.size_bytes:,} bytes in {len(row.chunks)} chunks: too large to be read as one",
        hint="read it chunk by chunk",
        metadata={"digest": digest, "size_bytes": str(row.size_bytes)},
    )
