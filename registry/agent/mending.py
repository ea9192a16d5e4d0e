"""Brings the target back to what the record says runs, when the agent starts and without the registry."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import structlog
from msgspec import structs

from registry.agent.api import Instruction
from registry.agent.config import FollowSpec
from registry.agent.files import off_loop
from registry.agent.home import Home
from registry.agent.journal import Failure, Installed, Record, as_instruction
from registry.agent.targets.base import Applied, Candidate, Target
from registry.agent.targets.directory import LinkSet
from registry.agent.transitions import Code, State

log = structlog.get_logger(__name__)


async def mend(
    record: Record, spec: FollowSpec, target: Target, home: Home, places: frozenset[str]
) -> tuple[Record, Instruction | None]:
    """The record to start with, and what must be fetched again because its bytes are damaged or gone.
    `places`: of all targets that the agent has now."""
    left = record.path
    record = structs.replace(record, path=spec.target.place)
    running = record.running
    if running is None or record.state in (State.INSTALL, State.REVERT):  # these make the target show something
        return record, None
    settled_badly = record.state is State.IDLE and record.shown  # the step back from it failed, and is tried again
    if not settled_badly and not await off_loop(home.has_content, running.digest):
        noted = _noted(
            record, running, Applied(Code.DIGEST_MISMATCH, "the content on disk is damaged or gone; fetching it again")
        )
        return noted, as_instruction(record, running)
    if not settled_badly and not await target.shows(running.digest):
        failed = await _show(target, spec, running, home)
        if failed.code is not None:
            return _noted(record, running, failed), None
    if left != record.path and left not in places:
        await off_loop(_leave, Path(left), home)
    return record, None


async def _show(target: Target, spec: FollowSpec, running: Installed, home: Home) -> Applied:
    """Not, where the target says that this cannot be or that somebody else has changed it."""
    candidate = Candidate(
        workflow=spec.workflow,
        pointer=spec.pointer,
        version=running.version,
        generation=running.generation,
        digest=running.digest,
        size_bytes=running.size_bytes,
        content=home.content_path(running.digest),
    )
    found = await target.check(candidate)
    return found if found.code is not None else await target.apply(candidate)


def _leave(place: Path, home: Home) -> None:
    """Removes what an earlier configuration put there."""
    if not place.is_absolute():
        return
    links = LinkSet(home, place.parent)
    with suppress(OSError):
        if place.name in links.entries():
            links.change(place.name, None)
        elif place.is_symlink() and home.is_ours(place):
            place.unlink(missing_ok=True)


def _noted(record: Record, running: Installed, failed: Applied) -> Record:
    log.error("what runs needs attention", workflow=record.workflow, code=str(failed.code), detail=failed.detail)
    if failed.code is None:
        raise ValueError("a failure without a code")
    known = record.failure
    if known is not None and (record.state is State.REFUSE or known.generation > running.generation):
        return record  # that is about a newer one
    failure = Failure(
        generation=running.generation,
        version=running.version,
        code=failed.code,
        detail=failed.detail,
        later=failed.later,
    )
    return structs.replace(record, failure=failure)
