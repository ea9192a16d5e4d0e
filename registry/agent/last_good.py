"""The last good bytes of one pointer and where they came from, in one file that is replaced in one step.

sha256:HEX            of everything behind this line
{"workflow": ...}     a Kept
the exact bytes
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct

from registry.agent import files, limits
from registry.agent.config import ConfigError
from registry.agent.guards import digest_of

log = structlog.get_logger(__name__)


class Kept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    workflow: str
    pointer: str
    cluster_id: str
    epoch: int
    generation: int
    version: int
    digest: str
    reason: str = ""
    rollback: bool = False


class LastGood(NamedTuple):
    kept: Kept
    data: bytes


def read(path: Path, workflow: str, pointer: str) -> LastGood | None:
    """None: there is none, or it is damaged: then what it says is of no use, and what the registry says is taken.
    Raises ConfigError if the file cannot be read, or is that of another pointer."""
    try:
        whole = files.read(path)
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read: {problem.strerror}") from None
    if whole is None:
        return None
    checksum, _, rest = whole.partition(b"\n")
    header, _, data = rest.partition(b"\n")
    try:
        kept = msgspec.json.decode(header, type=Kept) if checksum.decode("latin-1") == digest_of(rest) else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        kept = None
    if kept is None or digest_of(data) != kept.digest:
        log.warning("last good version damaged, not used", path=str(path))
        return None
    if (kept.workflow, kept.pointer) != (workflow, pointer):
        raise ConfigError(
            f"{path} holds {kept.workflow}:{kept.pointer}, not {workflow}:{pointer}; give each follow its own file"
        )
    return LastGood(kept, data)


def write(path: Path, last_good: LastGood) -> None:
    """Raises OSError; the file is as it was then."""
    rest = msgspec.json.encode(last_good.kept) + b"\n" + last_good.data
    files.make_directory(path.parent)
    files.write(path, digest_of(rest).encode() + b"\n" + rest)


def touch(path: Path, now_s: float) -> None:
    """Notes a contact, as the file's time of change."""
    with suppress(OSError):
        if not 0 <= now_s - path.stat().st_mtime < limits.CONTACT_EVERY_S:
            os.utime(path, (now_s, now_s))


def contact_s(path: Path) -> float:
    """Unix time of the last contact; 0: not known."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
