"""What is on the disk of this machine: looks at files, and small files replaced in one step."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path

from msgspec import Struct

from registry.source import limits

Stamp = tuple[int, ...]  # device, inode, size, mtime, ctime: the same stamp is taken for the same bytes


class Occupied(Exception):
    """Another process holds the lock."""


class Look(Struct, frozen=True):
    stamp: Stamp
    digest: str  # empty: it is larger than limits.FILE_BYTES


def stamps(paths: Iterable[str]) -> dict[str, Stamp | None]:
    """None: not there. What cannot be looked at for another reason has an empty stamp: looking at it says why."""
    found: dict[str, Stamp | None] = {}
    for path in paths:
        try:
            found[path] = _stamp(os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            found[path] = None
        except OSError:
            found[path] = ()
    return found


def look(path: str) -> Look:
    """Reads all of it. Raises OSError."""
    with _opened(path) as (file, before):
        if before[2] > limits.FILE_BYTES:
            return Look(before, "")
        return Look(before, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")


def read(path: str, digest: str) -> bytes | None:
    """The bytes that have this digest; None: they are others by now. Raises OSError."""
    with _opened(path) as (file, _):
        data = file.read(limits.FILE_BYTES + 1)
    return data if f"sha256:{hashlib.sha256(data).hexdigest()}" == digest else None


def matching(directory: str, glob: str) -> list[str]:
    """Names in a directory that one of the patterns matches, sorted; hidden ones never. At most limits.FILES and one
    more. Raises OSError."""
    patterns = glob.split(",")
    found: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and any(fnmatchcase(entry.name, pattern) for pattern in patterns):
                found.append(entry.name)
            if len(found) > limits.FILES:
                break
    return sorted(found)


def replace(path: Path, data: bytes) -> None:
    """A reader sees the old bytes or the new, and so does one after a loss of power. Raises OSError."""
    scratch = path.with_name(f".{path.name}.new")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held until the block or this process ends. Raises Occupied, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Occupied(str(path)) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: str) -> Iterator[tuple[BufferedReader, Stamp]]:
    """A pipe is not waited for: only regular files are sources."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        yield file, _stamp(status)


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
