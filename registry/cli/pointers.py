"""Commands about pointers: switch, rollback, pointer, history."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import click

from registry.cli import tables, views
from registry.cli.preview import ROLLBACK, SWITCH, Shown, confirm
from registry.cli.session import Session, connected, stale_option
from registry.cli.versions import request_id_option, split, split_version, target_of
from registry.client import Move
from registry.core.model import DEFAULT_POINTER
from registry.core.outcomes import Switched

_pointer_option = click.option("--pointer", default=DEFAULT_POINTER, show_default=True)
_reason_option = click.option("--reason", required=True, help="Kept in the history; agents are told too.")


@click.command()
@click.argument("references", nargs=-1, required=True, metavar="REF...")
@_pointer_option
@click.option(
    "--expect",
    "expected",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="GENERATION",
    help="Refuse unless the pointer is at this generation; 0: never switched. For several references one each, in"
    " order.  [default: the generation that was shown, if it was]",
)
@_reason_option
@click.option("--force", is_flag=True, help="Accept a failed, fenced or archived version, and any verdict.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@request_id_option
@connected
async def switch(
    session: Session,
    references: tuple[str, ...],
    pointer: str,
    expected: tuple[int, ...],
    reason: str,
    force: bool,
    yes: bool,
    request_id: str | None,
) -> None:
    """Move a pointer to a version: one atomic, majority-committed step.

    Several references of different workflows move together, all or none. On a terminal it shows what will change and
    asks first.

    \b
      regctl switch support/triage@3 --reason "go live"
      regctl switch support/triage@3 --expect 4 --reason "go live" --yes
      regctl switch support/triage@3 support/answer@7 --reason "belong together"
      regctl switch support/triage@v1.4.0 --pointer canary --reason "try it"
    """
    if expected and len(expected) != len(references):
        raise click.UsageError(f"{len(expected)} --expect for {len(references)} references; give one each, in order")
    generations: Sequence[int | None] = expected or [None] * len(references)
    moves = [
        Move(*split_version(reference), pointer, generation)
        for reference, generation in zip(references, generations, strict=True)
    ]
    if session.asks and not yes:
        moves = [each.move for each in await confirm(session, SWITCH, moves)]
    call = session.client.switch_many(moves, reason=reason, force=force, request_id=request_id)
    done = await session.doing(call)
    session.show(views.switched(done), lambda: _words(done))


@click.command()
@click.argument("workflows", nargs=-1, required=True, metavar="NS/NAME...")
@click.option("--to", "target", metavar="REF", help="Go back to this version.  [default: the registry picks]")
@_pointer_option
@_reason_option
@click.option("--yes", is_flag=True, help="Do not ask; required without a terminal.")
@click.option("--force", is_flag=True, help="Accept a failed, fenced or archived version, and one that was never live.")
@click.option("--keep-status", is_flag=True, help="Do not mark the version rolled away from as failed.")
@request_id_option
@connected
async def rollback(
    session: Session,
    workflows: tuple[str, ...],
    target: str | None,
    pointer: str,
    reason: str,
    yes: bool,
    force: bool,
    keep_status: bool,
    request_id: str | None,
) -> None:
    """Move a pointer back to an earlier version.

    The registry picks the newest stable version that was live before; without one the newest that was live before
    and is not failed, fenced or archived. The version rolled away from becomes failed, so a second rollback goes
    further back. Several workflows move together, all or none.

    \b
      regctl rollback support/triage --reason "5xx since 02:40"
      regctl rollback support/triage --to 2 --reason "known good" --yes
    """
    if target is not None and len(workflows) > 1:
        raise click.UsageError("--to goes with one workflow")
    moves = [Move(_workflow(each), target_of(target, each) if target else "", pointer) for each in workflows]
    shown: list[Shown] = []
    if not yes:
        if not session.asks:
            raise click.UsageError("rollback without a terminal needs --yes")
        shown = await confirm(session, ROLLBACK, moves, force=force)
        moves = [each.move for each in shown]
    started = perf_counter()
    done = await session.doing(
        session.client.rollback_many(moves, reason=reason, force=force, keep_status=keep_status, request_id=request_id)
    )
    took_ms = round((perf_counter() - started) * 1000, 1)
    session.show(views.switched(done, took_ms=took_ms), lambda: f"{_words(done)}\ntook {took_ms} ms")
    for note in otherwise(shown, done):
        session.say(note)


@click.command()
@click.argument("workflow", metavar="NS/NAME")
@_pointer_option
@stale_option
@connected
async def pointer(session: Session, workflow: str, pointer: str, stale: bool) -> None:
    """What a pointer names now.

    \b
      regctl pointer support/triage
      regctl pointer support/triage --pointer canary
    """
    current = await session.doing(session.client.pointer(workflow, pointer, stale=stale))
    session.tell_age()
    session.show(views.pointer(current), lambda: tables.pointer(current))


@click.command()
@click.argument("workflow", metavar="NS/NAME")
@click.option("--pointer", default="", help="Only the switches of this pointer.")
@stale_option
@connected
async def history(session: Session, workflow: str, pointer: str, stale: bool) -> None:
    """Every accepted change of a workflow, newest first: what, when, who, why.

    \b
      regctl history support/triage
      regctl history support/triage --pointer active
    """
    found = await session.all(session.client.history(workflow, pointer, stale=stale))
    session.tell_age()
    session.show([views.change(each) for each in found], lambda: tables.history(found, workflow))


def _workflow(reference: str) -> str:
    workflow, target = split(reference)
    if target:
        raise click.UsageError(f"name the workflow, {workflow}, and the version with --to {target}")
    return workflow


def otherwise(shown: Sequence[Shown], done: Switched) -> list[str]:
    """Where the commit picked another version than the preview."""
    return [
        f"note: {pointer.workflow}: the registry picked version {pointer.version}, not version {each.picked} as shown; "
        f"see why with: regctl versions {pointer.workflow}"
        for each, pointer in zip(shown, done.pointers, strict=False)
        if each.picked not in (0, pointer.version)
    ]


def _words(done: Switched) -> str:
    lines = [f"{each.workflow} {views.moved(each)}" for each in done.pointers]
    lines += [f"{each.workflow}@{each.version} is now {each.status}" for each in done.status_changes]
    return "\n".join([*lines, *map(views.printable, done.notes)])
