"""Content as it is stored: zstd where that is smaller, raw where not. CPU-bound; no I/O."""

from __future__ import annotations

import hashlib

import zstandard

from registry.core import limits
from registry.core.errors import Reason, Refused
from registry.core.model import Content

ZSTD_LEVEL = 9


def digest(data: bytes) -> str:
    """The identity of exact bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encode(data: bytes) -> Content:
    compressed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True).compress(data)
    if len(compressed) < len(data):
        return Content(encoding="zstd", data=compressed, size_bytes=len(data))
    return Content(encoding="raw", data=data, size_bytes=len(data))


def decode(content: Content, expected_digest: str) -> bytes:
    """The exact bytes. Raises Refused: CORRUPT_CONTENT if they do not have that digest."""
    data = content.data if content.encoding == "raw" else _decompress(content)
    if data is None or digest(data) != expected_digest:
        raise corrupt(expected_digest)
    return data


def corrupt(expected_digest: str, what: str = "is damaged") -> Refused:
    return Refused(
        Reason.CORRUPT_CONTENT,
        f"the stored content {expected_digest} {what} on this member",
        hint="nothing was delivered; read from another member and replace this one's data directory",
        metadata={"digest": expected_digest},
    )


def _decompress(content: Content) -> bytes | None:
    """None: not what `encode` wrote. The size is checked before memory is taken for it."""
    try:
        size_bytes = zstandard.get_frame_parameters(content.data).content_size
        if size_bytes != content.size_bytes or size_bytes > limits.CONTENT_BYTES_CEILING:
            return None
        return zstandard.ZstdDecompressor().decompress(content.data, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
