"""What a backup file holds: the state of one moment (cluster/snapshot.py), and about it what people ask first.

A file names its moment by log index and term, of one epoch of one cluster. It is checked from the first byte to the
last before anything of it counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import DecodeError, Struct, msgpack

from cluster import journal, snapshot
from cluster.configuration import Configuration
from cluster.kv.api import Reader
from cluster.snapshot import Chunk, Header, SnapshotError
from registry.server.limits import BACKUP_CHUNK_BYTES
from registry.store import queries, tables

TABLES = (*tables.TABLES, journal.APPLIED)  # all but what is a member's own


class About(Struct, frozen=True, kw_only=True):
    """MessagePack, in the header of the file: a field may be added with a default, never renamed."""

    cluster_id: str
    epoch: int
    revision: int
    index: int  # of the log: everything up to it is in the file
    term: int  # of the entry at that index
    configuration: Configuration  # who belonged to the cluster
    member: str  # that gave it
    release: str
    taken_ms: int
    age_ms: int = 0  # since the member had heard the leader; 0: a majority had confirmed that nothing was newer


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(About).decode


def about(reader: Reader, *, member: str, release: str, taken_ms: int, age_ms: int) -> About:
    """What `reader` shows, in a few numbers."""
    registry, standing = queries.registry(reader), journal.standing_in(reader)
    return About(
        cluster_id=registry.cluster_id,
        epoch=registry.epoch,
        revision=registry.revision,
        index=standing.index,
        term=standing.term,
        configuration=standing.configuration,
        member=member,
        release=release,
        taken_ms=taken_ms,
        age_ms=age_ms,
    )


def pieces(reader: Reader, about: About) -> Iterator[bytes]:
    """The bytes of the file, each piece read when it is asked for."""
    header = snapshot.header_of(reader, TABLES, _encode(about))
    return snapshot.encode_file(header, snapshot.read_chunks(reader, TABLES, BACKUP_CHUNK_BYTES))


def read(read: Callable[[int], bytes]) -> tuple[About, Header, Iterator[Chunk]]:
    """As snapshot.decode_file, with what the header is about. Raises SnapshotError, as the iterator does."""
    header, chunks = snapshot.decode_file(read)
    if unknown := sorted(set(header.rows) - set(TABLES)):
        raise SnapshotError(f"it has tables unknown here ({', '.join(unknown)}): it needs a newer release")
    try:
        return _decode(header.about), header, chunks
    except (DecodeError, ValueError) as error:
        raise SnapshotError(f"its header says nothing that this release understands: {error}") from error


class Verified(Struct, frozen=True, kw_only=True):
    about: About
    rows: dict[str, int]  # by table
    size_bytes: int
    sha256: str


def verify(path: Path) -> Verified:
    """Read the whole file and check everything that can be checked without a database.
    Raises SnapshotError, OSError."""
    digest = hashlib.sha256()
    size_bytes = 0
    with path.open("rb") as file:

        def take(size: int) -> bytes:
            nonlocal size_bytes
            data = file.read(size)
            digest.update(data)
            size_bytes += len(data)
            return data

        what, header, chunks = read(take)
        counted = dict.fromkeys(header.rows, 0)
        names = tuple(header.rows)
        for chunk in chunks:
            for number, _, _ in chunk.rows:
                if number >= len(names):
                    raise SnapshotError(f"it has a row of table {number}, and {len(names)} tables")
                counted[names[number]] += 1
    if counted != header.rows:
        raise SnapshotError("it has other rows than its header announces")
    return Verified(about=what, rows=counted, size_bytes=size_bytes, sha256=digest.hexdigest())
