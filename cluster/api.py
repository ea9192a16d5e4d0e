"""What the product sees of the cluster: propose bytes, read at a barrier, follow what was applied.

A command is at most `limits.COMMAND_BYTES`; it means nothing here. The state machine is called inside the tick's
transaction, in order of index, exactly once per entry over the life of a data directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cluster.kv.api import Transaction


class StateMachine(Protocol):
    def apply(self, transaction: Transaction, command: bytes) -> bytes:
        """Apply one committed command and return its result for the proposer. A function of log and state only.
        Whatever it raises ends the process: a rejection is a result, never an exception."""
        ...

    def committed(self) -> None:
        """The tick's transaction is durable and visible to snapshots; something may have been applied in it."""
        ...


class ClusterError(Exception):
    """Base of what `propose` and `barrier` raise."""


class NotAttempted(ClusterError):
    """No leader took it within the deadline; it has not happened and will not. Retry."""


class OutcomeUnknown(ClusterError):
    """It may have happened or may still happen. Retry only what is idempotent."""


class CommandTooLarge(ClusterError):
    pass


@dataclass(frozen=True)
class MemberInfo:
    """A configured member."""

    name: str
    peer_address: str
    api_address: str = ""  # as it said itself in its handshake; empty: not heard yet
    datacenter: str = ""


@dataclass(frozen=True)
class PeerStatus:
    member: MemberInfo
    alive: bool  # heard within the election timeout, or connected
    applied_index: int  # 0: not known


@dataclass(frozen=True)
class ClusterStatus:
    name: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    leader_contact_s: float  # since the leader was last heard; 0 on the leader
    peers: tuple[PeerStatus, ...]  # every member, this one included


class Cluster(Protocol):
    """One running member, on the running asyncio loop."""

    async def start(self) -> None: ...

    async def stop(self, *, handover_s: float) -> None:
        """Hand leadership over if held (at most handover_s), then close."""
        ...

    async def propose(self, command: bytes, *, timeout_s: float) -> bytes:
        """Commit on a majority, apply here or on the leader, return the result of apply. Any member will do.
        Raises NotAttempted, OutcomeUnknown, CommandTooLarge."""
        ...

    async def barrier(self, *, timeout_s: float) -> None:
        """Return when a snapshot taken now holds everything acknowledged anywhere before the call.
        Raises NotAttempted."""
        ...

    def leader_address(self) -> str:
        """The leader's API address; empty: not known. Cheap: every reply carries it."""
        ...

    def status(self) -> ClusterStatus: ...

    async def failure(self) -> BaseException:
        """Wait until the member has failed hard (disk, apply, engine) and return why. The process must end."""
        ...
