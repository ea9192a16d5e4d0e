"""What the client takes and returns beside the rows of `registry.core.model`."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from registry.core.model import DEFAULT_POINTER, Backup, Pointer, Policy, RemovedVersion, Version


class TlsConfig(Struct, frozen=True, kw_only=True):
    """Paths of PEM files. `ca` checks the members; `cert` with `key` is shown to them."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class ReplyInfo(Struct, frozen=True, kw_only=True):
    """Where a reply came from. `age_ms` (stale reads): since that member last heard the leader."""

    revision: int
    served_by: str
    cluster_id: str
    epoch: int
    leader: str
    age_ms: int = 0
    stale: bool = False


class Move(Struct, frozen=True):
    """One pointer to one version. `target`: a number or a reference; empty (rollback only): the registry picks.

    `expected_generation` None: whatever it is; 0: never switched.
    """

    workflow: str
    target: int | str = ""
    pointer: str = DEFAULT_POINTER
    expected_generation: int | None = None


class Finding(Struct, frozen=True, kw_only=True):
    """Something that is wrong with a content, or may be. Codes are listed in docs/compare.md; texts hold no secrets."""

    code: str
    level: str  # warn, confirm, block
    text: str
    where: str = ""


class Published(Version, frozen=True, kw_only=True):
    """A version and whether this publish created it; False: its bytes were the newest already."""

    created: bool
    findings: tuple[Finding, ...] = ()  # of this content alone
    notes: tuple[str, ...] = ()  # for people
    verdict: str = ""  # of going from the first parent to it: ok, warn, confirm, block; empty: no parent


class PolicyInForce(Struct, frozen=True, kw_only=True):
    effective: Policy  # every field filled in
    scopes: dict[str, Policy]  # that say something, from the widest to the narrowest


class Dependent(Struct, frozen=True, kw_only=True):
    """A workflow that requires another one."""

    workflow: str
    version: int  # the one that requires it: named by a pointer, or the newest
    pointers: tuple[str, ...]  # that name such a version; empty: only the newest does
    via: str  # what it requires, as it names it
    through: str  # indirect: the workflow between
    distance: int  # 1: direct


class Impact(Struct, frozen=True, kw_only=True):
    dependents: tuple[Dependent, ...]  # nearest first
    more: bool  # there are more than could be listed


class RetainedVersion(Struct, frozen=True, kw_only=True):
    workflow: str
    version: int
    kept_by: tuple[str, ...]  # rules; empty: its content was let go of, or would be


class Retained(Struct, frozen=True, kw_only=True):
    """What retention let go of, or would."""

    versions: tuple[RetainedVersion, ...]  # newest first; of all workflows only the removed; cut at 1000
    removed: int
    freed_bytes: int  # as stored, about
    kept: int


class Purged(Struct, frozen=True, kw_only=True):
    digest: str
    removed: tuple[RemovedVersion, ...]  # every version that had these bytes
    backups: tuple[Backup, ...]  # that hold them, as far as the cluster was told
    agents: tuple[str, ...]  # that run them, as they said


class WorkflowSummary(Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    versions: int  # number of the newest version
    created_ms: int
    pointers: tuple[Pointer, ...]
    newest: Version | None


class Comparison(Struct, frozen=True, kw_only=True):
    """What changed from one version to another. `comparison` is the whole of it, as in docs/compare.md."""

    from_version: Version
    to_version: Version
    summary: str
    comparison: dict[str, Any]


class AgentRow(Struct, frozen=True, kw_only=True):
    """What one agent runs for one pointer, as it reported."""

    agent: str
    site: str
    labels: dict[str, str]
    workflow: str
    pointer: str
    version: int  # installed; 0: none
    digest: str
    generation: int  # installed
    target_generation: int  # the newest it acted on
    state: str  # installing, current, behind, drifted, nacked, silent; see core.fleet
    code: str
    detail: str
    reported_ms: int
    age_ms: int  # since the last contact
    twins: bool = False  # two agents use this name at once: a cloned machine


class MemberStatus(Struct, frozen=True, kw_only=True):
    id: str  # the name, or name/incarnation; never given twice
    name: str
    role: str  # leader, voter, observer
    address: str
    peer_address: str
    datacenter: str
    alive: bool
    applied_index: int  # 0: not known
    lag: int  # entries
    incarnation: str = ""  # of its data directory; empty: not heard yet
    feature_level: int = 0  # the highest its release supports; 0: not known
    no_space: bool = False  # it said that it has too little space left

    @property
    def votes(self) -> bool:
        return self.role != "observer"


class WaitingMember(Struct, frozen=True, kw_only=True):
    """A process that asks to be admitted."""

    id: str
    name: str
    role: str  # what it wants to become: voter, observer
    address: str
    peer_address: str
    datacenter: str
    alive: bool
    feature_level: int
    command: str  # admits it


class ClusterStatus(Struct, frozen=True, kw_only=True):
    """The cluster as the member that answered sees it."""

    info: ReplyInfo
    leader: str  # name; empty: none known
    term: int
    commit_index: int
    members: tuple[MemberStatus, ...]
    version: str  # of the program that answered
    waiting: tuple[WaitingMember, ...] = ()
    leader_id: str = ""
    role: str = ""  # of the member that answered: leader, voter, observer, waiting
    first_index: int = 0  # of its log
    last_index: int = 0
    feature_level: int = 0  # in force
    fetching: str = ""  # by the member that answered, in words; empty: nothing
    no_space: bool = False  # writes are refused
    headroom_bytes: int = 0  # what the member that answered can still write, about


class Follow(Struct, frozen=True, kw_only=True):
    """A pointer an agent follows, and what it has: the newest generation acted on, the digest running now, digests of
    other versions on its disk."""

    workflow: str
    pointer: str = DEFAULT_POINTER
    generation: int = 0
    digest: str = ""
    kept: tuple[str, ...] = ()


class PollRequest(Struct, frozen=True, kw_only=True):
    """What an agent has. `cluster_id` empty and `epoch` 0: not known yet. `wait_ms` 0: answer at once."""

    agent: str
    site: str
    follows: tuple[Follow, ...]
    cluster_id: str = ""
    epoch: int = 0
    labels: dict[str, str] = {}
    facts: dict[str, str] = {}
    wait_ms: int = 0
    session: str = ""  # of this run of the agent
    inline_bytes: int = 0  # content up to this size is wanted inside the reply


class Instruction(Struct, frozen=True, kw_only=True):
    """What an agent should have for one pointer: see core.delivery. Fetch content with `min_revision`."""

    workflow: str
    pointer: str
    generation: int
    version: Version
    base_digest: str  # of the version the pointer named before; empty: none
    reason: str
    rollback: bool
    min_revision: int
    how: str = "fetch"
    content: bytes = b""  # how full: a zstd frame; delta: one over the bytes of delta_base
    delta_base: str = ""
    needs: tuple[str, ...] = ()
    not_before_ms: int = 0
    deadline_ms: int = 0


class PollResponse(Struct, frozen=True, kw_only=True):
    info: ReplyInfo
    instructions: tuple[Instruction, ...]  # only pointers that differ
