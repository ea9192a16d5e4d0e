"""Durable, atomic file operations. Every function returns after what it did would survive a loss of power."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Occupied(Exception):
    """Another process holds the lock."""


async def off_loop(operation: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What blocks, in the executor of the running event loop: nothing in the agent leaves the loop by another way. When
    it is cancelled, the operation still goes on to its end."""
    return await asyncio.to_thread(operation, *arguments, **named)


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Like mkdir -p, each new level durable in its parent."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` in one step: a reader sees the old bytes or the new, and so does the next start."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(scratch, path)
    sync_directory(path.parent)


def move(scratch: Path, path: Path, *, mode: int = 0o644) -> None:
    """As `write`, with the bytes of a file on the same file system, which is no longer there then."""
    with scratch.open("rb") as file:
        os.fchmod(file.fileno(), mode | 0o200)  # who finds it after a crash right here writes to it again
        os.fsync(file.fileno())
        os.replace(scratch, path)
        os.fchmod(file.fileno(), mode)
    sync_directory(path.parent)


def digest(path: Path) -> str | None:
    """sha256 of a file of any size; None: it is not there."""
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except FileNotFoundError:
        return None


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def link(path: Path, target: Path) -> None:
    """Makes `path` a symlink to `target` in one step; `path` is never missing on the way."""
    scratch = path.with_name(f".{path.name}.registry-agent")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    os.replace(scratch, path)
    sync_directory(path.parent)


def unlink(path: Path) -> None:
    """Removes `path` if it is there."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def lock(path: Path) -> int:
    """Takes an exclusive lock that the system releases when this process ends, however it ends. Returns the open
    descriptor, to be closed by the caller. Raises Occupied."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Occupied(str(path)) from None
    return descriptor
