"""Brings PATH back to what the record says runs, when the agent starts and without the network."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from msgspec import structs

from registry.agent.api import Instruction
from registry.agent.config import FollowSpec
from registry.agent.home import Home
from registry.agent.journal import Failure, Installed, Record
from registry.agent.transitions import Code, State

log = structlog.get_logger(__name__)


async def mend(
    record: Record, spec: FollowSpec, home: Home, paths: frozenset[Path]
) -> tuple[Record, Instruction | None]:
    """The record to start with, and what must be fetched again because its bytes are damaged or gone.
    `paths`: all that the agent has now."""
    moved_from = Path(record.path)
    record = structs.replace(record, path=str(spec.path))
    running = record.running
    if running is None or record.state in (State.INSTALL, State.REVERT):  # these swap PATH themselves
        return record, None
    if not home.is_ours(spec.path):
        return _noted(record, running, Code.PATH_OCCUPIED, occupied(spec)), None
    if not await asyncio.to_thread(home.has_content, running.digest):
        noted = _noted(
            record, running, Code.DIGEST_MISMATCH, "the content on disk is damaged or gone; fetching it again"
        )
        return noted, _again(record, running) if record.state is State.IDLE and not record.shown else None
    if not home.shows(spec.path, running.digest):
        try:
            home.show(spec.path, running.digest)
        except OSError as problem:
            return _noted(record, running, Code.INSTALL_FAILED, str(problem)), None
    if moved_from not in paths and moved_from.is_symlink() and home.is_ours(moved_from):
        moved_from.unlink(missing_ok=True)
    return record, None


def occupied(spec: FollowSpec) -> str:
    return (
        f"{spec.path} exists and is not this agent's link, so it is left as it is; "
        f"move it away (mv {spec.path} {spec.path}.before) or choose another path for {spec.name}"
    )


def _noted(record: Record, running: Installed, code: Code, detail: str) -> Record:
    log.error("what runs needs attention", workflow=record.workflow, code=str(code), detail=detail)
    failure = Failure(generation=running.generation, version=running.version, code=code, detail=detail)
    return structs.replace(record, failure=failure)


def _again(record: Record, running: Installed) -> Instruction:
    return Instruction(
        workflow=record.workflow,
        pointer=record.pointer,
        epoch=record.epoch,
        generation=running.generation,
        version=running.version,
        digest=running.digest,
        size_bytes=running.size_bytes,
    )
