"""Power loss: what was written to data.mdb and wal and not synced is lost, wholly or in part, when the power goes.

kill -9 keeps the page cache, so a killed process loses nothing that it wrote. Members run under `unsynced_writes.c`,
which remembers unsynced writes with what they replaced; `lose_power` takes them back.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Literal, get_args

import pytest

SOURCE = Path(__file__).with_name("unsynced_writes.c")
DATA_FILES = ("data.mdb", "wal")
PAGE_BYTES = 4096  # what a disk keeps or loses as one
Mode = Literal["all", "after", "some"]
MODES: tuple[Mode, ...] = get_args(Mode)
_USED = Struct("<Q")
_HEAD = Struct("<cQQQQ")


@dataclass(frozen=True)
class Write:
    kind: str  # W write, D durable write, T cut
    offset: int
    size_before: int
    replaced: bytes
    written: bytes


class Power:
    """The shim, and what the members under it have not synced. Skips the test where it cannot be built."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("gcc") is None:
            pytest.skip("no gcc to build the shim with that remembers unsynced writes")
        self._directory = directory / "unsynced"
        self._directory.mkdir()
        self._library = directory / "unsynced_writes.so"
        flags = ("-O1", "-Wall", "-Werror", "-shared", "-fPIC")
        subprocess.run(["gcc", *flags, "-o", self._library, SOURCE, "-ldl"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a member's environment needs."""
        return {"LD_PRELOAD": str(self._library), "UNSYNCED_WRITES_DIR": str(self._directory)}

    def lose(self, data_dir: Path, rng: random.Random, modes: Sequence[Mode] = MODES) -> int:
        """Takes unsynced writes of a dead member back: all, all after some point, or any pages of them. How many
        writes were not synced."""
        count = 0
        for path in sorted(path for name in DATA_FILES for path in data_dir.rglob(name)):
            status = path.stat()
            log = self._directory / f"{status.st_dev}-{status.st_ino}"
            if not log.exists():
                continue
            writes = unsynced(log.read_bytes())
            take_back(path, writes, rng.choice(modes), rng)
            log.write_bytes(_USED.pack(_USED.size))
            count += sum(write.kind == "W" for write in writes)
        return count


def unsynced(log: bytes) -> list[Write]:
    (used,) = _USED.unpack_from(log)
    writes, at = [], _USED.size
    while at < used:
        kind, offset, size_before, replaced, written = _HEAD.unpack_from(log, at)
        middle = at + _HEAD.size + replaced
        writes.append(
            Write(kind.decode(), offset, size_before, log[at + _HEAD.size : middle], log[middle : middle + written])
        )
        at = middle + written
    return writes


def take_back(path: Path, writes: list[Write], mode: Mode, rng: random.Random) -> None:
    """Durable writes stay in every mode."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        kept = {"all": 0, "after": rng.randint(0, len(writes)), "some": len(writes)}[mode]
        for write in reversed(writes):
            if write.replaced:
                os.pwrite(descriptor, write.replaced, write.offset)
            os.ftruncate(descriptor, write.size_before)
        for number, write in enumerate(writes):
            if write.kind == "D" or (number < kept and mode == "after"):
                _again(descriptor, write)
            elif number < kept:
                for piece in _pieces(write):
                    if rng.random() < 0.5:
                        _again(descriptor, piece)
    finally:
        os.close(descriptor)


def _pieces(write: Write) -> list[Write]:
    if write.kind == "T":
        return [write]
    starts = range(0, len(write.written), PAGE_BYTES)
    return [
        Write(write.kind, write.offset + start, 0, b"", write.written[start : start + PAGE_BYTES]) for start in starts
    ]


def _again(descriptor: int, write: Write) -> None:
    if write.kind == "T":
        os.ftruncate(descriptor, write.offset)
    else:
        os.pwrite(descriptor, write.written, write.offset)
