"""The disk of one machine: real files below one directory, reached by the production code through `os`, with faults.

Theory of operation
-------------------
While a `Disk` is in place, the functions of `os` that change files, and `io.open` for reading, go through it for every
path below its directory. Each such call is a *step*, at which the disk may be full, fail, or the machine may stop: then
`Crash` is raised there, and by everything that the dying process tries afterwards.

A process that is killed leaves all that it did. A machine that loses power also loses what was not synced: of the
changes of each directory since it was synced last, some newest ones are undone; of each file that was not synced, an
end is cut off.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any


class Crash(BaseException):
    """The agent's process ends here. Not an Exception: nothing in it may live on."""


@dataclass(frozen=True)
class _Change:
    """Of one directory, not synced yet."""

    directory: str
    path: str
    undo: Callable[[], None]


_CHANGING = ("open", "write", "fsync", "replace", "mkdir", "symlink", "unlink", "rmdir")
_TAKES_ROOM = frozenset({"open", "write", "mkdir", "symlink"})


class Disk:
    """`at_change`: called with each path whose directory entry has just been replaced or removed; `at_sync`: with each
    directory that has just been synced."""

    def __init__(self, root: Path, rng: Random) -> None:
        self.root = str(root / "disk")
        self._shadow = root / "shadow"  # old files, as long as their replacement may be undone
        os.makedirs(f"{self.root}/state")
        os.mkdir(f"{self.root}/srv")
        os.mkdir(self._shadow)
        self._rng = rng
        self.steps = 0
        self.crash_at: int | None = None  # a number of `steps`
        self.is_dead = False
        self.refused = 0  # steps
        self.full = False
        self.failing = 0.0  # the share of steps that fail with EIO
        self.syncs_directories = True  # a knob: a disk that only says so
        self.unreadable: set[int] = set()  # inodes
        self.at_change: Callable[[str], None] = lambda path: None
        self.at_sync: Callable[[str], None] = lambda directory: None
        self.at_crash: Callable[[str], None] = lambda what: None
        self._aside = False
        self._changes: list[_Change] = []
        self._dirty: dict[int, int] = {}  # inode -> a descriptor of it
        self._shadows = 0
        self._real = {name: getattr(os, name) for name in _CHANGING}
        self._real_open = io.open

    @contextmanager
    def in_place(self) -> Iterator[None]:
        ours = {name: getattr(self, f"_{name}") for name in self._real}
        for name, function in ours.items():
            setattr(os, name, function)
        io.open = self._io_open
        try:
            yield
        finally:
            io.open = self._real_open
            for name, function in self._real.items():
                setattr(os, name, function)
            self._forget_unsynced()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What the simulator itself does to the files is no step."""
        before, self._aside = self._aside, True
        try:
            yield
        finally:
            self._aside = before

    # What happens to it

    def lose_power(self) -> int:
        """How many changes were undone."""
        counts = Counter(change.directory for change in self._changes)
        kept = {directory: self._rng.randint(0, count) for directory, count in counts.items()}
        seen: Counter[str] = Counter()
        lost = []
        for change in self._changes:
            seen[change.directory] += 1
            if seen[change.directory] > kept[change.directory]:
                lost.append(change)
        with self.aside():
            for change in reversed(lost):
                with suppress(OSError):
                    change.undo()
        for descriptor in self._dirty.values():
            size_bytes = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, self._rng.randint(0, size_bytes))
        self._forget_unsynced()
        return len(lost)

    def _forget_unsynced(self) -> None:
        for descriptor in self._dirty.values():
            os.close(descriptor)
        self._dirty.clear()
        self._changes.clear()
        for path in self._shadow.iterdir():
            self._real["unlink"](path)

    def step(self, what: str) -> None:
        """Another one; here the machine may stop, or the disk refuse."""
        if self.is_dead:
            raise Crash
        self.steps += 1
        if self.crash_at is not None and self.steps >= self.crash_at:
            self.crash_at = None
            self.is_dead = True
            self.at_crash(what)
            raise Crash
        name = what.partition(" ")[0]
        if self.full and name in _TAKES_ROOM:
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)
        if self.failing and self._rng.random() < self.failing:
            self.refused += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), what)

    # os

    def _ours(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The whole path, where it is one of this disk."""
        if isinstance(path, int) or self._aside:
            return None
        text = os.fsdecode(path)
        if dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        return text if text.startswith(self.root) else None

    def _told(self, path: str) -> str:
        return path[len(self.root) + 1 :]

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        real = self._real["open"]
        ours = self._ours(path, dir_fd)
        if ours is None or not flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            return int(real(path, flags, mode, dir_fd=dir_fd))
        self.step(f"open {self._told(ours)}")
        new = not os.path.lexists(ours)
        descriptor = int(real(path, flags, mode, dir_fd=dir_fd))
        if new:
            self._note(ours, lambda: self._real["unlink"](ours))
        return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        """A part of it, at times."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or self._ours(os.readlink(f"/proc/self/fd/{descriptor}")) is None:
            return int(self._real["write"](descriptor, data))
        self.step("write")
        if status.st_ino not in self._dirty:
            self._dirty[status.st_ino] = os.dup(descriptor)
        size_bytes = len(data) if self._rng.random() < 0.8 else self._rng.randint(1, max(1, len(data)))
        return int(self._real["write"](descriptor, memoryview(data)[:size_bytes]))

    def _fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        path = self._ours(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path is None:
            self._real["fsync"](descriptor)
            return
        self.step(f"fsync {self._told(path)}")
        if not stat.S_ISDIR(status.st_mode):
            if (kept := self._dirty.pop(status.st_ino, None)) is not None:
                os.close(kept)
        else:
            if self.syncs_directories:
                self._changes = [change for change in self._changes if change.directory != path]
            self.at_sync(path)

    def _replace(self, source: Any, target: Any) -> None:
        ours, scratch = self._ours(target), self._ours(source)
        if ours is None or scratch is None:
            self._real["replace"](source, target)
            return
        self.step(f"replace {self._told(ours)}")
        old = self._save(ours)
        self._real["replace"](source, target)

        def undo() -> None:
            self._real["replace"](ours, scratch)
            if old is not None:
                self._real["replace"](old, ours)

        self._note(ours, undo)
        self.at_change(ours)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        ours = self._ours(path, dir_fd)
        if ours is not None:
            self.step(f"mkdir {self._told(ours)}")
        self._real["mkdir"](path, mode, dir_fd=dir_fd)
        if ours is not None:
            self._note(ours, lambda: shutil.rmtree(ours, ignore_errors=True))

    def _symlink(self, target: Any, path: Any, target_is_directory: bool = False, *, dir_fd: int | None = None) -> None:
        ours = self._ours(path, dir_fd)
        if ours is not None:
            self.step(f"symlink {self._told(ours)}")
        self._real["symlink"](target, path, target_is_directory, dir_fd=dir_fd)
        if ours is not None:
            self._note(ours, lambda: self._real["unlink"](ours))

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        ours = self._ours(path, dir_fd)
        if ours is None or not os.path.lexists(ours):
            self._real["unlink"](path, dir_fd=dir_fd)
            return
        self.step(f"unlink {self._told(ours)}")
        old = self._save(ours)
        self._real["unlink"](path, dir_fd=dir_fd)
        if old is not None:
            self._note(ours, lambda: self._real["replace"](old, ours))
        self.at_change(ours)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        """Not undone: what was in it does not come back as a whole either."""
        ours = self._ours(path, dir_fd)
        if ours is not None:
            self.step(f"rmdir {self._told(ours)}")
        self._real["rmdir"](path, dir_fd=dir_fd)
        if ours is not None:
            self._changes = [change for change in self._changes if not change.path.startswith(ours)]

    def _io_open(self, file: Any, *arguments: Any, **named: Any) -> Any:
        if not isinstance(file, int) and self._ours(file) is not None:
            if self.is_dead:
                raise Crash
            with suppress(FileNotFoundError):
                if os.stat(file).st_ino in self.unreadable:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return self._real_open(file, *arguments, **named)

    # What can be undone

    def _note(self, path: str, undo: Callable[[], None]) -> None:
        self._changes.append(_Change(os.path.dirname(path), path, undo))

    def _save(self, path: str) -> str | None:
        if not os.path.lexists(path):
            return None
        self._shadows += 1
        saved = str(self._shadow / str(self._shadows))
        os.link(path, saved, follow_symlinks=False)
        return saved
