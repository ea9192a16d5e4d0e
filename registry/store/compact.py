"""Rows of versions, contents, changes and remembered requests, small: since feature level 2.

Values in the order of their names instead of the names, none for defaults at the end, digests as bytes, and one copy of
a version: what refers to one keeps only what can change of it later (status, labels, hold, removed). Lossless. A field
that comes later goes to the end of its order, and is written from its own feature level on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from msgspec import NODEFAULT, Struct, convert, msgpack, structs, to_builtins

from registry.core.model import (
    Change,
    Content,
    Pointer,
    Policy,
    Removed,
    RemovedVersion,
    Snapshot,
    Status,
    StatusChange,
    Version,
)
from registry.core.outcomes import Outcome, Remembered

Find = Callable[[str, int], Version]  # the row of a version, as it is now
_DIGEST = re.compile(r"([a-z0-9]{1,8}:)([0-9a-f]{64})", re.ASCII)
_HEX_BYTES = 32
_encoder = msgpack.Encoder()


class _Version(Struct, frozen=True, array_like=True):
    digest: bytes  # here and below: `_packed_digest`
    value_digest: bytes
    semantic_digest: bytes
    kind: str
    size_bytes: int
    created_ms: int
    revision: int
    author: str = ""
    summary: str = ""
    change: str = ""
    facts: dict[str, str] = {}
    parents: tuple[int, ...] = ()
    status: Status = "candidate"
    labels: dict[str, str] = {}
    message: str = ""
    requires: tuple[str, ...] = ()
    secrets: dict[str, str] = {}
    snapshot: Snapshot = "published"
    hold: str = ""
    removed: Removed | None = None


class _Content(Struct, frozen=True, array_like=True):
    encoding: Literal["raw", "zstd", "delta", "chunks"]
    size_bytes: int
    data: bytes
    settled: bool = False
    depth: int = 0
    base: bytes = b"="  # `_packed_digest`, as each of the chunks
    chunks: tuple[bytes, ...] = ()


class _Reference(Struct, frozen=True, array_like=True):
    """A version as it was: its row, but for what has changed since."""

    workflow: str
    number: int
    status: Status = "candidate"
    labels: dict[str, str] = {}
    hold: str = ""
    removed: Removed | None = None


class _Change(Struct, frozen=True, array_like=True):
    time_ms: int
    action: str
    request_id: str = ""
    workflows: tuple[str, ...] = ()
    principal: str = ""
    version: _Reference | None = None
    reason: str = ""
    pointers: tuple[Pointer, ...] = ()
    previous_status: str = ""
    status_changes: tuple[StatusChange, ...] = ()
    epoch: int = 0
    scope: str = ""
    policy: Policy | None = None
    forced: bool = False
    removed: tuple[RemovedVersion, ...] = ()


class _Remembered(Struct, frozen=True, array_like=True):
    sequence: int
    fingerprint: bytes
    outcome: dict[str, Any]
    version: _Reference | None = None


_version = msgpack.Decoder(_Version)
_content = msgpack.Decoder(_Content)
_change = msgpack.Decoder(_Change)
_remembered = msgpack.Decoder(_Remembered)
_DEFAULTS: dict[type[Struct], list[Any]] = {
    packed: [
        field.default if field.default_factory is NODEFAULT else field.default_factory()
        for field in structs.fields(packed)
    ]
    for packed in (_Version, _Content, _Reference, _Change)
}
_CHANGING = ("status", "labels", "hold", "removed")


def is_compact(row: bytes) -> bool:
    """Or a map by field names, as feature level 1 wrote it. A MessagePack array has one of these first bytes."""
    return 0x90 <= row[0] <= 0x9F or row[0] in (0xDC, 0xDD)


def pack_version(version: Version) -> bytes:
    """Without workflow and number, which are its key."""
    values = _values(version, _Version)
    for place in range(3):
        values[place] = _packed_digest(values[place])
    return _encode(_trimmed(values, _Version))


def unpack_version(workflow: str, number: int, row: bytes) -> Version:
    packed = _version.decode(row)
    return Version(  # spelled out: three times faster than by names, and lists read thousands
        workflow=workflow,
        number=number,
        digest=_unpacked_digest(packed.digest),
        value_digest=_unpacked_digest(packed.value_digest),
        semantic_digest=_unpacked_digest(packed.semantic_digest),
        kind=packed.kind,
        size_bytes=packed.size_bytes,
        status=packed.status,
        parents=packed.parents,
        author=packed.author,
        created_ms=packed.created_ms,
        message=packed.message,
        labels=packed.labels,
        facts=packed.facts,
        revision=packed.revision,
        requires=packed.requires,
        secrets=packed.secrets,
        summary=packed.summary,
        change=packed.change,
        snapshot=packed.snapshot,
        hold=packed.hold,
        removed=packed.removed,
    )


def pack_content(content: Content) -> bytes:
    values = _values(content, _Content)
    values[-2:] = _packed_digest(content.base), tuple(map(_packed_digest, content.chunks))
    return _encoder.encode(_trimmed(values, _Content))


def unpack_content(row: bytes) -> Content:
    packed = _content.decode(row)
    return Content(
        encoding=packed.encoding,
        size_bytes=packed.size_bytes,
        data=packed.data,
        settled=packed.settled,
        depth=packed.depth,
        base=_unpacked_digest(packed.base),
        chunks=tuple(map(_unpacked_digest, packed.chunks)),
    )


def pack_change(change: Change) -> bytes:
    """Without the revision, which is its key."""
    values = _values(change, _Change)
    if change.version is not None:
        values[_Change.__struct_fields__.index("version")] = _refer(change.version)
    return _encode(_trimmed(values, _Change))


def unpack_change(revision: int, row: bytes, find: Find) -> Change:
    packed = _change.decode(row)
    fields = structs.asdict(packed) | {"revision": revision}
    fields["version"] = None if packed.version is None else _resolve(packed.version, find)
    return Change(**fields)


def pack_remembered(row: Remembered) -> bytes:
    outcome = to_builtins(row.outcome, builtin_types=(bytes,))
    outcome.pop("version", None)
    version: Version | None = getattr(row.outcome, "version", None)
    values = [row.sequence, row.fingerprint, outcome]
    return _encode(values if version is None else [*values, _refer(version)])


def unpack_remembered(row: bytes, find: Find) -> Remembered:
    packed = _remembered.decode(row)
    outcome = packed.outcome
    if packed.version is not None:
        outcome["version"] = _resolve(packed.version, find)
    return Remembered(
        sequence=packed.sequence,
        fingerprint=packed.fingerprint,
        outcome=convert(outcome, Outcome, builtin_types=(bytes,)),
    )


def sequence(row: bytes) -> int:
    """Of a remembered request."""
    return _remembered.decode(row).sequence


def _encode(values: list[Any]) -> bytes:
    """The same bytes on every member: maps in the order of their keys."""
    return _encoder.encode(to_builtins(values, builtin_types=(bytes,), order="deterministic"))


def _refer(version: Version) -> list[Any]:
    values = [version.workflow, version.number, *(getattr(version, name) for name in _CHANGING)]
    return _trimmed(values, _Reference)


def _resolve(reference: _Reference, find: Find) -> Version:
    now = find(reference.workflow, reference.number)
    return structs.replace(now, **{name: getattr(reference, name) for name in _CHANGING})


def _values(row: Struct, packed: type[Struct]) -> list[Any]:
    return [getattr(row, name) for name in packed.__struct_fields__]


def _trimmed(values: list[Any], packed: type[Struct]) -> list[Any]:
    """Without the defaults at its end."""
    defaults = _DEFAULTS[packed]
    count = len(values)
    while count and defaults[count - 1] is not NODEFAULT and values[count - 1] == defaults[count - 1]:
        count -= 1
    return values[:count]


def _packed_digest(digest: str) -> bytes:
    """`s1:` and 32 bytes; what is no digest (a level 1 member may have kept an empty one) as it is, behind a `=`."""
    found = _DIGEST.fullmatch(digest)
    return found[1].encode("ascii") + bytes.fromhex(found[2]) if found else b"=" + digest.encode()


def _unpacked_digest(packed: bytes) -> str:
    if packed.startswith(b"="):
        return packed[1:].decode()
    return packed[:-_HEX_BYTES].decode("ascii") + packed[-_HEX_BYTES:].hex()
