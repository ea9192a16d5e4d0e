"""`regctl cluster scrub` and `compact`: looking after the members' data, one member after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import click
import msgspec
from rich.console import Group
from rich.text import Text

from registry.cli import quorum, tables, views
from registry.cli.joining import progress
from registry.cli.session import Session, connected
from registry.client import ClusterStatus, Compacted, MemberStatus, Scrubbed
from registry.core.errors import Reason, RegistryError, Unavailable

DAMAGED = 6
BACK_S = 120.0  # a member that repairs itself is waited for so long, before the next one is scrubbed
LOOK_S = 0.25
DAMAGE_SHOWN = 10  # of one member
_members = click.argument("members", nargs=-1, metavar="[MEMBER]...")


@click.command()
@_members
@connected
async def scrub(session: Session, members: Sequence[str]) -> None:
    """Read everything that members have, and check it, while they serve. Without names: all of them.

    Every row is held against its checksum, every content against its digest. A member with a damaged row ends, and
    fetches its data from another one when its supervisor starts it again; the next member's turn comes once it is back.
    Members scrub themselves once a day. Exit code 6: damage was found.

    \b
      regctl cluster scrub
      regctl cluster scrub n2
    """
    done: list[Scrubbed] = []
    failed: dict[str, RegistryError] = {}
    async for member in _each(session, members, failed):
        with progress(session) as show:

            def shown(size_bytes: int, expected_bytes: int, name: str = member.name) -> None:
                about = views.size(max(size_bytes, expected_bytes))
                show(f"{name}: {views.size(size_bytes)} of about {about} read")

            try:
                done.append(await session.client.scrub(member.address, progress=shown))
            except RegistryError as error:
                failed[member.name] = error
                continue
        if done[-1].repair:
            session.say(f"{member.name}: {len(done[-1].damage)} damaged; {done[-1].repair}")
            await _back(session, member)
    session.show(_payload(done, failed), lambda: _scrubbed(done))
    _end(failed, DAMAGED if any(each.damage for each in done) else 0)


@click.command()
@_members
@connected
async def compact(session: Session, members: Sequence[str]) -> None:
    """Give the space that retention and purge left free back to the file system, while members serve.

    A member writes its database anew beside the old one, which takes as much free space as the data has. Without
    names: all members, the leader last.

    \b
      regctl cluster compact
      regctl cluster compact n2
    """
    done: list[Compacted] = []
    failed: dict[str, RegistryError] = {}
    async for member in _each(session, members, failed):
        try:
            done.append(await session.doing(session.client.compact(member.address)))
        except RegistryError as error:
            failed[member.name] = error
    session.show(_payload(done, failed), lambda: _compacted(done))
    _end(failed, 0)


async def _each(
    session: Session, names: Sequence[str], failed: dict[str, RegistryError]
) -> AsyncIterator[MemberStatus]:
    """The members named, or all; who leads when its turn comes has it last."""
    status = await session.doing(session.client.status())
    left = [quorum.find(status, name) for name in names] or list(status.members)
    while left:
        member = next((each for each in left if each.id != status.leader_id), left[0])
        left.remove(member)
        if member.address:
            yield member
        else:
            failed[member.name] = Unavailable(Reason.NO_MEMBER, f"nobody knows the address of {member.name}")
        if left:
            status = await session.doing(session.client.status())


async def _back(session: Session, member: MemberStatus) -> None:
    """Until a member that repairs itself serves again: two must not repair themselves at the same time."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + BACK_S
    while loop.time() < until_s:
        await asyncio.sleep(LOOK_S)
        try:
            own = await session.client.status_of(member.address)
            status = await session.client.status()
        except RegistryError:
            continue
        if not own.fetching and _level(status, member):
            return
    session.say(f"{member.name} is not back after {BACK_S:g} s; its log tells why")


def _level(status: ClusterStatus, member: MemberStatus) -> bool:
    found = next((each for each in status.members if each.id == member.id), None)
    return found is not None and found.alive and bool(found.applied_index) and found.lag <= quorum.BEHIND_ENTRIES


def _payload(done: Sequence[Scrubbed | Compacted], failed: dict[str, RegistryError]) -> dict[str, Any]:
    errors = {name: {"error": error.message, "reason": error.reason.value} for name, error in failed.items()}
    return {"members": [msgspec.to_builtins(each) for each in done], "failed": errors}


def _scrubbed(done: Sequence[Scrubbed]) -> Group:
    rows = ((each.member, f"{each.rows:,}", f"{each.contents:,}", str(len(each.damage) or "-")) for each in done)
    lines = [
        f"{each.member}: {damage.table} {damage.key}: {damage.what}"
        for each in done
        for damage in each.damage[:DAMAGE_SHOWN]
    ]
    lines += [f"{each.member}: {each.repair}" for each in done if each.repair]
    return Group(tables.table("member >rows >contents >damage", rows), *(Text(views.printable(line)) for line in lines))


def _compacted(done: Sequence[Compacted]) -> Group:
    rows = ((each.member, views.size(each.before_bytes), views.size(each.after_bytes)) for each in done)
    return Group(tables.table("member >before >after", rows))


def _end(failed: dict[str, RegistryError], code: int) -> None:
    """The first member that failed ends the command, after what the others did was shown."""
    if code:
        raise click.exceptions.Exit(code)
    for name, error in failed.items():
        error.message = f"{name}: {error.message}"
        raise error
