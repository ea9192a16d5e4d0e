"""Room for what is written: refused while the leader or too many voters have too little left, but for what gives space
back and for rollbacks. A disk that is full would end its member, and three full disks all three."""

from __future__ import annotations

import errno

from cluster.api import ClusterStatus
from registry.core import commands
from registry.core.errors import Reason, Unavailable
from registry.core.limits import MIB

WHAT_TO_DO = (
    "free some of the disk; or let go of contents: `regctl policy set '*' keep_last=10 --reason WHY`, `regctl "
    "retention run`, `regctl purge REF --reason WHY`; then `regctl cluster compact`. Writes go on by themselves"
)
_RETENTION_FIELDS = {"keep_last", "keep_days"}


def is_taken_when_full(command: commands.Command) -> bool:
    """Whether a command is taken although there is no room: it gives space back, or is needed to; or a bad version has
    to go, which takes some hundred bytes of the reserve."""
    if isinstance(command, commands.Switch):
        return command.rollback
    if isinstance(command, commands.SetPolicy):
        return command.fields.keys() <= _RETENTION_FIELDS
    return isinstance(command, commands.FREEING)


def no_space(status: ClusterStatus) -> Unavailable:
    return Unavailable(
        Reason.NO_SPACE,
        f"too little space is left: {lacking(status)}; nothing was done; reads, deletions and rollbacks go on",
        hint=WHAT_TO_DO,
        metadata={
            "members": ", ".join(peer.member.name for peer in status.peers if not peer.has_room),
            "headroom_bytes": str(status.headroom_bytes),
        },
    )


def lacking(status: ClusterStatus) -> str:
    """Who has no room, and how much this member has: `n1, n2 are full (n1 can still write 12 MiB)`."""
    names = [peer.member.name for peer in status.peers if not peer.has_room]
    own = f"{status.name} can still write {status.headroom_bytes // MIB:,} MiB"
    return f"on {', '.join(names)} ({own})" if names else f"on the leader or too many voters ({own})"


def is_full(error: BaseException) -> bool:
    """Whether it says that a disk, or the database's map, has no room."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = f"{type(error).__name__} {error}".lower()
    return "no space" in text or "mapfull" in text or "map_full" in text
