"""How a process becomes a member: admitted, level with the others, then a voter. Each step is one call to the cluster;
what was reached is told to whoever interrupts, with the command that goes on.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console

from registry.cli import quorum
from registry.cli.session import Session
from registry.client import ClusterStatus, MemberStatus, WaitingMember
from registry.core import errors
from registry.core.errors import Conflict, NotFound, Reason, Refused, RegistryError, Unavailable

LEVEL_ENTRIES = 500  # behind the leader at most: half of what it takes for a voter
LOOK_S = 0.25  # between two looks at the cluster
APPEAR_S = 5.0  # a process started a moment ago is soon heard
SILENT_S = 60.0  # then a member that is not heard is not waited for
TELL_S = 5.0  # between two lines of progress without a terminal
Found = TypeVar("Found")


@dataclass
class Course:
    """What was reached, and the command that goes on."""

    reached: str = ""
    go_on: str = ""


@contextmanager
def course(session: Session) -> Iterator[Course]:
    """However the work in it ends early, the user learns where it stands."""
    made = Course()
    try:
        yield made
    except RegistryError as error:
        if not made.reached:
            raise
        raise errors.error(
            error.reason,
            f"{error.message}; so far: {made.reached}",
            hint=f"{error.hint}; go on with `{made.go_on}`" if error.hint else f"go on with `{made.go_on}`",
            metadata=error.metadata,
        ) from error
    except asyncio.CancelledError:
        if made.reached:
            session.say(f"{made.reached}; go on with: {made.go_on}")
        raise


async def add(session: Session, name: str, *, observer: bool) -> tuple[str, str]:
    """Admits the process, and makes it a voter once it is level unless it is to observe. Its id and role."""

    def look(status: ClusterStatus) -> WaitingMember | MemberStatus | None:
        process = _waiting(status, name)
        return _member(status, name) if process is None else process

    process: WaitingMember | MemberStatus | None
    status, process = await _appears(session, look)
    if isinstance(process, MemberStatus):
        return process.id, process.role
    if process is not None and _member(status, process.name):
        raise Conflict(
            Reason.NAME_TAKEN,
            f"a member named {process.name} exists; nothing was changed",
            hint=f"`regctl cluster replace {process.name}` puts the process into its place",
        )
    with course(session) as at:
        id = await session.doing(session.client.members.add(process.id if process else name))
        # of a process that is not shown the wish is not known; an observer can be promoted, a voter not demoted
        observes = observer or process is None or process.role == "observer"
        at.reached, at.go_on = f"{name} is admitted as an observer", f"regctl cluster promote {name}"
        if observes:
            at.go_on = "regctl cluster status"
            await level(session, id)
            return id, "observer"
        await promote_once_level(session, id)
        return id, "voter"


async def replace(session: Session, name: str) -> tuple[str, str]:
    """Puts the process that waits under the name of a member into its place. The new one's id and role."""
    status, pair = await _appears(session, lambda status: _pair(status, name))
    if pair is None:
        raise _nothing_to_replace(status, name)
    old, new = pair
    role = "voter" if old.votes else "observer"
    again = f"regctl cluster replace {name}"
    with course(session) as at:
        if isinstance(new, WaitingMember):
            await session.doing(session.client.members.add(new.id))
        at.reached, at.go_on = f"{new.id} is admitted as an observer, {old.id} is still a member", again
        await level(session, new.id)
        await session.doing(session.client.members.remove(quorum.exact(old)))
        at.reached, at.go_on = f"{old.id} is removed, {new.id} is an observer", f"regctl cluster promote {new.id}"
        if role == "voter":
            await promote_once_level(session, new.id)
    return new.id, role


async def level(session: Session, id: str) -> MemberStatus:
    """Waits until the member is alive and hardly behind, and shows how it gets there. Raises Unavailable when it has
    not been heard for SILENT_S."""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    with progress(session) as show:
        while True:
            status = await session.client.status()
            member = next((each for each in status.members if each.id == id), None)
            if member is not None and member.alive:
                heard_at = loop.time()
                if member.applied_index and member.lag <= LEVEL_ENTRIES:
                    return member
            elif loop.time() - heard_at > SILENT_S:
                raise Unavailable(
                    Reason.NO_MEMBER, f"{id} has not been heard for {SILENT_S:g} s", hint="see its log, start it again"
                )
            show(await _standing(session, id, member))
            await asyncio.sleep(LOOK_S)


async def promote_once_level(session: Session, id: str) -> str:
    """The leader has the last word on whether it is level."""
    while True:
        await level(session, id)
        try:
            return await session.doing(session.client.members.promote(id))
        except Refused as error:
            if error.reason is not Reason.NOT_CAUGHT_UP:
                raise
        await asyncio.sleep(LOOK_S)


@contextmanager
def progress(session: Session) -> Iterator[Callable[[str], None]]:
    """A line that changes in place on a terminal; else one now and then. Nothing with -o json."""
    if session.quiet:
        yield lambda text: None
    elif sys.stderr.isatty():
        with Console(stderr=True, highlight=False, emoji=False).status("") as line:
            yield line.update
    else:
        loop, told_at = asyncio.get_running_loop(), float("-inf")

        def tell(text: str) -> None:
            nonlocal told_at
            if loop.time() - told_at >= TELL_S:
                told_at = loop.time()
                session.say(text)

        yield tell


async def _standing(session: Session, id: str, member: MemberStatus | None) -> str:
    if member is None or not member.alive:
        return f"{id} is not heard yet"
    if member.address:
        with suppress(RegistryError):  # it may be reachable for the members only
            if fetching := (await session.client.status_of(member.address)).fetching:
                return f"{id}: {fetching}"
    return f"{id} is {member.lag} entries behind" if member.applied_index else f"{id} catches up"


async def _appears(
    session: Session, look: Callable[[ClusterStatus], Found | None]
) -> tuple[ClusterStatus, Found | None]:
    """The status in which `look` finds something, or the last one after APPEAR_S without. The last look begins after
    APPEAR_S: a member that stood still until then answers who asks before it hears who joins."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + APPEAR_S
    while True:
        began = loop.time()
        status = await session.doing(session.client.status())
        found = look(status)
        if found is not None or began >= deadline:
            return status, found
        await asyncio.sleep(LOOK_S)


def _waiting(status: ClusterStatus, name: str) -> WaitingMember | None:
    """None also for a name that two processes have: the registry says which there are."""
    named = [each for each in status.waiting if name in (each.id, each.name)]
    return named[0] if len(named) == 1 else None


def _member(status: ClusterStatus, name: str) -> MemberStatus | None:
    return next((each for each in status.members if name in (each.id, each.name)), None)


def _pair(status: ClusterStatus, name: str) -> tuple[MemberStatus, WaitingMember | MemberStatus] | None:
    """Who goes and who comes: a process that waits, or one admitted before an interruption."""
    members = [each for each in status.members if each.name == name]
    if len(members) == 1 and (process := _waiting(status, name)):
        return members[0], process
    if len(members) != 2:
        return None
    first, second = members
    for old, new in ((first, second), (second, first)):
        if not new.votes and (old.votes or (new.alive and not old.alive)):
            return old, new
    raise Conflict(
        Reason.AMBIGUOUS_MEMBER,
        f"two observers are named {name}; nothing was changed",
        hint=f"`regctl cluster remove` the one that goes: {first.id} or {second.id}",
    )


def _nothing_to_replace(status: ClusterStatus, name: str) -> RegistryError:
    members = [each for each in status.members if each.name == name]
    if not members:
        hint = f"`regctl cluster add {name}` admits a new member" if _waiting(status, name) else ""
        return NotFound(
            Reason.UNKNOWN_MEMBER,
            f"no member is named {name}; nothing was changed",
            hint=hint or "`regctl cluster status` lists the members",
        )
    if len(members) > 2 or len([each for each in status.waiting if each.name == name]) > 1:
        return Conflict(
            Reason.AMBIGUOUS_MEMBER,
            f"too many go by the name {name}; nothing was changed",
            hint="stop the processes that shall not join, remove members by id (`regctl cluster status` shows them)",
        )
    hint = f"start one over an empty data directory: registryd --name {name} --data-dir EMPTY-DIR --join HOST:PORT"
    if not members[0].votes:
        hint += f"; or, if {name} is the new one already, make it a voter: `regctl cluster promote {name}`"
    return NotFound(Reason.NOT_WAITING, f"no process waits to take the place of {name}; nothing was changed", hint=hint)
