"""Tables and their keys.

Text in keys is ASCII, names of at most 63 characters, closed by a zero byte; numbers are 8 bytes, big-endian, so
that scans are in order. The longest keys are of 256 bytes (agents, semvers); LMDB takes 511. Values are MessagePack
rows of core.model unless said otherwise: maps by field name, or since feature level 2 (workflows, versions, digests,
contents, chunks, changes, requests) the smaller ones of `compact`. "sha256" is the 32 bytes of a digest; in `digests`
and `contents`, rows of feature level 1 have its text instead.

    registry          "registry"                              Registry
    workflows         workflow                                Workflow
    versions          workflow 0 number                       Version
    digests           workflow 0 sha256                       Digest: the versions with these bytes
    semvers           workflow 0 semver                       number
    pointers          workflow 0 pointer                      Pointer, the current one
    switches          workflow 0 pointer 0 generation         Pointer, after each switch
    contents          sha256                                  Content, once for all workflows
    changes           revision                                Change
    workflow_changes  workflow 0 revision                     empty
    requests          request id (text)                       outcomes.Remembered
    request_order     sequence                                request id (text)
    agents            workflow 0 pointer 0 agent              Agent
    contacts          agent                                   LastContact; below feature level 2: unix ms
    fences            workflow 0 semantic digest              numbers of the fenced versions that mean this
    policies          "*", "namespace/*" or workflow          Policy
    requires          sha256 of what is required,             number of the newest version that requires it
                      its first 32 hex digits, 0 workflow

    holders           sha256, workflow 0 number    empty: a version whose content is kept has these bytes
    deltas            sha256 of the base, of the delta        empty
    chunks            "sha256:<hex>"                          Content: raw or zstd
    chunk_uses        "sha256:<hex>"                          number of contents that name the chunk; 0 too
    let_go            sha256                                  lowest revision of a version that had these bytes and
                                                              lost its content: backups since then may hold them
    purged            "sha256:<hex>"                          Removed: bytes that are refused from now on
    backups           revision, index, unix ms                Backup

All from `fences` on are empty below feature level 2.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from registry.core.limits import NAMES_REMEMBERED

REGISTRY = "registry"
WORKFLOWS = "workflows"
VERSIONS = "versions"
DIGESTS = "digests"
SEMVERS = "semvers"
POINTERS = "pointers"
SWITCHES = "switches"
CONTENTS = "contents"
CHANGES = "changes"
WORKFLOW_CHANGES = "workflow_changes"
REQUESTS = "requests"
REQUEST_ORDER = "request_order"
AGENTS = "agents"
CONTACTS = "contacts"
FENCES = "fences"
POLICIES = "policies"
REQUIRES = "requires"
HOLDERS = "holders"
DELTAS = "deltas"
CHUNKS = "chunks"
CHUNK_USES = "chunk_uses"
LET_GO = "let_go"
PURGED = "purged"
BACKUPS = "backups"

TABLES = (
    REGISTRY,
    WORKFLOWS,
    VERSIONS,
    DIGESTS,
    SEMVERS,
    POINTERS,
    SWITCHES,
    CONTENTS,
    CHANGES,
    WORKFLOW_CHANGES,
    REQUESTS,
    REQUEST_ORDER,
    AGENTS,
    CONTACTS,
    FENCES,
    POLICIES,
    REQUIRES,
    HOLDERS,
    DELTAS,
    CHUNKS,
    CHUNK_USES,
    LET_GO,
    PURGED,
    BACKUPS,
)
TOKEN_HEX_DIGITS = 32
SHA256 = "sha256:"
DIGEST_BYTES = 32


@lru_cache(NAMES_REMEMBERED)  # a command asks for the same ones seven times
def within(*names: str) -> bytes:
    """The start of every key below these names."""
    return "\0".join((*names, "")).encode("ascii")


def requiring(token: str) -> bytes:
    """The start of every key of `requires` about `token`, which may be of any length and script."""
    return hashlib.sha256(token.encode()).hexdigest()[:TOKEN_HEX_DIGITS].encode("ascii") + b"\0"


def raw(digest: str) -> bytes:
    """The 32 bytes of a digest `sha256:<hex>`."""
    return bytes.fromhex(digest.removeprefix(SHA256))


def to_digest(key: bytes) -> str:
    """Of the 32 bytes, or of the text."""
    return SHA256 + key.hex() if len(key) == DIGEST_BYTES else key.decode("ascii")


def starting(prefix: str) -> tuple[tuple[bytes, bytes], ...]:
    """Scans that meet every digest that starts with `prefix` (`sha256:` and hex digits), as bytes and as text, and
    others perhaps."""
    digits = prefix.removeprefix(SHA256)
    text = prefix.encode("ascii")
    least = bytes.fromhex(digits + "0" * (len(digits) % 2))
    most = bytes.fromhex(digits + "f" * (len(digits) % 2))
    return (least, most + b"\xff" * DIGEST_BYTES), (text, past(text))


def past(prefix: bytes) -> bytes:
    """The end of a scan over all keys that start with `prefix` (ASCII and zero bytes follow it)."""
    return prefix + b"\xff" * 9


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def to_number(value: bytes) -> int:
    return int.from_bytes(value, "big")
