"""What a log entry holds: a kind and our bytes, the same on the wire, in the log and on disk."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import msgpack

from cluster import configuration
from cluster.configuration import Configuration

NO_OP = b"\x01"  # the engine's own, at the start of a log and of a term
COMMANDS = b"\x10"  # a list of commands, gathered in one tick
CONFIGURATION = b"\x11"  # who belongs to the cluster from here on

_decode = msgpack.Decoder(list[bytes]).decode


def pack(commands: Sequence[bytes]) -> bytes:
    return COMMANDS + msgpack.encode(commands)


def pack_configuration(new: Configuration) -> bytes:
    return CONFIGURATION + configuration.encode(new)


def unpack_configuration(entry: bytes) -> Configuration | None:
    """The configuration that an entry holds, if it is one."""
    return configuration.decode(memoryview(entry)[1:]) if entry[:1] == CONFIGURATION else None


def unpack(entry: bytes) -> list[bytes]:
    """The commands of an entry that is no configuration, in order. Raises ValueError on a kind this release does not
    know: a member that skipped it would differ from the others from there on."""
    if entry == NO_OP:
        return []
    if entry[:1] != COMMANDS:
        raise ValueError(
            f"log entry of unknown kind {entry[:1].hex()}; this member is older than the one that wrote it"
        )
    return _decode(memoryview(entry)[1:])
