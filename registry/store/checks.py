"""What rows say about each other, looked at one row at a time: is what they name there, and is there more to check?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from registry.core.model import Content
from registry.store import tables
from registry.store.state import Rows


class WrongError(Exception):
    """A row that is as it was written says what is not so."""


class Stored(NamedTuple):
    """Bytes to be unpacked and held against their digest. A chunk stands alone; a content may lie over others."""

    digest: str
    row: Content
    is_chunk: bool = False


def look(rows: Rows, table: str, key: bytes) -> Stored | None:
    """Of the row with this key, which is in `rows`. Raises WrongError, and what decoding rows raises."""
    check = _CHECKS.get(table)
    return check(rows, key) if check else None


def _version(rows: Rows, key: bytes) -> Stored | None:
    workflow, _, number = key.partition(b"\0")
    version = rows.version(workflow.decode("ascii"), tables.to_number(number))
    if version is None or version.removed is not None:
        return None
    row = rows.content(version.digest)
    if row is not None:
        return None if row.encoding == "chunks" else Stored(version.digest, row)
    if rows.purged(version.digest) is None:
        raise WrongError(f"its content {version.digest} is missing")
    return None


def _content(rows: Rows, key: bytes) -> Stored | None:
    """Those of versions are unpacked with them: the neighbours of a version share their bases."""
    digest = tables.to_digest(key)
    row = rows.content(digest)
    if row is None:
        return None
    if missing := [chunk for chunk in row.chunks if rows.chunk_uses(chunk) is None]:
        raise WrongError(f"{len(missing)} of its {len(row.chunks)} chunks are missing, first {missing[0]}")
    if row.encoding == "chunks" or next(rows.holders(digest), None) is not None:
        return None
    return Stored(digest, row)


def _chunk(rows: Rows, key: bytes) -> Stored | None:
    digest = key.decode("ascii")
    row = rows.chunk(digest)
    return None if row is None else Stored(digest, row, is_chunk=True)


def _chunk_uses(rows: Rows, key: bytes) -> None:
    if rows.chunk(key.decode("ascii")) is None:
        raise WrongError("the chunk is missing")


def _pointer(rows: Rows, key: bytes) -> None:
    workflow, _, name = key.decode("ascii").partition("\0")
    pointer = rows.pointer(workflow, name)
    if pointer is None:
        return
    version = rows.version(workflow, pointer.version)
    if version is None:
        raise WrongError(f"it names version {pointer.version}, which is missing")
    if version.digest != pointer.digest:
        raise WrongError(f"it names version {pointer.version} with another digest")


_CHECKS: Mapping[str, Callable[[Rows, bytes], Stored | None]] = {
    tables.VERSIONS: _version,
    tables.CONTENTS: _content,
    tables.CHUNKS: _chunk,
    tables.CHUNK_USES: _chunk_uses,
    tables.POINTERS: _pointer,
}
