"""Contents as members send them to who can unpack them."""

from __future__ import annotations

import hashlib

from registry.core import frames
from registry.v1 import registry_pb2


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def exact(reply: registry_pb2.GetContentResponse, base: bytes) -> bytes | None:
    """The bytes, unchecked; None: they cannot be unpacked. `base`: the bytes whose digest the request named."""
    match reply.encoding:
        case "" | "raw":  # "": a member of an older release, which sends nothing else
            return reply.content
        case "zstd":
            return frames.unpack(reply.content, reply.version.size_bytes)
        case "delta":
            return frames.unpack_over(base, reply.content, reply.version.size_bytes)
        case _:
            return None
