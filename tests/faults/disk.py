"""A small disk of its own for a member, that can be filled up: ext4 in a file, or tmpfs without loop devices."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

from tests.faults import leftovers

_CHUNK_BYTES = 1 << 30
_SMALLEST_BYTES = 4096
_EXT4_OPTIONS = ("-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1")


class Disk:
    """Mounted at `path` from the beginning; whoever made it unmounts it."""

    def __init__(self, directory: Path, name: str, size_bytes: int) -> None:
        self.path = directory / leftovers.name(name)
        self._filler = self.path / "filler"
        self._image = directory / f"{name}.img"
        self.path.mkdir()
        if not self._mount_image(size_bytes):
            options = f"size={size_bytes}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path], check=True)

    def _mount_image(self, size_bytes: int) -> bool:
        if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
            return False
        with self._image.open("wb") as image:
            image.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", *_EXT4_OPTIONS, self._image], check=True)
        mounted = subprocess.run(["mount", "-o", "loop", self._image, self.path], check=False, capture_output=True)
        return mounted.returncode == 0

    def fill(self) -> None:
        """Until nothing more fits."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size, chunk = os.fstat(descriptor).st_size, _CHUNK_BYTES
            while chunk >= _SMALLEST_BYTES:
                try:
                    os.posix_fallocate(descriptor, size, chunk)
                    size += chunk
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    chunk //= 2
        finally:
            os.close(descriptor)

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def leave(self, size_bytes: int) -> None:
        """Take all but so much, as other files would."""
        stat = os.statvfs(self.path)
        with self._filler.open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, stat.f_bavail * stat.f_frsize - size_bytes)

    def used_bytes(self) -> int:
        stat = os.statvfs(self.path)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=True)
        self._image.unlink(missing_ok=True)
