"""`regctl cluster backup`: what registryd restore makes a cluster of again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from registry.cli import views
from registry.cli.errors import FileProblemError
from registry.cli.joining import progress
from registry.cli.session import Session, connected
from registry.client import Backup
from registry.core import errors
from registry.core.errors import Unavailable

HASH_BYTES = 1024 * 1024
SHOWN_BYTES = 4 * 1024 * 1024  # a smaller backup is done before anybody could read how far it is


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists, once the new one is whole.")
@click.option(
    "--linearizable/--stale",
    default=True,
    help="Everything acknowledged before is in it [default]; or what the member knows, for a cluster without a quorum.",
)
@connected
async def backup(session: Session, file: Path, force: bool, linearizable: bool) -> None:
    """Write everything the cluster knows into FILE, while it goes on. Any member gives it, an observer too.

    FILE appears only once it is whole: it was compared with what the member sent, and is on the disk. Until then it is
    FILE.partial. `registryd verify FILE` checks it again later, and shows what is in it.

    \b
      regctl cluster backup registry.backup
      regctl cluster backup registry.backup --stale --endpoints 10.0.0.2:7400
    """
    if file.exists() and not force:
        raise FileProblemError(f"{file} exists; nothing was written: choose another name, or --force to replace it")
    partial = file.with_name(f"{file.name}.partial")
    with _file_to_be(file, partial) as out:
        with progress(session) as show:

            def shown(size_bytes: int, expected_bytes: int) -> None:
                if size_bytes >= SHOWN_BYTES:
                    show(f"{views.size(size_bytes)} of about {views.size(max(size_bytes, expected_bytes))}")

            try:
                taken = await session.client.backup(out, stale=not linearizable, progress=shown)
            except Unavailable as error:
                hint = f"{error.hint}; or take what a member knows, with --stale" if linearizable else error.hint
                raise errors.error(error.reason, error.message, hint=hint, metadata=error.metadata) from error
        out.flush()
        os.fsync(out.fileno())
        if _sha256(partial) != taken.sha256:
            raise FileProblemError(f"{partial} does not hold what was written to it; check the disk")
    made = _made(file, taken)
    session.show(made, lambda: _told(made, taken))


@contextmanager
def _file_to_be(file: Path, partial: Path) -> Iterator[BinaryIO]:
    """`partial` becomes `file` when all went well, and is deleted otherwise. Only its owner can read it."""
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            yield out
        os.replace(partial, file)
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FileProblemError(f"cannot write {partial}: {error.strerror}; nothing was kept of it") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _made(file: Path, taken: Backup) -> dict[str, Any]:
    return {
        "file": str(file),
        "index": taken.index,
        "revision": taken.info.revision,
        "epoch": taken.info.epoch,
        "cluster_id": taken.info.cluster_id,
        "size_bytes": taken.size_bytes,
        "sha256": taken.sha256,
        "member": taken.info.served_by,
        "taken": views.time(taken.taken_ms),
        "linearizable": not taken.info.stale,
        "age_s": taken.info.age_ms / 1000,
    }


def _told(made: dict[str, Any], taken: Backup) -> str:
    sure = "everything acknowledged before is in it"
    if taken.info.stale:
        sure = f"as {taken.info.served_by} knew it; it had heard the leader {views.age(taken.info.age_ms)} before"
    return "\n".join(
        [
            f"{made['file']}: {views.size(taken.size_bytes)}, sha256 {taken.sha256}",
            f"cluster {made['cluster_id']}, epoch {made['epoch']}, revision {made['revision']}, log index "
            f"{made['index']}, from {made['member']}: {sure}",
        ]
    )
