"""Tables on a disk: one LMDB environment, every commit synced.

    CURRENT                the generation that counts, replaced atomically
    GENERATION/data.mdb    any but the current one is on its way in or out, and deleted when opening

Everything lmdb raises (full disk, full map) leaves as it is: the caller cannot go on and must end. Only what is found
damaged while reading is `Damaged`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Thread

import lmdb

from cluster.kv.api import Compaction, Environment
from cluster.kv.compaction import LmdbCompaction
from cluster.kv.current import CURRENT, FORMAT, NEW, current, format_of, name_of, names, number_of, point
from cluster.kv.generation import DATA, Generation, Options, sync_directory, sync_names
from cluster.kv.lmdb_rows import LmdbReader, LmdbTransaction
from cluster.kv.rewrite import rewrite

MAP_SIZE_BYTES = 64 * 1024**3  # address space, not disk: the file grows with what is written
MAX_READERS = 1024  # snapshots open at once, over all processes


class _Opened:
    """Reading and writing one generation."""

    def __init__(self, options: Options, generation: Generation) -> None:
        self._options = options
        self._generation = generation
        self._transaction: lmdb.Transaction[bytes] | None = None
        self._view: LmdbTransaction | None = None
        self.before_snapshot: Callable[[], None] = lambda: None

    @property
    def tables(self) -> tuple[str, ...]:
        return self._options.tables

    def transaction(self) -> LmdbTransaction:
        if self._view is None:
            self._transaction = self._generation.lmdb.begin(write=True)
            self._view = self._generation.writer(self._transaction)
        return self._view

    def commit(self) -> None:
        transaction, self._transaction, self._view = self._transaction, None, None
        if transaction is not None:
            transaction.commit()

    def abort(self) -> None:
        transaction, self._transaction, self._view = self._transaction, None, None
        if transaction is not None:
            transaction.abort()

    def snapshot(self) -> AbstractContextManager[LmdbReader]:
        self.before_snapshot()
        return self._generation.snapshot()

    def size_bytes(self, table: str) -> int:
        if self._transaction is not None:
            return self._generation.size_bytes(self._transaction, table)
        with self._generation.lmdb.begin() as transaction:
            return self._generation.size_bytes(transaction, table)

    def headroom_bytes(self) -> int:
        return self._generation.headroom_bytes()

    def set_aside(self, size_bytes: int) -> None:
        self._generation.set_aside(size_bytes)

    def sync(self) -> None:
        self._generation.lmdb.sync(True)


class _Incoming(_Opened):
    """Commits unsynced; thrown away unless it replaces the environment beside it."""

    def __init__(self, options: Options, generation: Generation, delete: Callable[[Path], None]) -> None:
        super().__init__(options, generation)
        self._delete = delete

    def incoming(self) -> Environment:
        raise AssertionError("an incoming environment has none of its own")

    def replace(self, incoming: Environment) -> None:
        raise AssertionError("an incoming environment is not replaced")

    def compaction(self) -> Compaction:
        raise AssertionError("an incoming environment has no free pages to speak of")

    def close(self) -> None:
        self.abort()
        self._generation.retire(self._delete)

    def settle(self) -> Generation:
        """Everything in it and the names that lead to it made durable; from now on with synced commits."""
        assert self._transaction is None, "a transaction of the incoming environment is open"
        assert not self._generation.snapshots, "a snapshot of the incoming environment is open"
        self.sync()
        self._generation.lmdb.close()  # LMDB takes this flag only when it opens
        generation = Generation(self._generation.directory, self._options, synced=True)
        sync_names(generation.directory)
        return generation


class LmdbEnvironment(_Opened):
    """An environment in the directory `path`, made if missing (not its parents), with these tables.

    One process at a time opens it. Raises lmdb.Error and OSError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tables: Iterable[str],
        *,
        map_size_bytes: int = MAP_SIZE_BYTES,
        max_readers: int = MAX_READERS,
    ) -> None:
        self._root = Path(path)
        self._root.mkdir(mode=0o700, exist_ok=True)
        name = current(self._root)
        if (found := format_of(name)) > FORMAT:
            what = f"format {found}; this one knows {FORMAT}"
            raise lmdb.VersionMismatchError(f"{self._root} was written by a newer release ({what}): start that one")
        for other in names(self._root):
            if other != name:
                shutil.rmtree(self._root / other)
        (self._root / NEW).unlink(missing_ok=True)
        self._newest = number_of(name)
        options = Options(tuple(tables), map_size_bytes, max_readers)
        if format_of(name) < FORMAT:
            if not (self._root / CURRENT).exists():
                point(self._root, name)  # or a crash would leave two generations, and nothing that says which counts
            name = self._rewritten(name, options)
        super().__init__(options, Generation(self._root / name, options, synced=True))
        self._incoming: _Incoming | None = None
        self._compaction: LmdbCompaction | None = None
        self._deleting: list[Thread] = []
        sync_names(self._generation.directory)
        sync_directory(self._root.parent)
        if not (self._root / CURRENT).exists():
            point(self._root, name)

    def _rewritten(self, old: str, options: Options) -> str:
        """The name of the generation that takes the place of one of an older format."""
        new = self._next().name
        rewrite(self._root / old, self._root / new, options)
        point(self._root, new)
        shutil.rmtree(self._root / old)
        return new

    @property
    def place(self) -> str:
        """The name of the generation that counts, for an LmdbView of this environment to follow."""
        return self._generation.directory.name

    def free_readers(self) -> int:
        """Take back what processes that were killed held for their snapshots; how many that were."""
        return int(self._generation.lmdb.reader_check())

    def _next(self) -> Path:
        self._newest += 1
        return self._root / name_of(self._newest)

    def commit(self) -> None:
        view = self._view
        super().commit()
        if view is not None and self._compaction is not None:
            self._compaction.note(view.touched)

    def incoming(self) -> _Incoming:
        if self._incoming is not None:
            self._incoming.close()
        generation = Generation(self._next(), self._options, synced=False)
        self._incoming = _Incoming(self._options, generation, self._delete)
        return self._incoming

    def replace(self, incoming: Environment) -> None:
        assert isinstance(incoming, _Incoming), "not an incoming environment"
        assert incoming is self._incoming, "not the latest incoming environment of this one"
        assert self._transaction is None, "a transaction is open"
        self._lose_compaction()
        self._incoming = None  # whatever fails from here on, closing must not delete it
        self._take_over(incoming.settle())

    def compaction(self) -> LmdbCompaction:
        """One begun before is abandoned."""
        self._lose_compaction()
        self._compaction = LmdbCompaction(self._generation, self._next(), self._options, self._take_over, self._delete)
        return self._compaction

    def _lose_compaction(self) -> None:
        if self._compaction is not None:
            self._compaction.abandon()
            self._compaction = None

    def _take_over(self, generation: Generation) -> None:
        assert self._transaction is None, "a transaction is open"
        name = generation.directory.name
        try:
            point(self._root, name)
        except BaseException:
            if current(self._root) == name:  # whether a crash keeps that is unknown: no commit may be told any more
                self._generation.lmdb.close()
                generation.lmdb.close()
            else:
                generation.retire(self._delete)
            raise
        old, self._generation = self._generation, generation
        old.retire(self._delete)

    def close(self) -> None:
        self.abort()
        self._lose_compaction()
        if self._incoming is not None:
            self._incoming.close()
        self._generation.lmdb.close()
        for thread in self._deleting:
            thread.join()

    def _delete(self, directory: Path) -> None:
        """In a thread, since freeing a large file takes long. What it cannot delete is left to the next opening."""
        thread = Thread(target=shutil.rmtree, args=(directory,), kwargs={"ignore_errors": True})
        thread.start()
        self._deleting = [other for other in self._deleting if other.is_alive()] + [thread]


def holds_data(path: str | os.PathLike[str]) -> bool:
    """Whether an environment was opened in this directory before and is still there, in whatever condition."""
    try:
        return (Path(path) / current(Path(path)) / DATA).stat().st_size > 0
    except lmdb.Error:
        return True
    except FileNotFoundError:
        return False
