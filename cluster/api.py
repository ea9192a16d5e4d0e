"""What the product sees of the cluster: propose bytes, read at a barrier, follow what was applied.

A command is at most `limits.COMMAND_BYTES`; it means nothing here. The state machine is called inside the tick's
transaction, in order of index, exactly once per entry over the life of a data directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cluster.configuration import MemberRecord, Role
from cluster.kv.api import Transaction
from cluster.membership import Change, Changed


class StateMachine(Protocol):
    def apply(self, transaction: Transaction, command: bytes, level: int) -> bytes:
        """Apply one committed command and return its result for the proposer. A function of log and state only.
        `level` is the feature level in force where the command stands in the log: every release applies it alike.
        Whatever it raises ends the process: a rejection is a result, never an exception."""
        ...

    def committed(self) -> None:
        """The tick's transaction is committed, and who looks sees it; something may have been applied in it."""
        ...

    def forget_log(self) -> bool:
        """Asked after each apply. True: what was applied so far must leave this member's log soon, since the log holds
        content that is to be gone. Whoever still needs those entries fetches a state instead. False: no opinion."""
        ...

    def installed(self) -> None:
        """All of the state was replaced by a newer one, fetched from another member; it is visible to snapshots."""
        ...


class ClusterError(Exception):
    """Base of what `propose` and `barrier` raise."""


class NotAttempted(ClusterError):
    """No leader took it within the deadline; it has not happened and will not. Retry."""


class OutcomeUnknown(ClusterError):
    """It may have happened or may still happen. Retry only what is idempotent."""


class CommandTooLarge(ClusterError):
    pass


class MemberRemoved(ClusterError):
    """This member was removed from the cluster; its data directory is of no use to it any more."""


class ReleaseTooOld(ClusterError):
    """The cluster's feature level is higher than this release can apply."""


class Diverged(ClusterError):
    """This member's state differs from that of the others although their logs agree: a defect or a damaged disk."""


class DataDamaged(ClusterError):
    """A row of this member's data directory is not what was written. Ended and started again, it fetches a state from
    another member, unless the text says what else has to be done."""


class CompactionRefused(ClusterError):
    """Nothing was changed; the text says why, and when to ask again."""


@dataclass(frozen=True)
class Compacted:
    before_bytes: int  # of the files of the environment
    after_bytes: int
    seconds: float


@dataclass(frozen=True)
class PeerStatus:
    member: MemberRecord
    alive: bool  # heard within a few report periods
    applied_index: int  # 0: not known
    level: int = 0  # highest feature level it can apply; 0: not known
    protocol: int = 0
    has_room: bool = True  # on its disk, for what is not a deletion; as far as heard


@dataclass(frozen=True)
class ClusterStatus:
    id: str  # of this member
    name: str
    role: Role | Literal["waiting"]  # waiting: not admitted yet
    leader: str | None  # an id
    term: int
    commit_index: int
    applied_index: int
    first_index: int  # of the log
    last_index: int
    leader_contact_s: float  # since the leader was last heard, over all members between; 0 on the leader
    level: int  # feature level in force
    peers: tuple[PeerStatus, ...]  # every member of the configuration, this one included
    waiting: tuple[PeerStatus, ...] = ()  # processes that ask to be admitted
    fetching: str = ""  # in words, while a state is fetched
    refused_by: Mapping[str, str] = field(default_factory=dict)  # peers that refuse this member, and why
    refused: Mapping[str, int] = field(default_factory=dict)  # connections ended by this side, by reason
    repairing: str = ""  # the damage in words, until the state is replaced: it takes part in nothing until then
    has_room: bool = True  # the leader and a majority of the voters do, as far as heard: refuse what takes room if not
    headroom_bytes: int = 0  # what can still be written here


class Access(Protocol):
    """What serving calls needs of a member, in its process or beside it."""

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        """Commit on a majority, apply here or on the leader, return the result of apply. Any member will do.
        Raises NotAttempted, OutcomeUnknown, CommandTooLarge."""
        ...

    async def barrier(self, *, timeout_s: float) -> None:
        """Return when who looks now sees everything acknowledged anywhere before the call.
        Raises NotAttempted."""
        ...

    def leader_address(self) -> str:
        """The leader's API address; empty: not known. Cheap: every reply carries it."""
        ...

    @property
    def has_room(self) -> bool:
        """As in ClusterStatus, for far less: every proposal asks."""
        ...

    @property
    def level(self) -> int:
        """Likewise."""
        ...

    def status(self) -> ClusterStatus: ...


class Cluster(Access, Protocol):
    """One running member, on the running asyncio loop."""

    async def start(self) -> None: ...

    async def stop(self, *, handover_s: float) -> None:
        """Hand leadership over if held (at most handover_s), then close."""
        ...

    def show(self) -> None:
        """What callers here were told is committed from now on, so that others in this process see it too. Who reads
        the environment here does anyway."""
        ...

    def checkpoint(self) -> None:
        """Other processes that read the environment see it from now on. Raises OutcomeUnknown: they do not."""
        ...

    async def change(self, change: Change, *, timeout_s: float) -> Changed:
        """One step of membership, or a transfer of leadership; returns once it is committed (transferred) or refused.
        Any member will do. Raises NotAttempted, OutcomeUnknown: ask again, a step that is done is not done twice."""
        ...

    async def damaged(self, why: str) -> bool:
        """A row of the state cannot be read, as was found beside the cluster. The member hands leadership over if it
        has it, notes that its state is to be replaced, and ends (`failure`): started again it fetches one. False: it
        is the only voter, so that nobody could give it one; it goes on."""
        ...

    async def compact(self) -> Compacted:
        """Rewrite the environment without its free pages, while everything goes on.
        Raises CompactionRefused, and what the environment raises where it has no room for a second file."""
        ...

    async def failure(self) -> BaseException:
        """Wait until the member has failed hard (disk, apply, engine), found damage (DataDamaged), diverged or was
        removed, and return why. The process must end."""
        ...
