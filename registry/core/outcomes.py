"""What applying a command decided. Remembered under its request id, so that a retry gets the same answer."""

from __future__ import annotations

from msgspec import Struct, msgpack

from registry.core.model import Backup, Pointer, Policy, RemovedVersion, StatusChange, Version


class Founded(Struct, frozen=True, kw_only=True, tag="founded"):
    revision: int
    cluster_id: str


class EpochBegun(Struct, frozen=True, kw_only=True, tag="epoch_begun"):
    revision: int
    epoch: int


class Published(Struct, frozen=True, kw_only=True, tag="published", omit_defaults=True):
    revision: int
    version: Version
    created: bool
    notes: tuple[str, ...] = ()  # for people: "means the same as version 3"


class Switched(Struct, frozen=True, kw_only=True, tag="switched"):
    revision: int
    pointers: tuple[Pointer, ...]
    status_changes: tuple[StatusChange, ...] = ()
    notes: tuple[str, ...] = ()


class Marked(Struct, frozen=True, kw_only=True, tag="marked"):
    revision: int
    version: Version
    previous_status: str


class Labelled(Struct, frozen=True, kw_only=True, tag="labelled"):
    revision: int
    version: Version


class PolicySet(Struct, frozen=True, kw_only=True, tag="policy_set"):
    revision: int
    scope: str
    policy: Policy


class Held(Struct, frozen=True, kw_only=True, tag="held"):
    revision: int
    version: Version


class Retained(Struct, frozen=True, kw_only=True, tag="retained", omit_defaults=True):
    revision: int
    removed: tuple[RemovedVersion, ...] = ()
    kept: dict[int, str] = {}  # those of the command that stay, and why


class Purged(Struct, frozen=True, kw_only=True, tag="purged", omit_defaults=True):
    revision: int
    digest: str
    removed: tuple[RemovedVersion, ...]
    backups: tuple[Backup, ...] = ()  # that hold the bytes, as far as was noted


class ChunkKept(Struct, frozen=True, kw_only=True, tag="chunk_kept"):
    revision: int


class Collected(Struct, frozen=True, kw_only=True, tag="collected"):
    revision: int
    deleted: int


class Repacked(Struct, frozen=True, kw_only=True, tag="repacked"):
    revision: int
    done: bool


class Indexed(Struct, frozen=True, kw_only=True, tag="indexed"):
    revision: int
    done: bool


class BackupNoted(Struct, frozen=True, kw_only=True, tag="backup_noted"):
    revision: int


class KeyKept(Struct, frozen=True, kw_only=True, tag="key_kept"):
    revision: int


class Acknowledged(Struct, frozen=True, kw_only=True, tag="acknowledged"):
    revision: int


class AgentsForgotten(Struct, frozen=True, kw_only=True, tag="agents_forgotten"):
    revision: int
    rows: int  # of agents, one for each pointer that one reported about


class Rejected(Struct, frozen=True, kw_only=True, tag="rejected"):
    """Decided: no. `reason` is one of errors.Reason; nothing changed."""

    revision: int
    reason: str
    message: str
    hint: str = ""
    metadata: dict[str, str] = {}


Outcome = (
    Founded
    | EpochBegun
    | Published
    | Switched
    | Marked
    | Labelled
    | PolicySet
    | Held
    | Retained
    | Purged
    | ChunkKept
    | Collected
    | Repacked
    | Indexed
    | BackupNoted
    | KeyKept
    | Acknowledged
    | AgentsForgotten
    | Rejected
)


class Remembered(Struct, frozen=True, kw_only=True):
    """What a request id has decided, and a fingerprint of what it asked."""

    sequence: int
    fingerprint: bytes
    outcome: Outcome


encode = msgpack.Encoder().encode
decode = msgpack.Decoder(Outcome).decode
