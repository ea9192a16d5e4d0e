"""regctl compare: two versions by the registry, or two files without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from registry import formats
from registry.cli import tables
from registry.cli.session import Session, connected
from registry.cli.versions import read_file, split


@click.command()
@click.argument("old", metavar="REF|FILE")
@click.argument("new", metavar="REF|FILE")
@connected
async def compare(session: Session, old: str, new: str) -> None:
    """What changed from one version to another, by structure.

    Two files that exist are compared here, without a registry; anything else is a reference. -o json gives the
    whole comparison.

    \b
      regctl compare support/triage@active support/triage@3
      regctl compare before.yml after.yml
    """
    files = [Path(each).is_file() for each in (old, new)]
    if any(files) and not all(files):
        raise click.UsageError("compare two references or two files, not one of each")
    if not all(files) and (missing := [each for each in (old, new) if "/" not in each]):
        raise click.UsageError(f"{missing[0]}: no such file, and not a reference (namespace/name@3)")
    if all(files):
        compared = formats.compare(read_file(old), read_file(new))
        comparison: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(compared))
        names = (old, new)
    else:
        (old_workflow, old_target), (new_workflow, new_target) = split(old), split(new)
        answer = await session.doing(session.client.compare(old_workflow, old_target, new_workflow, new_target))
        comparison = answer.comparison
        names = (f"{old_workflow}@{answer.from_version.number}", f"{new_workflow}@{answer.to_version.number}")
    session.show({"from": names[0], "to": names[1], **comparison}, lambda: tables.comparison(comparison, *names))
