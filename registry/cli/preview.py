"""What a switch or rollback will change, shown before it is asked for."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NamedTuple

import click

from registry.cli import views
from registry.cli.errors import DeclinedError
from registry.cli.session import Session
from registry.client import Client, Move
from registry.core.errors import Conflict, NotFound, Reason, Refused, RegistryError
from registry.core.model import Pointer
from registry.core.policies import VERDICTS

CANDIDATES = 3  # earlier live versions shown before a rollback
SWITCH, ROLLBACK = "Switch", "Roll back"
REASONS = 5  # of a verdict, the worst
ANY_VERDICT = VERDICTS[-1]  # a policy that takes the worst refuses nothing


class Shown(NamedTuple):
    """A move that was agreed to, with the generation that was shown, and the version that a rollback would have picked
    at that moment; 0: none was shown."""

    move: Move
    picked: int = 0


async def confirm(
    session: Session, verb: str, moves: Sequence[Move], *, force: bool = False, when: str = ""
) -> list[Shown]:
    """Shows each move and asks. `when`: agents may install it, in words. Raises DeclinedError."""
    shown = [await session.doing(_show(session, verb, move, force=force)) for move in moves]
    if when:
        session.say(f"agents fetch it at once, and install it {when}")
    ask(f"{verb}?")
    return shown


def ask(question: str) -> None:
    """Raises DeclinedError for a no, and click.Abort at Ctrl-C: asyncio's own handler would only cancel the task,
    which waits for the answer."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        agreed = click.confirm(question, err=True)
    finally:
        signal.signal(signal.SIGINT, handler)
    if not agreed:
        raise DeclinedError


async def _show(session: Session, verb: str, move: Move, *, force: bool) -> Shown:
    """Beside pointer and target, what is not known ends nothing."""
    client = session.client
    current = await _current(client, move)
    generation = current.generation if current is not None else 0
    picked, lines = await _try(client, move, force=force) if verb == ROLLBACK else (0, [])
    target = await client.version(move.workflow, picked or move.target) if picked or move.target else None
    before = f"version {current.version}" if current is not None else "nothing"
    after = f"version {target.number}, {target.status}" if target else "the newest stable version that was live before"
    session.say(f"{move.workflow} {move.pointer}: {before} -> {after} (generation {generation + 1})")
    if not move.target:
        lines.append(f"live before: {await _live_before(client, move, current)}")
    if target is not None:
        lines += await _step(client, move.workflow, current, target.number, judged=verb == SWITCH)
    for line in lines:
        session.say(f"  {views.printable(line)}")
    session.say(f"  agents that follow it: {await _affected(client, move)}")
    session.say(f"  workflows that depend on it: {await impact_of(client, move.workflow)}")
    if move.expected_generation is None:
        move = Move(move.workflow, move.target, move.pointer, generation)
    return Shown(move, picked)


async def _try(client: Client, move: Move, *, force: bool) -> tuple[int, list[str]]:
    """The version that a rollback without a target would pick now, 0: none; what the registry would say to it."""
    try:
        done = await client.preview_rollback([move], force=force)
    except (Refused, NotFound, Conflict) as error:
        return 0, [f"this will be refused: {error.message}", *([f"hint: {error.hint}"] if error.hint else [])]
    except RegistryError as error:
        return 0, [f"not tried before: {error.message}"]
    return 0 if move.target else done.pointers[0].version, list(done.notes)


async def _current(client: Client, move: Move) -> Pointer | None:
    try:
        return await client.pointer(move.workflow, move.pointer)
    except NotFound as error:
        if error.reason is Reason.POINTER_NOT_FOUND:
            return None
        raise


async def _step(client: Client, workflow: str, current: Pointer | None, target: int, *, judged: bool) -> list[str]:
    """What going to the target changes, and whether the policy takes it."""
    if current is not None and current.version == target:
        return []
    worst = await _worst(client, workflow) if judged else ANY_VERDICT
    if current is None:
        first = "not judged before: nothing is live; the policy takes {} at worst, and may refuse it without --force"
        return [] if worst == ANY_VERDICT else [first.format(worst)]
    verdict, lines = await _compared(client, workflow, current.version, target)
    if views.severity(verdict) > views.severity(worst):
        lines.append(f"the policy takes {worst} at worst: this will be refused, unless with --force")
    return lines


async def _worst(client: Client, workflow: str) -> str:
    """The worst verdict that the policy takes."""
    try:
        return (await client.policy(workflow)).effective.verdict
    except RegistryError:
        return ANY_VERDICT  # a member of an older release; if there is a rule, the switch will say so


async def _compared(client: Client, workflow: str, old: int, new: int) -> tuple[str, list[str]]:
    """The verdict, empty if there is none; in words what changes, and the worst of what may go wrong."""
    try:
        found = (await client.compare(workflow, old, workflow, new)).comparison
    except RegistryError as error:
        return "", [f"not compared: {error.message}"]
    verdict = found.get("verdict") or {"level": "", "change": "", "reasons": []}  # a member of an older release
    lines = [views.change_words(found["summary"], verdict["change"], verdict["level"])]
    reasons = [views.finding(each["level"], each["text"], each["where"]) for each in verdict["reasons"]]
    lines += reasons[:REASONS]
    if (rest := len(reasons) - REASONS) > 0:
        lines.append(f"and {rest} more; see them with: regctl compare {workflow}@{old} {workflow}@{new}")
    return verdict["level"], lines


async def impact_of(client: Client, workflow: str) -> str:
    try:
        return views.impact_words(await client.impact(workflow))
    except RegistryError as error:
        return _unknown(error)


async def _live_before(client: Client, move: Move, current: Pointer | None) -> str:
    """Other versions this pointer named, newest first, with their status now."""
    seen: list[int] = [current.version] if current is not None else []
    words: list[str] = []
    try:
        async for change in client.history(move.workflow, move.pointer):
            for pointer in change.pointers:
                if (pointer.workflow, pointer.pointer) == (move.workflow, move.pointer) and pointer.version not in seen:
                    seen.append(pointer.version)
                    words.append(f"{pointer.version} ({(await client.version(move.workflow, pointer.version)).status})")
            if len(words) >= CANDIDATES:
                break
    except RegistryError as error:
        words.append(_unknown(error))
    return ", ".join(words) or "none"


async def _affected(client: Client, move: Move) -> str:
    try:
        return str(sum([1 async for row in client.agents(move.workflow) if row.pointer == move.pointer]))
    except RegistryError as error:
        return _unknown(error)


def _unknown(error: RegistryError) -> str:
    return f"not known: {error.message}"
