"""Commands about pointers: switch, rollback, pointer, history."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import click

from registry.cli import errors, tables, views, waiting
from registry.cli.preview import ROLLBACK, SWITCH, Shown, confirm
from registry.cli.session import Session, connected, stale_option
from registry.cli.times import moment_ahead
from registry.cli.versions import request_id_option, split, split_version, target_of
from registry.cli.waiting import wait_option
from registry.client import Move
from registry.client.limits import TIMEOUT_S
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
@click.option(
    "--not-before",
    "not_before_ms",
    default="",
    callback=moment_ahead,
    metavar="TIME",
    help="Agents fetch it at once and install it no earlier: 2026-11-01T08:30Z, or +10m. By their clocks.",
)
@click.option(
    "--deadline",
    "deadline_ms",
    default="",
    callback=moment_ahead,
    metavar="TIME",
    help="Agents install it no later, and refuse it with EXPIRED then.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@wait_option
@request_id_option
@connected
async def switch(
    session: Session,
    references: tuple[str, ...],
    pointer: str,
    expected: tuple[int, ...],
    reason: str,
    force: bool,
    not_before_ms: int,
    deadline_ms: int,
    yes: bool,
    wait: bool,
    request_id: str | None,
) -> None:
    """Move a pointer to a version: one atomic, majority-committed step.

    Several references of different workflows move together, all or none. On a terminal it shows what will change and
    asks first.

    The pointer moves at once, whatever --not-before says, and a later switch or rollback takes the place of one that
    agents still wait with. A rollback has no such times. Repeat with --request-id and the same absolute times: +10m
    would be another request.

    \b
      regctl switch support/triage@3 --reason "go live"
      regctl switch support/triage@3 --expect 4 --reason "go live" --yes
      regctl switch support/triage@3 support/answer@7 --reason "belong together"
      regctl switch support/triage@v1.4.0 --pointer canary --reason "try it"
      regctl switch support/triage@3 --reason "go live" --wait --timeout 120
      regctl switch support/triage@3 --not-before 2026-11-24T02:00Z --deadline 2026-11-24T04:00Z --reason "at night"
    """
    if expected and len(expected) != len(references):
        raise click.UsageError(f"{len(expected)} --expect for {len(references)} references; give one each, in order")
    generations: Sequence[int | None] = expected or [None] * len(references)
    moves = [
        Move(*split_version(reference), pointer, generation)
        for reference, generation in zip(references, generations, strict=True)
    ]
    if session.asks and not yes:
        when = views.window(not_before_ms, deadline_ms)
        moves = [each.move for each in await confirm(session, SWITCH, moves, when=when)]
    call = session.client.switch_many(
        moves,
        reason=reason,
        force=force,
        not_before_ms=not_before_ms,
        deadline_ms=deadline_ms,
        request_id=request_id,
        timeout_s=_call_s(session, wait=wait),
    )
    done = await session.doing(call)
    await _finish(session, done, _words(done), wait=wait)


@click.command()
@click.argument("workflows", nargs=-1, required=True, metavar="NS/NAME...")
@click.option("--to", "target", metavar="REF", help="Go back to this version.  [default: the registry picks]")
@_pointer_option
@_reason_option
@click.option("--yes", is_flag=True, help="Do not ask; required without a terminal.")
@click.option("--force", is_flag=True, help="Accept a failed, fenced or archived version, and one that was never live.")
@click.option("--keep-status", is_flag=True, help="Do not mark the version rolled away from as failed.")
@wait_option
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
    wait: bool,
    request_id: str | None,
) -> None:
    """Move a pointer back to an earlier version.

    The registry picks the newest stable version that was live before; without one the newest that was live before
    and is not failed, fenced or archived. The version rolled away from becomes failed, so a second rollback goes
    further back. Several workflows move together, all or none.

    \b
      regctl rollback support/triage --reason "5xx since 02:40"
      regctl rollback support/triage --to 2 --reason "known good" --yes
      regctl rollback support/triage --reason "5xx since 02:40" --wait
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
    call = session.client.rollback_many(
        moves,
        reason=reason,
        force=force,
        keep_status=keep_status,
        request_id=request_id,
        timeout_s=_call_s(session, wait=wait),
    )
    done = await session.doing(call)
    took_ms = round((perf_counter() - started) * 1000, 1)
    for note in otherwise(shown, done):
        session.say(note)
    await _finish(session, done, f"{_words(done)}\ntook {took_ms} ms", wait=wait, took_ms=took_ms)


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


def _call_s(session: Session, *, wait: bool) -> float:
    """Of the call itself: with --wait, --timeout is for the agents."""
    return min(session.timeout_s, TIMEOUT_S) if wait else session.timeout_s


async def _finish(session: Session, done: Switched, words: str, *, wait: bool, **more: Any) -> None:
    """Shows what was done; with --wait also who has confirmed it, and exits with NOT_CONFIRMED where not all have."""
    if not wait:
        session.show(views.switched(done, **more), lambda: words)
        return
    if not session.json:
        click.echo(words)
    try:
        waited = await waiting.wait(session, done.pointers)
    except asyncio.CancelledError:  # Ctrl-C: what was done is done
        if session.json:
            session.show(views.switched(done, **more), lambda: words)
        raise
    made = views.switched(done, **more)
    rows = [made] if isinstance(made, dict) else made
    for row, each in zip(rows, waited, strict=True):
        row["wait"] = waiting.payload(each)
    session.show(made, lambda: "\n".join(map(waiting.words, waited)))
    if not all(each.complete for each in waited):
        raise click.exceptions.Exit(errors.NOT_CONFIRMED)


def _words(done: Switched) -> str:
    lines = [f"{each.workflow} {views.moved(each)}" for each in done.pointers]
    lines += [f"{each.workflow}@{each.version} is now {each.status}" for each in done.status_changes]
    return "\n".join([*lines, *map(views.printable, done.notes)])
