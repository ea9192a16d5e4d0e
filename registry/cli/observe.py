"""The command that looks on: watch."""

from __future__ import annotations

from contextlib import aclosing

import click
import msgspec

from registry.cli import views
from registry.cli.session import Session, connected
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
