"""Several workflows below one path: PATH is a link to a directory of links, and each change is a new such directory.

Theory of operation
-------------------
    PATH -> STATE/directories/KEY/7/          KEY: of PATH
                triage.yml -> STATE/objects/sha256-.../content
                router.yml -> STATE/objects/sha256-.../content

A directory that PATH has named is never changed. To change one name, a directory with the next number is made, with
all links of the one before and the changed one; when it is on disk, PATH is swapped to it by a rename. So PATH always
leads to one complete set, after a crash too, and who has entered it (an open directory, a working directory) keeps that
set: it stays on disk for limits.DIRECTORY_KEPT_S after it was replaced, unless limits.DIRECTORY_SETS newer ones came.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from registry.agent import files, limits
from registry.agent.files import off_loop
from registry.agent.home import Home
from registry.agent.targets.base import DONE, Applied, Candidate
from registry.agent.targets.file import lasting, occupied
from registry.agent.transitions import Code


@dataclass(frozen=True)
class DirectorySpec:
    """`name`: of the file in the directory. Raises ValueError."""

    directory: Path  # absolute
    name: str

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name or not self.name.isprintable():
            raise ValueError(f"{self.name!r} is no name of a file; write one without a slash")

    @property
    def path(self) -> Path:
        return self.directory / self.name

    @property
    def place(self) -> str:
        return str(self.path)


class LinkSet:
    """PATH and what it leads to. Blocks; changes of one agent follow one another."""

    def __init__(self, home: Home, path: Path) -> None:
        self._home = home
        self._path = path
        self._sets = home.directories / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]

    def is_ours(self) -> bool:
        if not os.path.lexists(self._path):
            return True
        return self._path.is_symlink() and self._path.readlink().parent == self._sets

    def entries(self) -> dict[str, Path]:
        """name -> what its link names. Nothing, where PATH is not there, not ours, or leads nowhere. Raises OSError."""
        if not self._path.is_symlink() or not self.is_ours():
            return {}
        try:
            with os.scandir(self._path.readlink()) as found:
                return {entry.name: Path(os.readlink(entry.path)) for entry in found}
        except FileNotFoundError:  # the state directory was emptied
            return {}

    def change(self, name: str, content: Path | None) -> None:
        """None: removes the name. Raises OSError; PATH then leads where it did."""
        with self._home.directories_lock:
            entries = self.entries()
            if entries.pop(name, None) is None and content is None:
                return
            if content is not None:
                entries[name] = content
            self._home.make_directory(self._sets)
            numbers = sorted(int(found) for found in os.listdir(self._sets))
            made = self._sets / str(numbers[-1] + 1 if numbers else 1)
            made.mkdir()
            for entry, target in entries.items():
                (made / entry).symlink_to(target)
            files.sync_directory(made)
            files.sync_directory(self._sets)
            files.make_directory(self._path.parent)
            files.link(self._path, made)
            self._drop_old([*numbers, int(made.name)])

    def _drop_old(self, numbers: list[int]) -> None:
        """By the times of the sets alone: the clock of this machine may have been set meanwhile, and then some stay
        longer or shorter."""
        replaced_s = [(self._sets / str(number)).stat().st_mtime for number in numbers[1:]]
        for at, number in enumerate(numbers[:-1]):
            newer = len(numbers) - 1 - at
            if newer >= limits.DIRECTORY_SETS or replaced_s[-1] - replaced_s[at] > limits.DIRECTORY_KEPT_S:
                shutil.rmtree(self._sets / str(number), ignore_errors=True)


class DirectoryTarget:
    def __init__(self, spec: DirectorySpec, home: Home, follow: str) -> None:
        self._spec = spec
        self._home = home
        self._follow = follow
        self._links = LinkSet(home, spec.directory)

    async def check(self, candidate: Candidate) -> Applied:
        return DONE if self._links.is_ours() else self._occupied()

    async def apply(self, candidate: Candidate | None) -> Applied:
        """As a file target: what somebody else has put at PATH stays."""
        if not self._links.is_ours():
            return DONE if candidate is None or candidate.force else self._occupied()
        content = self._home.content_path(candidate.digest) if candidate else None
        try:
            await off_loop(self._links.change, self._spec.name, content)
        except OSError as problem:
            return Applied(Code.INSTALL_FAILED, str(problem), later=True)
        return DONE

    async def shows(self, digest: str | None) -> bool:
        try:
            found = self._links.entries().get(self._spec.name)
        except OSError:
            return False
        return found == (self._home.content_path(digest) if digest else None)

    async def last(self) -> Applied:
        return await lasting(self._spec.directory.parent)

    def _occupied(self) -> Applied:
        return Applied(Code.PATH_OCCUPIED, occupied(self._spec.directory, self._follow))
