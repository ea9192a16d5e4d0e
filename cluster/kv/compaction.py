"""A generation written anew without its free pages, while the old one goes on.

LMDB copies the last checkpoint through a pipe, so that the copy is synced bit by bit (the disk is shared, and the syncs
of commits wait behind it) and can be given up in the middle. Rows are then copied as they are stored, damaged ones too:
rewriting a row would give it a checksum that is right.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path
from threading import Lock

import lmdb

from cluster.kv.api import CompactionLost, Damaged
from cluster.kv.generation import DATA, LEFT_BYTES, Generation, Options, sync_names
from cluster.kv.lmdb_rows import UNREADABLE
from cluster.limits import COMPACTION_TOUCHED, LOAD_COMMIT_BYTES, MIB

PIPE_BYTES = 1 * MIB
SYNC_BYTES = 8 * MIB  # copied and not yet synced


class LmdbCompaction:
    """`copy` may run in a worker thread; everything else belongs to the thread that owns the environment."""

    def __init__(
        self,
        source: Generation,
        directory: Path,
        options: Options,
        checkpoint: Callable[[], None],
        take_over: Callable[[Generation], None],
        delete: Callable[[Path], None],
    ) -> None:
        self._source, self._directory, self._options = source, directory, options
        self._checkpoint, self._take_over, self._delete = checkpoint, take_over, delete
        self._target: Generation | None = None
        self._touched: set[tuple[str, bytes]] = set()  # committed since the last copy began
        self._noting = Lock()
        self._stepping = Lock()  # held while the source is read: it must not be closed meanwhile
        self._is_lost = False  # no step is possible any more
        self._is_taken = False  # the copy belongs to the environment, or was deleted

    def note(self, touched: Iterable[tuple[str, bytes]]) -> None:
        """These rows have changed, in a commit that everybody sees already."""
        if not self._is_lost:
            with self._noting:
                self._touched.update(touched)
                if len(self._touched) > COMPACTION_TOUCHED:
                    self._is_lost = True
                    self._touched.clear()

    def copy(self) -> int:
        with self._step():
            if self._target is None:
                self._take()
                self._copy_all()
                self._target = Generation(self._directory, self._options, synced=True)
                sync_names(self._directory)
            else:
                self._copy_touched(self._target)
            return len(self._touched)

    def changed(self) -> int:
        self._checkpoint()
        with self._noting:
            return len(self._touched)

    def finish(self) -> int:
        with self._step():
            assert self._target is not None, "nothing was copied"
            self._checkpoint()
            self._check()  # more may have changed than was kept account of
            self._copy_touched(self._target)
            given_back = self._source.used_bytes() - self._target.used_bytes()  # what is set aside is set aside again
            self._is_taken = self._is_lost = True
            self._take_over(self._target)
            return max(0, given_back)

    def abandon(self) -> None:
        """A copy on its way notices it within moments, and is waited for."""
        self._is_lost = True
        with self._stepping:
            if not self._is_taken:
                self._is_taken = True
                if self._target is not None:
                    self._target.close()
                self._delete(self._directory)

    @contextmanager
    def _step(self) -> Iterator[None]:
        with self._stepping:
            self._check()
            try:
                yield
            except BaseException:
                self._is_lost = True  # rows may be missing in the copy
                raise

    def _check(self) -> None:
        if self._is_lost:
            raise CompactionLost(
                "the environment was replaced or closed, more has changed than can be copied again, or this compaction "
                "has failed or ended"
            )

    def _take(self) -> set[tuple[str, bytes]]:
        """Before what is read begins to be: a commit between the two is copied twice, and none is forgotten."""
        with self._noting:
            taken, self._touched = self._touched, set()
            return taken

    def _copy_all(self) -> None:
        self._check_room()
        self._directory.mkdir(mode=0o700)
        file = os.open(self._directory / DATA, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with ThreadPoolExecutor(1) as thread:
                outlet, inlet = os.pipe()
                try:
                    with suppress(OSError):  # fewer, longer steps are faster; they need not be
                        fcntl(inlet, F_SETPIPE_SZ, PIPE_BYTES)
                    copying = thread.submit(self._pour, inlet)
                    self._drain(outlet, file)
                finally:
                    os.close(outlet)  # ends the thread with an error, if it still pours
                copying.result()
            os.fsync(file)
        finally:
            os.close(file)

    def _check_room(self) -> None:
        """Trying it would take the last room from everybody."""
        try:
            needed = self._source.kept_bytes() + LEFT_BYTES
        except UNREADABLE as error:
            raise Damaged("", b"", str(error)) from error
        disk = os.statvfs(self._directory.parent)
        if (free := disk.f_bavail * disk.f_frsize) < needed:
            said = f"{needed // MIB} MiB are needed for the second file, {free // MIB} MiB are free"
            raise OSError(errno.ENOSPC, f"No space left on device: {said}")

    def _pour(self, inlet: int) -> None:
        try:
            self._source.lmdb.copyfd(inlet, compact=True)
        except UNREADABLE as error:
            raise Damaged("", b"", str(error)) from error
        finally:
            os.close(inlet)

    def _drain(self, outlet: int, file: int) -> None:
        unsynced = 0
        while size := os.splice(outlet, file, PIPE_BYTES):
            self._check()
            unsynced += size
            if unsynced >= SYNC_BYTES:
                os.fdatasync(file)
                unsynced = 0

    def _copy_touched(self, target: Generation) -> None:
        taken = sorted(self._take())
        with self._source.lmdb.begin() as old:
            while taken:
                with target.lmdb.begin(write=True) as new:
                    size = 0
                    while taken and size < LOAD_COMMIT_BYTES:
                        self._check()
                        size += self._copy_row(old, new, target, *taken.pop())

    def _copy_row(
        self, old: lmdb.Transaction[bytes], new: lmdb.Transaction[bytes], target: Generation, table: str, key: bytes
    ) -> int:
        row = old.get(key, db=self._source.tables[table])
        if row is None:
            new.delete(key, db=target.tables[table])
        else:
            new.put(key, row, db=target.tables[table])
        return len(key) + len(row or b"")
