"""Commands about the cluster itself: status, add, promote, remove, replace, transfer, backup, scrub, compact."""

from __future__ import annotations

from collections.abc import Sequence

import click

from registry.cli import disaster, joining, maintenance, preview, quorum, tables, views
from registry.cli.session import Session, connected

_member = click.argument("name", metavar="NAME")
_force = click.option("--force", is_flag=True, help="Although too few voters would be alive to write anything.")


@click.group()
def cluster() -> None:
    """Who belongs to the cluster, who leads, and changing that.

    \b
      regctl cluster status
      regctl cluster add n4
    """


@cluster.command()
@connected
async def status(session: Session) -> None:
    """Members, leader and progress, and who waits to be admitted; answers without a quorum too.

    \b
      regctl cluster status
    """
    found = await session.doing(session.client.status())
    session.show(views.status(found), lambda: tables.status(found))


@cluster.command()
@_member
@click.option("--observer", is_flag=True, help="Leave it an observer, as does registryd --observer.")
@connected
async def add(session: Session, name: str, observer: bool) -> None:
    """Admit a process that was started with registryd --join.

    It fetches the state and follows the log as an observer; once it is level with the others it becomes a voter.
    Ctrl-C leaves it as far as it got, and says which command goes on.

    \b
      registryd --name n4 --data-dir DIR --join 10.0.0.1:7401
      regctl cluster add n4
      regctl cluster add edge-eu-1 --observer
    """
    id, role = await joining.add(session, name, observer=observer)
    notes = []
    if role == "observer" and not observer:
        notes.append(f"it is an observer: `regctl cluster promote {name}` makes it a voter")
    await _show(session, id, role, f"{id} is a member: {role}", notes)


@cluster.command()
@_member
@_force
@connected
async def promote(session: Session, name: str, force: bool) -> None:
    """Make an observer a voter. It must be alive and level with the others.

    \b
      regctl cluster promote n4
    """
    id = await session.doing(session.client.members.promote(name, force=force))
    await _show(session, id, "voter", f"{id} votes")


@cluster.command()
@_member
@_force
@click.option("--yes", is_flag=True, help="Do not ask; required without a terminal.")
@connected
async def remove(session: Session, name: str, force: bool, yes: bool) -> None:
    """Take a member out for good. Its process ends by itself, its data directory cannot come back.

    On a terminal it shows what that means for the others and asks first. A leader hands over before it goes.

    \b
      regctl cluster remove n3
      regctl cluster remove n3 --yes
    """
    if not (yes or session.asks):
        raise click.UsageError("remove without a terminal needs --yes")
    found = await session.doing(session.client.status())
    member = quorum.find(found, name)
    if not yes:
        for line in quorum.removal(found, member):
            session.say(views.printable(line))
        if refused := quorum.in_vain(found, member, force=force):
            raise refused
        preview.ask("Remove?")
    await session.doing(session.client.members.remove(quorum.exact(member), force=force))
    await _show(session, member.id, "removed", f"{member.id} is removed")


@cluster.command()
@_member
@connected
async def replace(session: Session, name: str) -> None:
    """Put a new process into the place of a member that has lost its data directory.

    The process has the same name, an empty data directory and --join. It is admitted as an observer; once it is
    level, the old member is removed and the new one gets its role. Interrupted, the same command goes on.

    \b
      registryd --name n2 --data-dir EMPTY-DIR --join 10.0.0.1:7401
      regctl cluster replace n2
    """
    id, role = await joining.replace(session, name)
    await _show(session, id, role, f"{id} has taken the place of {name}: {role}")


@cluster.command()
@click.argument("name", metavar="[NAME]", default="")
@connected
async def transfer(session: Session, name: str) -> None:
    """Pass leadership to a voter; without a name, to the most advanced one. No call fails meanwhile.

    \b
      regctl cluster transfer n2
    """
    id = await session.doing(session.client.members.transfer(name))
    await _show(session, id, "leader", f"{id} leads")


for command in (disaster.backup, maintenance.scrub, maintenance.compact):
    cluster.add_command(command)


async def _show(session: Session, id: str, role: str, words: str, notes: Sequence[str] = ()) -> None:
    found = await session.doing(session.client.status())
    made = views.membership(id, role, found, notes)
    voters = f"voters: {made['voters']}; may fail: {made['may_fail']}"
    session.show(made, lambda: "\n".join([words, voters, *made["notes"]]))
