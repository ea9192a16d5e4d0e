"""Rows of workflows, versions, digests, contents, changes and remembered requests, small: since feature level 2.

Values in the order of their names instead of the names, none for defaults at the end, digests and request ids as bytes,
well-known words as numbers, and one copy of a version: what refers to one keeps only what can change of it later
(status, labels, hold, removed), and a change nothing that its version says. Lossless. A field that comes later goes to
the end of its order, and is written from its own feature level on.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Literal

from msgspec import NODEFAULT, Struct, convert, msgpack, structs, to_builtins

from registry.core.encoding import encode, encode_sorted
from registry.core.model import (
    Change,
    Content,
    Digest,
    Pointer,
    Policy,
    Removed,
    RemovedVersion,
    Snapshot,
    Status,
    StatusChange,
    Version,
    Workflow,
)
from registry.core.outcomes import Outcome, Rejected, Remembered, Switched

Find = Callable[[str, int], Version]  # the row of a version, as it is now
_DIGEST = re.compile(r"([a-z0-9]{1,8}):([0-9a-f]{64})", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
# Words that are written as their place here. One that comes later goes to the end, and none leaves.
_WORDS = (
    *("dsl_version", "edges", "mode", "name", "nodes", "plugins", "lines", "top", "notes", "version", "wrapped"),
    *("publish", "switch", "rollback", "mark", "label", "policy", "hold", "retention", "purge"),
)
_PLACES = {word: place for place, word in enumerate(_WORDS)}
_Word = int | str
_encoder = msgpack.Encoder()


class _Workflow(Struct, frozen=True, array_like=True):
    kind: str
    versions: int
    created_ms: int


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
    facts: tuple[_Word, ...] = ()  # name, value, name, value; in order of name
    parents: tuple[int, ...] = ()
    status: Status = "candidate"
    labels: dict[str, str] = {}
    message: str = ""
    requires: tuple[str, ...] = ()
    secrets: dict[str, str] = {}
    snapshot: Snapshot = "published"
    hold: str = ""
    removed: Removed | None = None
    needs: tuple[str, ...] = ()


class _Content(Struct, frozen=True, array_like=True):
    encoding: Literal["raw", "zstd", "delta", "chunks"]
    size_bytes: int
    data: bytes
    settled: bool = False
    depth: int = 0
    base: bytes = b"="  # `_packed_digest`, as each of the chunks
    chunks: tuple[bytes, ...] = ()


class _Digest(Struct, frozen=True, array_like=True):
    newest: int
    fenced: tuple[int, ...] = ()


class _Reference(Struct, frozen=True, array_like=True):
    """A version as it was: its row, but for what has changed since."""

    workflow: str
    number: int
    status: Status = "candidate"
    labels: dict[str, str] = {}
    hold: str = ""
    removed: Removed | None = None


class _Change(Struct, frozen=True, array_like=True):
    """None: as its version says, see _OF_VERSION."""

    time_ms: int | None
    action: _Word
    request_id: bytes = b"="  # `_packed_id`
    workflows: tuple[str, ...] | None = ()
    principal: str | None = ""
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


class _Sequence(Struct, frozen=True, array_like=True):
    """The start of a `_Remembered`: every command forgets one, whatever it decided."""

    sequence: int


_workflow = msgpack.Decoder(_Workflow)
_version = msgpack.Decoder(_Version)
_digest = msgpack.Decoder(_Digest)
_content = msgpack.Decoder(_Content)
_change = msgpack.Decoder(_Change)
_remembered = msgpack.Decoder(_Remembered)
_sequence = msgpack.Decoder(_Sequence)
_DEFAULTS: dict[type[Struct], list[Any]] = {  # from the last field on
    packed: [
        field.default if field.default_factory is NODEFAULT else field.default_factory()
        for field in reversed(structs.fields(packed))
    ]
    for packed in (_Workflow, _Version, _Digest, _Content, _Reference, _Change)
}
_FIELDS: dict[type[Struct], Callable[[Struct], tuple[Any, ...]]] = {
    packed: attrgetter(*packed.__struct_fields__) for packed in (_Workflow, _Version, _Digest, _Content, _Change)
}
_FACTS = _Version.__struct_fields__.index("facts")
_PLACE = {name: place for place, name in enumerate(_Change.__struct_fields__)}
_OF_VERSION: dict[str, Callable[[Version], Any]] = {  # what a change has in common with its version
    "time_ms": lambda version: version.created_ms,
    "workflows": lambda version: (version.workflow,),
    "principal": lambda version: version.author,
}
_CHANGING = ("status", "labels", "hold", "removed")


def is_compact(row: bytes) -> bool:
    """Or a map by field names, as feature level 1 wrote it. A MessagePack array has one of these first bytes."""
    return 0x90 <= row[0] <= 0x9F or row[0] in (0xDC, 0xDD)


def pack_workflow(workflow: Workflow) -> bytes:
    """Without the name, which is its key."""
    return encode(_values(workflow, _Workflow))


def unpack_workflow(name: str, row: bytes) -> Workflow:
    packed = _workflow.decode(row)
    return Workflow(name=name, kind=packed.kind, versions=packed.versions, created_ms=packed.created_ms)


def pack_version(version: Version) -> bytes:
    """Without workflow and number, which are its key."""
    values = _values(version, _Version)
    for place in range(3):
        values[place] = _packed_digest(values[place])
    facts = [word for name, value in sorted(version.facts.items()) for word in (_PLACES.get(name, name), value)]
    values[_FACTS] = tuple(facts)
    return encode(_trimmed(values, _Version))


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
        facts=dict(zip(map(_spelled, packed.facts[::2]), map(str, packed.facts[1::2]), strict=True)),
        revision=packed.revision,
        requires=packed.requires,
        secrets=packed.secrets,
        summary=packed.summary,
        change=packed.change,
        snapshot=packed.snapshot,
        hold=packed.hold,
        removed=packed.removed,
        needs=packed.needs,
    )


def pack_digest(digest: Digest) -> bytes:
    return encode(_trimmed(_values(digest, _Digest), _Digest))


def unpack_digest(row: bytes) -> Digest:
    packed = _digest.decode(row)
    return Digest(newest=packed.newest, fenced=packed.fenced)


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
    values[_PLACE["action"]] = _PLACES.get(change.action, change.action)
    values[_PLACE["request_id"]] = _packed_id(change.request_id)
    if change.version is not None:
        values[_PLACE["version"]] = _refer(change.version)
        for name, said in _OF_VERSION.items():
            if values[_PLACE[name]] == said(change.version):
                values[_PLACE[name]] = None
    return encode(_trimmed(values, _Change))


def unpack_change(revision: int, row: bytes, find: Find) -> Change:
    packed = _change.decode(row)
    fields = structs.asdict(packed) | {"revision": revision}
    fields |= {"action": _spelled(packed.action), "request_id": _unpacked_id(packed.request_id)}
    if packed.version is not None:
        fields["version"] = version = _resolve(packed.version, find)
        fields |= {name: said(version) for name, said in _OF_VERSION.items() if fields[name] is None}
    return Change(**fields)


def pack_remembered(row: Remembered) -> bytes:
    if isinstance(row.outcome, Switched | Rejected):  # the most frequent: the same bytes in a sixth of the time
        return encode_sorted([row.sequence, row.fingerprint, row.outcome])
    version: Version | None = getattr(row.outcome, "version", None)
    bare = row.outcome if version is None else structs.replace(row.outcome, version=None)
    outcome = to_builtins(bare, builtin_types=(bytes,))
    outcome.pop("version", None)
    values = [row.sequence, row.fingerprint, outcome]
    if version is not None:
        values.append(_refer(version))
    return _encoder.encode(to_builtins(values, builtin_types=(bytes,), order="deterministic"))


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
    return _sequence.decode(row).sequence


def _refer(version: Version) -> list[Any]:
    values = [version.workflow, version.number, *(getattr(version, name) for name in _CHANGING)]
    return _trimmed(values, _Reference)


def _resolve(reference: _Reference, find: Find) -> Version:
    now = find(reference.workflow, reference.number)
    return structs.replace(now, **{name: getattr(reference, name) for name in _CHANGING})


def _values(row: Struct, packed: type[Struct]) -> list[Any]:
    return [*_FIELDS[packed](row)]


def _trimmed(values: list[Any], packed: type[Struct]) -> list[Any]:
    """Without the defaults at its end."""
    count = len(values)
    for default in _DEFAULTS[packed]:
        if values[count - 1] != default:
            break
        count -= 1
    return values[:count]


def _spelled(word: _Word) -> str:
    return _WORDS[word] if isinstance(word, int) else word


def _packed_digest(digest: str) -> bytes:
    """`s1:` and 32 bytes, of `sha256:` only the colon. What is no digest (a level 1 member may have kept an empty one)
    as it is, behind a `=`."""
    found = _DIGEST.fullmatch(digest)
    if found is None:
        return b"=" + digest.encode()
    name = "" if found[1] == "sha256" else found[1]
    return name.encode("ascii") + b":" + bytes.fromhex(found[2])


def _unpacked_digest(packed: bytes) -> str:
    if packed.startswith(b"="):
        return packed[1:].decode()
    name, _, digest = packed.partition(b":")
    return f"{name.decode('ascii') or 'sha256'}:{digest.hex()}"


def _packed_id(request_id: str) -> bytes:
    """A colon and the 16 bytes of a UUID; what is none as it is, behind a `=`."""
    if _UUID.fullmatch(request_id):
        return b":" + bytes.fromhex(request_id.replace("-", ""))
    return b"=" + request_id.encode()


def _unpacked_id(packed: bytes) -> str:
    return packed[1:].decode() if packed.startswith(b"=") else str(uuid.UUID(bytes=packed[1:]))
