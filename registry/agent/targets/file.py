"""The bytes at a path of this machine: PATH is a link into the state directory, swapped in one step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.agent.files import off_loop, sync_directory
from registry.agent.home import Home
from registry.agent.targets.base import DONE, Applied, Candidate
from registry.agent.transitions import Code


@dataclass(frozen=True)
class FileSpec:
    path: Path  # absolute

    @property
    def place(self) -> str:
        return str(self.path)


class FileTarget:
    """`name`: of the follow, for messages."""

    def __init__(self, spec: FileSpec, home: Home, name: str) -> None:
        self._path = spec.path
        self._home = home
        self._name = name

    async def check(self, candidate: Candidate) -> Applied:
        return DONE if self._home.is_ours(self._path) else self._occupied()

    async def apply(self, candidate: Candidate | None) -> Applied:
        """What somebody else has put at PATH meanwhile stays, and a step back leaves it alone without a word."""
        if not self._home.is_ours(self._path):
            return DONE if candidate is None or candidate.force else self._occupied()
        try:
            await off_loop(self._home.show, self._path, candidate.digest if candidate else None)
        except OSError as problem:
            return Applied(Code.INSTALL_FAILED, str(problem), later=True)
        return DONE

    async def shows(self, digest: str | None) -> bool:
        try:
            return self._home.shows(self._path, digest)
        except OSError:  # a directory that may not be looked into
            return False

    async def last(self) -> Applied:
        return await lasting(self._path.parent)

    def _occupied(self) -> Applied:
        return Applied(Code.PATH_OCCUPIED, occupied(self._path, self._name))


async def lasting(directory: Path) -> Applied:
    """Names in it survive a loss of power."""
    try:
        await off_loop(sync_directory, directory)
    except FileNotFoundError:
        return DONE
    except OSError as problem:
        return Applied(Code.INSTALL_FAILED, str(problem), later=True)
    return DONE


def occupied(path: Path, name: str) -> str:
    return (
        f"{path} exists and is not this agent's link, so it is left as it is; "
        f"move it away (mv {path} {path}.before) or choose another path for {name}"
    )
