"""What the log carries: one command is one decision. The log's own messages, apart from the API's.

Every command carries its request id (UUIDv7: it holds the time it was issued), the time the proposing member saw,
the principal and the reason. Time is information, never a decision.
"""

from __future__ import annotations

from msgspec import Struct, msgpack

from registry.core.model import Backup, Content, EpochCause, Snapshot, Status


class Found(Struct, frozen=True, kw_only=True, tag="found"):
    """The first command of a cluster: its identity. Later ones change nothing and return it."""

    request_id: str
    time_ms: int
    cluster_id: str


class BeginEpoch(Struct, frozen=True, kw_only=True, tag="begin_epoch", omit_defaults=True):
    """What follows is another history than the one that agents and clients may have seen go on from here: of a backup
    that was restored, or of a lone member that was made the whole cluster. The next epoch, or `at_least` this one: a
    backup may be restored twice, and agents must not take one history for the other."""

    request_id: str
    time_ms: int
    principal: str
    cause: EpochCause
    reason: str
    at_least: int = 0


class Publish(Struct, frozen=True, kw_only=True, tag="publish", omit_defaults=True):
    request_id: str
    time_ms: int
    principal: str
    workflow: str
    kind: str
    digest: str
    value_digest: str
    semantic_digest: str
    content: Content
    message: str = ""
    labels: dict[str, str] = {}
    facts: dict[str, str] = {}
    parents: tuple[int, ...] = ()  # none: the newest version
    parent_references: tuple[str, ...] = ()  # as in Move
    requires: tuple[str, ...] = ()
    asked_requires: tuple[str, ...] = ()  # those of them that the caller named
    secrets: dict[str, str] = {}
    summary: str = ""
    change: str = ""
    findings: tuple[str, ...] = ()  # of level block, for people: what policy `checks` refuses
    literals: tuple[str, ...] = ()  # masked: what policy `literals` refuses
    snapshot: Snapshot = "published"
    needs: tuple[str, ...] = ()


class Move(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One pointer to one version. `target` 0 (rollback only): picked in apply.

    `reference` is the target as the caller wrote it; a retry may resolve it to another number and stays the same
    request.
    """

    workflow: str
    pointer: str
    target: int = 0
    reference: str = ""
    expected_generation: int | None = None
    verdict: str = ""  # of going from version `verdict_from` to the target, as the member found it; empty: not asked
    verdict_from: int = 0


class Switch(Struct, frozen=True, kw_only=True, tag="switch", omit_defaults=True):
    """Moves of different pointers: all or none."""

    request_id: str
    time_ms: int
    principal: str
    moves: tuple[Move, ...]
    reason: str
    rollback: bool = False
    force: bool = False
    keep_status: bool = False
    not_before_ms: int = 0  # as in model.Pointer; neither of a rollback
    deadline_ms: int = 0


class Mark(Struct, frozen=True, kw_only=True, tag="mark", omit_defaults=True):
    request_id: str
    time_ms: int
    principal: str
    workflow: str
    version: int
    status: Status
    reason: str
    reference: str = ""  # as in Move


class Label(Struct, frozen=True, kw_only=True, tag="label", omit_defaults=True):
    request_id: str
    time_ms: int
    principal: str
    workflow: str
    version: int
    labels: dict[str, str] = {}  # to set
    remove: tuple[str, ...] = ()
    reason: str = ""
    reference: str = ""  # as in Move


class SetPolicy(Struct, frozen=True, kw_only=True, tag="set_policy", omit_defaults=True):
    """Changes fields of the policy of one scope: `*`, `ns/*` or `ns/name`. An empty text takes a field back."""

    request_id: str
    time_ms: int
    principal: str
    scope: str
    fields: dict[str, str]  # of model.Policy
    reason: str


class KeepKey(Struct, frozen=True, kw_only=True, tag="keep_key"):
    """The key of fingerprints, once: a later one changes nothing. Not a change of the registry: no revision."""

    request_id: str
    time_ms: int
    key: bytes


class Hold(Struct, frozen=True, kw_only=True, tag="hold", omit_defaults=True):
    """Keep the content of a version whatever retention says, or (`hold` false) do so no longer."""

    request_id: str
    time_ms: int
    principal: str
    workflow: str
    version: int
    reason: str
    hold: bool = True
    reference: str = ""  # as in Move


class Retain(Struct, frozen=True, kw_only=True, tag="retain", omit_defaults=True):
    """Let go of the content of these versions, as the policy allows. Age was judged by whoever proposes; all other
    rules are looked at again in apply, and a version that any of them keeps is kept. Repeated it changes nothing."""

    request_id: str
    time_ms: int
    principal: str
    workflow: str
    versions: tuple[int, ...]
    reason: str
    keep_days: str = ""  # of the policy in force that age was judged by; all stay if another one is in force by now


class Purge(Struct, frozen=True, kw_only=True, tag="purge", omit_defaults=True):
    """Remove these bytes, of whatever version and workflow, for good, and refuse them from now on. The rows stay."""

    request_id: str
    time_ms: int
    principal: str
    workflow: str
    version: int
    digest: str  # of that version, as the caller saw it
    reason: str
    reference: str = ""  # as in Move


class PutChunk(Struct, frozen=True, kw_only=True, tag="put_chunk"):
    """A part of large content, before the publish that names it. Not a change of the registry: no revision."""

    request_id: str
    time_ms: int
    digest: str
    content: Content  # raw or zstd


class Collect(Struct, frozen=True, kw_only=True, tag="collect"):
    """Delete chunks that no content names; one that came into use meanwhile stays. No revision."""

    request_id: str
    time_ms: int
    digests: tuple[str, ...]


class Repack(Struct, frozen=True, kw_only=True, tag="repack"):
    """The same exact bytes in another encoding. Decides nothing anew: does nothing where the content was packed
    otherwise meanwhile, or the new base is gone. No revision."""

    request_id: str
    time_ms: int
    digest: str
    was: bytes  # 16 bytes, of the row as it was: core.encoding.fingerprint
    content: Content


class Index(Struct, frozen=True, kw_only=True, tag="index"):
    """Note who holds which content, for versions published below feature level 2: some workflows on. No revision."""

    request_id: str
    time_ms: int


class NoteBackup(Struct, frozen=True, kw_only=True, tag="note_backup"):
    """A backup was given out: a purge must be able to name it. No revision."""

    request_id: str
    time_ms: int
    backup: Backup


class Ack(Struct, frozen=True, kw_only=True, omit_defaults=True):
    agent: str
    incarnation: str
    sequence: int
    workflow: str
    pointer: str
    generation: int
    phase: str  # one of model.Phase
    site: str = ""
    labels: dict[str, str] = {}
    code: str = ""
    detail: str = ""
    running_generation: int = 0
    running_version: int = 0
    running_digest: str = ""
    time_ms: int = 0


class Contact(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent polled a member at this time. `session`: of that run of it; empty: not said."""

    agent: str
    time_ms: int
    session: str = ""


class Acknowledge(Struct, frozen=True, kw_only=True, tag="acknowledge", omit_defaults=True):
    """Reports of agents. Not a change of the registry: no revision, no audit entry."""

    request_id: str
    time_ms: int
    acks: tuple[Ack, ...] = ()
    contacts: tuple[Contact, ...] = ()


class ForgottenAgent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`heard_ms`: forgotten by rule if its last contact is still this one, and where the rule still holds; None: in any
    case. `entirely`: also that it was ever heard of; it has no other rows."""

    agent: str
    rows: tuple[tuple[str, str], ...] = ()  # workflow, pointer
    heard_ms: int | None = None
    entirely: bool = False

    @property
    def weight(self) -> int:
        """Towards limits.FORGOTTEN."""
        return 1 + len(self.rows)


class ForgetAgents(Struct, frozen=True, kw_only=True, tag="forget_agents"):
    """Forget what agents reported. One that still runs comes back with its next report. Not a change of the registry:
    no revision, no audit entry."""

    request_id: str
    time_ms: int
    agents: tuple[ForgottenAgent, ...]


Command = (
    Found
    | BeginEpoch
    | Publish
    | Switch
    | Mark
    | Label
    | SetPolicy
    | Hold
    | Retain
    | Purge
    | PutChunk
    | Collect
    | Repack
    | Index
    | NoteBackup
    | KeepKey
    | Acknowledge
    | ForgetAgents
)
# What members of feature level 1 cannot read: proposed only where level 2 is in force.
SINCE_LEVEL_2 = (
    Label,
    SetPolicy,
    KeepKey,
    Hold,
    Retain,
    Purge,
    PutChunk,
    Collect,
    Repack,
    Index,
    NoteBackup,
    ForgetAgents,
)
# What is taken when there is no space for more: it gives space back, or is needed to.
FREEING = (Retain, Purge, Collect, Repack, Index, ForgetAgents)

encode = msgpack.Encoder().encode
decode = msgpack.Decoder(Command).decode
