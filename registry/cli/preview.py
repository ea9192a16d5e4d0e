"""What a switch or rollback will change, shown before it is asked for."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import click

from registry.cli import views
from registry.cli.errors import DeclinedError
from registry.cli.session import Session
from registry.client import Client, Move
from registry.core.errors import NotFound, Reason, Refused
from registry.core.model import Pointer

CANDIDATES = 3  # earlier live versions shown before a rollback


async def confirm(session: Session, verb: str, moves: Sequence[Move]) -> list[Move]:
    """Shows each move and asks. The moves with the generations that were shown. Raises DeclinedError."""
    shown = [await session.doing(_show(session, move)) for move in moves]
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


async def _show(session: Session, move: Move) -> Move:
    current = await _current(session.client, move)
    generation = current.generation if current is not None else 0
    before = f"version {current.version}" if current is not None else "nothing"
    head = f"{move.workflow} {move.pointer}: {before} -> "
    if move.target == "":
        session.say(f"{head}the newest stable version that was live before (generation {generation + 1})")
        session.say(f"  live before: {await _live_before(session.client, move, current)}")
    else:
        target = await session.client.version(move.workflow, move.target)
        session.say(f"{head}version {target.number}, {target.status} (generation {generation + 1})")
        if current is not None and current.version != target.number:
            session.say(f"  {await _summary(session.client, move.workflow, current.version, target.number)}")
    count = await _affected(session.client, move)
    session.say(f"  agents that follow it: {count}")
    if move.expected_generation is not None:
        return move
    return Move(move.workflow, move.target, move.pointer, generation)


async def _current(client: Client, move: Move) -> Pointer | None:
    try:
        return await client.pointer(move.workflow, move.pointer)
    except NotFound as error:
        if error.reason is Reason.POINTER_NOT_FOUND:
            return None
        raise


async def _summary(client: Client, workflow: str, old: int, new: int) -> str:
    try:
        return views.printable((await client.compare(workflow, old, workflow, new)).summary)
    except Refused as error:
        return f"not compared: {error}"


async def _live_before(client: Client, move: Move, current: Pointer | None) -> str:
    """Other versions this pointer named, newest first, with their status now."""
    seen: list[int] = [current.version] if current is not None else []
    words: list[str] = []
    async for change in client.history(move.workflow, move.pointer):
        for pointer in change.pointers:
            if (pointer.workflow, pointer.pointer) == (move.workflow, move.pointer) and pointer.version not in seen:
                seen.append(pointer.version)
                words.append(f"{pointer.version} ({(await client.version(move.workflow, pointer.version)).status})")
        if len(words) >= CANDIDATES:
            break
    return ", ".join(words) or "none"


async def _affected(client: Client, move: Move) -> int:
    return sum([1 async for row in client.agents(move.workflow) if row.pointer == move.pointer])
