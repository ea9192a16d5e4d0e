"""Commands about what is kept: retention, hold, purge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec
from rich.console import Group
from rich.text import Text

from registry.cli import tables, views
from registry.cli.preview import ask
from registry.cli.session import Session, connected
from registry.cli.versions import request_id_option, split, split_version
from registry.client import Purged, Retained
from registry.core.model import Backup

AGENTS_SHOWN = 5


@click.group()
def retention() -> None:
    """Which contents are kept.

    A content is kept while any of these holds: it is one of the newest (policy keep_last, of each class), or young
    (keep_days); a pointer names it; an agent runs it; it is stable, held, or has labels. The version itself always
    stays: who published it, when, why, and its digests.
    """


@retention.command("run")
@click.argument("workflow", required=False, default="", metavar="[NS/NAME]")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be removed, and what keeps the rest.")
@click.option("--reason", default="", help="Kept in the history.")
@connected
async def run_retention(session: Session, workflow: str, dry_run: bool, reason: str) -> None:
    """Let go of what no rule keeps, now. Members do so by themselves every hour.

    \b
      regctl retention run support/triage --dry-run
      regctl retention run --reason "the disks are full"
    """
    name, target = split(workflow) if workflow else ("", "")
    if target:
        raise click.UsageError(f"name the workflow, {name}, without a version")
    done = await session.doing(session.client.retain(name, dry_run=dry_run, reason=reason))
    session.show(_payload(done, dry_run=dry_run), lambda: _table(done, dry_run=dry_run))


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--release", is_flag=True, help="Hold it no longer.")
@click.option("--reason", required=True, help="Kept with the version and in the history.")
@request_id_option
@connected
async def hold(session: Session, reference: str, release: bool, reason: str, request_id: str | None) -> None:
    """Keep the content of a version whatever retention says, until it is released.

    \b
      regctl hold support/triage@3 --reason "audit 2026"
      regctl hold support/triage@3 --release --reason "audit is over"
    """
    workflow, target = split_version(reference)
    held = await session.doing(
        session.client.hold(workflow, target, hold=not release, reason=reason, request_id=request_id)
    )
    words = "no longer held" if release else "held"
    session.show(views.version(held), lambda: f"{workflow}@{held.number} is {words}")


@click.command()
@click.argument("reference", metavar="REF")
@click.option("--reason", required=True, help="Kept in the history, and shown to whoever asks for the content.")
@click.option("--yes", is_flag=True, help="Do not ask; required without a terminal.")
@request_id_option
@connected
async def purge(session: Session, reference: str, reason: str, yes: bool, request_id: str | None) -> None:
    """Remove the bytes of a version from all members, for good: a secret was published, for one.

    Every version of any workflow that has the same bytes loses them, and they are refused from now on. The versions
    stay: who, when, why, and their digests. Agents keep what they have installed, and backups what is in them: both
    are named. A version that a pointer names is refused; switch first.

    \b
      regctl purge support/triage@3 --reason "holds the key of a customer"
    """
    workflow, target = split_version(reference)
    if not yes:
        if not session.asks:
            raise click.UsageError("purge without a terminal needs --yes")
        shown = await session.doing(session.client.purge(workflow, target, reason=reason, dry_run=True))
        for line in _lines(shown, "will be removed"):
            session.say(line)
        ask("Remove these bytes for good?")
    done = await session.doing(session.client.purge(workflow, target, reason=reason, request_id=request_id))
    session.show(_purged(done), lambda: "\n".join(_lines(done, "removed")))


def _lines(value: Purged, verb: str) -> Iterator[str]:
    yield f"{value.digest} {verb}: {views.removed_versions(value.removed)}"
    for backup in value.backups:
        yield views.printable(f"  a backup holds it: {_backup(backup)}")
    if value.agents:
        rest = len(value.agents) - AGENTS_SHOWN
        names = ", ".join(value.agents[:AGENTS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        yield views.printable(f"  agents that run it, and keep what they have: {names}")


def _payload(value: Retained, *, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "removed": value.removed,
        "freed_bytes": value.freed_bytes,
        "kept": value.kept,
        "versions": [msgspec.to_builtins(each) for each in value.versions],
    }


def _words(value: Retained, *, dry_run: bool) -> str:
    done = "would be removed" if dry_run else "removed"
    return f"{value.removed} {done}, about {views.size(value.freed_bytes)}; {value.kept} kept"


def _purged(value: Purged) -> dict[str, Any]:
    return {
        "digest": value.digest,
        "removed": [msgspec.to_builtins(each) for each in value.removed],
        "backups": [msgspec.to_builtins(each) | {"taken": views.time(each.taken_ms)} for each in value.backups],
        "agents": value.agents,
    }


def _backup(value: Backup) -> str:
    who = f" by {value.principal}" if value.principal else ""
    moment = f"{views.clock(value.taken_ms)} UTC"
    return f"taken {moment} from {value.member}{who}, revision {value.revision}, index {value.index}"


def _table(value: Retained, *, dry_run: bool) -> Group:
    gone = "would be removed" if dry_run else "removed"
    several = len({each.workflow for each in value.versions}) > 1
    rows = tables.table(
        f"{'~workflow ' if several else ''}>version ~content",
        (
            (
                *([each.workflow] if several else []),
                str(each.version),
                f"kept: {', '.join(each.kept_by)}" if each.kept_by else gone,
            )
            for each in value.versions
        ),
    )
    head = Text(_words(value, dry_run=dry_run))
    return Group(rows, head) if value.versions else Group(head)
