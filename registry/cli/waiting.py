"""`--wait`: until all agents have confirmed a switch or a rollback, or the time is over."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import click
from msgspec import Struct

from registry.cli import views
from registry.cli.session import Session
from registry.client import AgentRow, Confirmations
from registry.core.errors import RegistryError
from registry.core.model import Pointer

WAIT_S = 60.0
NAMED = 5  # of those behind, in a line
CONFIRMED_NAMED = 1000  # agents; of more, nobody is named who has confirmed
PAGE = 1000
LATE_S = 2.0  # for one whose turn comes when the time is over
AT_ONCE = 16  # pointers: members follow so many at a time, and others may wait too
LINE_S = 5.0  # between two lines of progress where there is no terminal

wait_option = click.option(
    "--wait",
    is_flag=True,
    help=f"Until all agents have confirmed it, at most --timeout seconds ({WAIT_S:g}); exit code 8 if not all have.",
)


class Waited(Struct, frozen=True, kw_only=True):
    """What came of waiting for one pointer. `found` None: no member could say anything; `failure` says why the wait
    ended early. `ended_ms`: unix, by the clock of this machine."""

    pointer: Pointer
    found: Confirmations | None
    took_s: float
    confirmed_by: tuple[str, ...] | None = None  # None: they are too many, or could not be asked for
    failure: RegistryError | None = None
    ended_ms: int = 0

    @property
    def complete(self) -> bool:
        return self.found is not None and self.found.complete


async def wait(session: Session, pointers: Sequence[Pointer]) -> list[Waited]:
    """For all of them at once. Says how far they are on stderr: a line that changes on a terminal, else one now and
    then."""
    progress = _Progress(session, len(pointers))
    began_s, wait_s = time.monotonic(), session.given_timeout_s or WAIT_S
    places = asyncio.Semaphore(AT_ONCE)
    for pointer in pointers if not session.quiet else ():
        if why := _too_early(pointer, _now_ms() + round(wait_s * 1000)):
            session.say(f"{pointer.workflow} {pointer.pointer}: {why}; the wait ends before that")

    async def one(pointer: Pointer) -> Waited:
        async with places:  # those that come late find the time over, and who has confirmed by then
            return await _wait_for(session, pointer, began_s, wait_s, progress)

    try:
        return list(await asyncio.gather(*map(one, pointers)))
    finally:
        progress.end()


async def _wait_for(session: Session, pointer: Pointer, began_s: float, wait_s: float, progress: _Progress) -> Waited:
    left_s = max(began_s + wait_s - time.monotonic(), 0)
    found: Confirmations | None = None
    failure: RegistryError | None = None
    watch = session.client.confirmations(
        pointer.workflow,
        pointer.pointer,
        pointer.generation,
        wait_s=left_s,
        min_revision=pointer.revision,
        timeout_s=max(left_s, LATE_S),
    )
    try:
        async with aclosing(watch):
            async for found in watch:
                progress.show(found)
    except RegistryError as error:  # the switch is done all the same
        failure = error
    took_s = time.monotonic() - began_s
    names = await _confirmed_by(session, pointer, found) if found is not None else None
    return Waited(pointer=pointer, found=found, took_s=took_s, confirmed_by=names, failure=failure, ended_ms=_now_ms())


async def _confirmed_by(session: Session, pointer: Pointer, found: Confirmations) -> tuple[str, ...] | None:
    """Names, for whoever reads the JSON."""
    if not session.json or found.agents > CONFIRMED_NAMED:
        return None
    try:
        rows = [each async for each in session.client.agents(pointer.workflow, page_size=PAGE)]
    except RegistryError:
        return None
    return tuple(each.agent for each in rows if each.pointer == pointer.pointer and _runs(each, found))


def _runs(row: AgentRow, found: Confirmations) -> bool:
    """Not only for the moment: it was confirmed, or is what the agent went back to from a later one."""
    if found.complete:
        return True
    is_proven = row.state == "current" or row.generation < row.target_generation
    return row.generation >= found.generation and is_proven


def words(waited: Waited) -> str:
    """The end of it, in a line or two."""
    pointer, found = waited.pointer, waited.found
    name = f"{pointer.workflow} {pointer.pointer}"
    if found is None:
        why = waited.failure.message if waited.failure is not None else "nobody answered"
        return f"{name}: not known who has confirmed it: {views.printable(why)}"
    if not found.agents:
        return f"{name}: no agent reports for it"
    if found.complete:
        return f"{name}: confirmed by {_all(found.agents)} in {waited.took_s:.1f} s"
    early = f" ({views.printable(waited.failure.message)})" if waited.failure is not None else ""
    if why := _too_early(pointer, waited.ended_ms):
        early += f": {why}"
    more = f"see all with: regctl agents {pointer.workflow} --behind"
    return f"{name}: {progress_words(found)}; not confirmed by all after {waited.took_s:.0f} s{early}; {more}"


def progress_words(found: Confirmations) -> str:
    """`confirmed 183/200, behind: eu-7 (nacked PROBE_FAILED), eu-9 and 12 more, silent: 3`"""
    heard = [row for row in found.behind if row.state != "silent"]
    behind = found.agents - found.confirmed - found.silent
    parts = [f"confirmed {found.confirmed}/{found.agents}"]
    if behind:
        named = ", ".join(_one(row) for row in heard[:NAMED])
        rest = behind - min(len(heard), NAMED)
        parts.append(f"behind: {named}{f' and {rest} more' if rest else ''}")
    if found.silent:
        parts.append(f"silent: {found.silent}")
    return ", ".join(parts)


def payload(waited: Waited) -> dict[str, Any]:
    """For JSON. Silent agents are among those behind, with their state."""
    found = waited.found
    failure = {} if waited.failure is None else {"error": waited.failure.message}
    if found is None:
        return {"complete": False, "waited_s": round(waited.took_s, 3), **failure}
    return {
        "complete": found.complete,
        "agents": found.agents,
        "confirmed": found.confirmed,
        "nacked": found.nacked,
        "silent": found.silent,
        "confirmed_by": waited.confirmed_by,
        "behind": [views.agent(row) for row in found.behind],
        "waited_s": round(waited.took_s, 3),
        **failure,
    }


def _too_early(pointer: Pointer, by_ms: int) -> str:
    """Why no agent may have installed it by then; empty: it may."""
    if pointer.not_before_ms <= by_ms:
        return ""
    return f"agents install it from {views.clock(pointer.not_before_ms)} UTC on"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _one(row: AgentRow) -> str:
    why = f"{row.state} {row.code}".strip() if row.state != "behind" else ""
    return f"{row.agent} ({why})" if why else row.agent


def _all(agents: int) -> str:
    return "the only agent" if agents == 1 else f"all {agents} agents"


class _Progress:
    def __init__(self, session: Session, pointers: int) -> None:
        self._session = session
        self._several = pointers > 1
        self._lines: dict[str, str] = {}
        self._on_terminal = sys.stderr.isatty()
        self._said_s: float | None = None
        self._is_open = False  # a line that ends later

    def show(self, found: Confirmations) -> None:
        if self._session.quiet or found.done:
            return
        name = f"{found.workflow}: " if self._several else ""
        self._lines[f"{found.workflow} {found.pointer}"] = name + progress_words(found)
        line = "; ".join(self._lines.values())
        if self._on_terminal:
            click.echo(f"\r\x1b[K{_cut(line)}", nl=False, err=True)
            self._is_open = True
        elif self._said_s is None or time.monotonic() - self._said_s >= LINE_S:
            self._said_s = time.monotonic()
            self._session.say(line)

    def end(self) -> None:
        if self._is_open:
            click.echo("\r\x1b[K", nl=False, err=True)


def _cut(line: str) -> str:
    """To one line of the terminal: a longer one could not be taken back."""
    columns = shutil.get_terminal_size().columns - 1
    return line if len(line) <= columns else line[: columns - 1] + "…"
