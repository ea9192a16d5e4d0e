"""What the registry knows: rows of the replicated state. Values only; see docs/ARCHITECTURE.md for the words.

Rows are MessagePack maps by field name: a field may be added with a default, never renamed or given a new meaning.
"""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

Status = Literal["candidate", "stable", "failed", "fenced", "archived"]
STATUSES: tuple[Status, ...] = get_args(Status)
EpochCause = Literal["restore", "recover"]
EPOCH_CAUSES: tuple[EpochCause, ...] = get_args(EpochCause)
Snapshot = Literal["published", "manual", "periodic", "terminal"]
SNAPSHOTS: tuple[Snapshot, ...] = get_args(Snapshot)  # why a version was made; retention counts each class apart
RemovalCause = Literal["retention", "purge"]
Phase = Literal["installed", "confirmed", "reverted", "refused"]
DEFAULT_POINTER = "active"
SEMVER_LABEL = "semver"


class Workflow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str  # namespace/name
    kind: str
    versions: int  # number of the newest version
    created_ms: int


class Removed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why the content of a version is not kept any more. The version itself stays."""

    cause: RemovalCause
    revision: int
    time_ms: int
    principal: str = ""
    reason: str = ""


class Version(Struct, frozen=True, kw_only=True, omit_defaults=True):
    workflow: str
    number: int
    digest: str
    value_digest: str
    semantic_digest: str
    kind: str
    size_bytes: int
    status: Status = "candidate"
    parents: tuple[int, ...] = ()
    author: str = ""
    created_ms: int = 0
    message: str = ""
    labels: dict[str, str] = {}
    facts: dict[str, str] = {}
    revision: int = 0
    requires: tuple[str, ...] = ()  # other workflows it calls: `ns/name`, or as its format names them: `n8n:ID`
    secrets: dict[str, str] = {}  # name -> keyed fingerprint of a value that was left out of the content
    summary: str = ""  # what it changed, against its first parent, in one sentence
    change: str = ""  # and how much: none, minor, medium, major
    snapshot: Snapshot = "published"
    hold: str = ""  # why retention must keep it; empty: it is not held
    removed: Removed | None = None  # the content may still be there, if another version has the same bytes
    needs: tuple[str, ...] = ()  # of the machines that install it; see core.needs


class Policy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rules for publishing and switching. Empty: not said here; see `core.policies`."""

    unchanged: str = ""  # allow | warn | refuse: a publish that means the same as the newest version
    checks: str = ""  # warn | refuse: content with findings of level block
    literals: str = ""  # warn | refuse: content with literals that look like secrets
    verdict: str = ""  # ok | warn | confirm | block: the worst verdict that a switch is taken with
    immutable_labels: str = ""  # patterns of label keys, comma separated: `release-*,approved`
    keep_last: str = ""  # versions whose content is kept: `10` of each class, or `published=10,periodic=3`; `all`
    keep_days: str = ""  # versions younger than this are kept: a number of days, or `all`
    agents_expire_days: str = ""  # agents silent for so many days are forgotten: a number, or `never`


class Pointer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pointer after one switch. The newest is the current one; earlier ones are its history, by generation."""

    workflow: str
    pointer: str
    version: int
    digest: str
    previous_version: int = 0
    generation: int
    revision: int
    reason: str = ""
    principal: str = ""
    time_ms: int = 0
    rollback: bool = False
    not_before_ms: int = 0  # agents fetch it at once and install it no earlier; 0: at once
    deadline_ms: int = 0  # agents install it no later; 0: whenever


class Digest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The versions of one workflow that have the same exact bytes."""

    newest: int
    fenced: tuple[int, ...] = ()


class StatusChange(Struct, frozen=True, kw_only=True):
    workflow: str
    version: int
    previous_status: Status
    status: Status


class RemovedVersion(Struct, frozen=True, kw_only=True):
    workflow: str
    version: int
    digest: str


class Backup(Struct, frozen=True, kw_only=True):
    """A backup that was given out, as far as the cluster was told."""

    revision: int  # everything up to it is in the file
    index: int
    taken_ms: int
    member: str
    principal: str = ""


class Change(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The audit entry of one accepted change; `revision` is its key."""

    revision: int
    time_ms: int
    principal: str
    action: (
        Literal["found", "publish", "switch", "rollback", "mark", "label", "policy", "hold", "retention", "purge"]
        | EpochCause
    )
    reason: str = ""
    request_id: str = ""
    workflows: tuple[str, ...] = ()
    version: Version | None = None
    pointers: tuple[Pointer, ...] = ()
    previous_status: str = ""
    status_changes: tuple[StatusChange, ...] = ()
    epoch: int = 0  # the one that begins here
    scope: str = ""  # policy: `*`, `ns/*` or `ns/name`
    policy: Policy | None = None  # policy: after the change
    forced: bool = False  # switch, rollback: asked for with force, needed or not; since feature level 2
    removed: tuple[RemovedVersion, ...] = ()  # retention, purge: versions whose content is not kept any more


class Content(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Stored bytes with their encoding. Reads check the digest.

    delta: a zstd frame whose dictionary is the exact bytes of another content. chunks: large content; `data` is empty.
    The last two since feature level 2."""

    encoding: Literal["raw", "zstd", "delta", "chunks"]
    data: bytes
    size_bytes: int  # of the exact bytes
    base: str = ""  # delta: the digest of that other content
    depth: int = 0  # deltas to undo until one stands alone; at most limits.DELTA_DEPTH
    chunks: tuple[str, ...] = ()  # digests of the chunks, in order
    settled: bool = False  # was packed again in the background: there is nothing more to gain


class Agent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one agent runs for one pointer, as it reported."""

    agent: str
    workflow: str
    pointer: str
    incarnation: str
    sequence: int
    site: str = ""
    labels: dict[str, str] = {}
    generation: int = 0  # what the newest ack is about
    phase: Phase = "installed"
    code: str = ""
    detail: str = ""
    running_generation: int = 0
    running_version: int = 0
    running_digest: str = ""
    reported_ms: int = 0


class LastContact(Struct, frozen=True, kw_only=True, array_like=True):
    """When an agent was last heard of, and which runs of it were heard of last. Times are unix ms; 0: never.

    `twins_ms`: when a run was last heard of again after another one: two agents have this name."""

    time_ms: int = 0
    session: str = ""
    previous_session: str = ""
    twins_ms: int = 0


class Registry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one row about the whole: identity and counters."""

    cluster_id: str = ""
    epoch: int = 1
    revision: int = 0
    forgotten_ms: int = 0  # newest issue time among forgotten request ids
    remembered: int = 0  # request ids kept
    requests: int = 0  # request ids ever kept: the order of forgetting
    fingerprint_key: bytes = b""  # of secrets; never leaves the members and their backups
    indexed: str = ""  # workflows up to this name are in `holders`, whatever release published their versions
    is_indexed: bool = False  # all are: content may be removed
