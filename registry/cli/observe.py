"""Commands that look on: watch, agents."""

from __future__ import annotations

from contextlib import aclosing

import click
import msgspec

from registry.cli import tables, views
from registry.cli.session import Session, connected, stale_option
from registry.core import names


@click.command()
@click.argument("workflows", nargs=-1, metavar="[NS/NAME...]")
@click.option(
    "--from",
    "from_revision",
    type=click.IntRange(min=1),
    metavar="REVISION",
    help="Start with this revision; resume with the last one seen + 1.  [default: from now on]",
)
@connected
async def watch(session: Session, workflows: tuple[str, ...], from_revision: int | None) -> None:
    """One line for each change, as it happens; with -o json one object a line.

    Survives the death of members. Ctrl-C ends it.

    \b
      regctl watch
      regctl watch support/triage --from 120
      regctl watch -o json | jq .action
    """
    for workflow in workflows:
        names.check_workflow(workflow)
    changes = session.client.watch(workflows, from_revision=from_revision)
    async with aclosing(changes):
        async for change in changes:
            click.echo(msgspec.json.encode(views.change(change)) if session.json else views.line(change))


@click.command()
@click.argument("workflow", required=False, default="", metavar="[NS/NAME]")
@stale_option
@connected
async def agents(session: Session, workflow: str, stale: bool) -> None:
    """Who runs what, as the agents reported it.

    \b
      regctl agents
      regctl agents support/triage
      regctl agents --stale --endpoints 10.1.0.1:7400      what an observer that is cut off knows
    """
    found = await session.all(session.client.agents(workflow, stale=stale))
    session.tell_age()
    session.show([views.agent(each) for each in found], lambda: tables.agents(found))
