"""Who votes, how many of them may fail, and what about a cluster should worry its operator. Pure."""

from __future__ import annotations

from registry.client import ClusterStatus, MemberStatus
from registry.core.errors import Conflict, NotFound, Reason, Refused

BEHIND_ENTRIES = 1000  # a member further behind than this is pointed out
UNHEARD_MS = 3000  # an answer from further back than this is pointed out


def majority(voters: int) -> int:
    return voters // 2 + 1


def may_fail(voters: int) -> int:
    """So many of the voters may be gone while writes go on."""
    return max(voters - majority(voters), 0)


def voters(status: ClusterStatus) -> list[MemberStatus]:
    return [member for member in status.members if member.votes]


def even(count: int) -> str:
    """What to know about an even number of voters; empty: nothing."""
    if count == 0 or count % 2:
        return ""
    allowed = may_fail(count)
    how_many = "none" if allowed == 0 else str(allowed)
    return f"{count} voters tolerate no more failures than {count - 1}: {how_many} may fail"


def label(member: MemberStatus, status: ClusterStatus) -> str:
    """Its name, or its id where the name is that of two."""
    return member.id if sum(other.name == member.name for other in status.members) > 1 else member.name


def exact(member: MemberStatus) -> str:
    """What names this member and never one that has taken its place: a founder's id alone is a name."""
    return f"{member.name}/{member.incarnation}" if member.incarnation else member.id


def find(status: ClusterStatus, member: str) -> MemberStatus:
    """The member of this id, else of this name. Raises NotFound and Conflict as the registry does."""
    for each in status.members:
        if member in (each.id, exact(each)):
            return each
    named = [each for each in status.members if each.name == member]
    if not named:
        raise NotFound(
            Reason.UNKNOWN_MEMBER,
            f"{member} is not a member of this cluster; nothing was changed",
            hint="`regctl cluster status` lists the members",
        )
    if len(named) > 1:
        raise Conflict(
            Reason.AMBIGUOUS_MEMBER,
            f"more than one member is named {member}; nothing was changed",
            hint=f"say which: {' or '.join(each.id for each in named)}",
        )
    return named[0]


def removal(status: ClusterStatus, member: MemberStatus) -> list[str]:
    """What removing it means, a line each."""
    now = voters(status)
    left = [each for each in now if each.id != member.id]
    alive, needed = sum(each.alive for each in left), majority(len(left))
    lines = [
        f"{label(member, status)} ({member.role}, {member.address or member.peer_address}) leaves for good: "
        "its process ends, its data directory is of no more use to the cluster"
    ]
    if not member.votes:
        return [*lines, f"  it does not vote: {len(now)} voters as before, {may_fail(len(now))} may fail"]
    if member.role == "leader":
        lines.append("  it leads now and hands over first")
    lines.append(f"  voters: {len(now)} -> {len(left)}; may fail: {may_fail(len(now))} -> {may_fail(len(left))}")
    if note := even(len(left)):
        lines.append(f"  {note}")
    if left and alive < needed:
        lines.append(f"  at risk: {alive} of them alive, {needed} needed: no write would be possible")
    return lines


def in_vain(status: ClusterStatus, member: MemberStatus, *, force: bool) -> Refused | None:
    """What the registry will say to removing it, so that nobody is asked for a yes that counts for nothing."""
    left = [each for each in voters(status) if each.id != member.id]
    if not member.votes:
        return None
    if not left:
        return Refused(
            Reason.LAST_VOTER,
            f"{label(member, status)} is the last voter; without it there is no cluster; nothing was changed",
            hint="make another member a voter first: `regctl cluster promote NAME`",
        )
    if sum(each.alive for each in left) < majority(len(left)) and not force:
        return Refused(
            Reason.QUORUM_AT_RISK,
            f"without {label(member, status)} too few voters would be alive; nothing was changed",
            hint="bring back the members that are not alive, or take the risk with --force",
        )
    return None


def warnings(status: ClusterStatus) -> list[str]:
    """Nothing to worry about: empty."""
    now = voters(status)
    alive, needed = sum(member.alive for member in now), majority(len(now))
    found = []
    if status.info.age_ms > UNHEARD_MS:
        found.append(
            f"{status.info.served_by} has not heard a leader for {status.info.age_ms / 1000:.0f} s: "
            "this is what it knows since then"
        )
    if now and alive < needed:
        found.append(f"no majority: {_of(alive, len(now))}, {needed} must be; nothing can be written")
    elif alive == needed:
        found.append(f"no further voter may fail: {_of(alive, len(now))}, {needed} must be")
    if full := [label(member, status) for member in status.members if member.no_space]:
        refused = "writes are refused (NO_SPACE)" if status.no_space else "it takes no part in writes"
        found.append(f"too little space is left on {', '.join(full)}: {refused} until there is more")
    newest = max((member.feature_level for member in status.members), default=0)
    for member in status.members:
        name = label(member, status)
        if not member.alive:
            found.append(f"{name} is not heard")
        elif member.lag > BEHIND_ENTRIES:
            found.append(f"{name} is {member.lag} entries behind")
        if 0 < member.feature_level < newest:
            found.append(
                f"{name} runs an older release: the cluster stays at feature level {status.feature_level}, "
                f"although others support {newest}"
            )
    return found


def _of(alive: int, count: int) -> str:
    return f"{alive} of {count} voter{'s' if count > 1 else ''} alive"
