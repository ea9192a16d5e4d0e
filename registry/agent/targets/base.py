"""Where a follow's versions are installed: a link to a file, a directory, a command, an address, a Dify app."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from registry.agent.transitions import Code


class Candidate(NamedTuple):
    """A version whose exact bytes, checked, are in the file `content`, read-only and kept until after it was left."""

    workflow: str
    pointer: str
    version: int
    generation: int
    digest: str
    size_bytes: int
    content: Path
    reason: str = ""
    force: bool = False  # a step back to what ran before: drift of the target is no obstacle


class Applied(NamedTuple):
    """code None: done. `later`: may pass by itself, so it is tried again; otherwise the version is refused for good."""

    code: Code | None = None
    detail: str = ""  # at most core.limits.DETAIL_CHARS; what failed, and what to do
    later: bool = False


DONE = Applied()


class Target(Protocol):
    """None of these raises but for a bug; each may be repeated after a crash at any instant, and be cancelled."""

    async def check(self, candidate: Candidate) -> Applied:
        """Whether it could be applied, before anything is changed: is it the right kind, are plugins there, has
        somebody else changed what is live?"""
        ...

    async def apply(self, candidate: Candidate | None) -> Applied:
        """Make it live, in one step where the target can. None: remove what is live (nothing ran before)."""
        ...

    async def shows(self, digest: str | None) -> bool:
        """Whether exactly these bytes are live now, as far as the target can tell; None: whether nothing is."""
        ...


@runtime_checkable
class Lasting(Protocol):
    """A target that may show more than the disk has."""

    async def last(self) -> Applied:
        """Done: what it shows survives a loss of power, whoever has put it there."""
        ...


@runtime_checkable
class Describing(Protocol):
    """A target that knows what it is."""

    async def facts(self) -> dict[str, str]:
        """As core.needs compares them, `dify` -> `1.9.2`; of one that does not answer, what it said last. Does not
        raise, and may be cancelled."""
        ...
