"""Tables on a disk: one LMDB environment behind a write-ahead log.

    CURRENT                the generation that counts, replaced atomically
    GENERATION/data.mdb    the tables as of the last checkpoint
    GENERATION/wal         what was committed since then

Any but the current generation is on its way in or out, and deleted when opening.

Everything lmdb raises (full disk, full map) leaves as it is: the caller cannot go on and must end. Only what is found
damaged while reading is `Damaged`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Thread

import lmdb

from cluster.kv.api import Compaction, Damaged, Environment, Reader
from cluster.kv.compaction import LmdbCompaction
from cluster.kv.current import CURRENT, FORMAT, NEW, SEALED, current, format_of, name_of, names, number_of, point
from cluster.kv.generation import DATA, LOST, Generation, Options, sync_directory, sync_names
from cluster.kv.lmdb_rows import LmdbReader, LmdbTransaction
from cluster.kv.rewrite import adopt, rewrite
from cluster.kv.wal import Row, Wal, WalDamaged, encode
from cluster.limits import WAL_BYTES, WAL_ROW_BYTES

MAP_SIZE_BYTES = 64 * 1024**3  # address space, not disk: the file grows with what is written
PAGE_BYTES = 4096  # what a changed row may cost at a checkpoint
MAX_READERS = 1024  # snapshots open at once, over all processes


class _Opened:
    """Reading and writing one generation."""

    def __init__(self, options: Options, generation: Generation) -> None:
        self._options = options
        self._generation = generation
        self._transaction: lmdb.Transaction[bytes] | None = None
        self._view: LmdbTransaction | None = None
        self._peeks = 0
        self._broken: BaseException | None = None  # what was committed is in memory no more: nothing goes on from here
        self.before_snapshot: Callable[[], None] = lambda: None
        self.failed: Callable[[BaseException], None] = lambda _error: None

    @property
    def tables(self) -> tuple[str, ...]:
        return self._options.tables

    def transaction(self) -> LmdbTransaction:
        assert not self._peeks, "a transaction while somebody looks at what it changes"
        self._check()
        if self._view is None:
            self._transaction = self._generation.lmdb.begin(write=True)
            self._view = self._generation.writer(self._transaction)
        return self._view

    def _end(self) -> lmdb.Transaction[bytes] | None:
        assert not self._peeks, "a transaction ends while somebody looks at it"
        transaction, self._transaction, self._view = self._transaction, None, None
        return transaction

    def commit(self, *, synced: bool = True) -> None:
        if (transaction := self._end()) is not None:
            transaction.commit()

    @property
    def is_behind(self) -> bool:
        return False

    def checkpoint(self) -> None: ...

    def check(self) -> None: ...

    def abort(self) -> None:
        if (transaction := self._end()) is not None:
            transaction.abort()

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def snapshot(self) -> AbstractContextManager[LmdbReader]:
        self.before_snapshot()
        self._show()
        return self._generation.snapshot()

    def _show(self) -> None:
        """Readers of the file see what was committed."""
        self.checkpoint()

    @contextmanager
    def peek(self) -> Iterator[Reader]:
        self.before_snapshot()
        self._check()
        if self._view is None:
            with self._generation.snapshot() as reader:
                yield reader
            return
        self._peeks += 1
        try:
            yield self._view
        finally:
            self._peeks -= 1
            if self._view.is_spent and not self._peeks and not self._view.changes:
                self.abort()

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
        self._generation.close()  # LMDB takes this flag only when it opens
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
        wal_bytes: int = WAL_BYTES,
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
        options = Options(tuple(tables), map_size_bytes, max_readers, wal_bytes)
        if format_of(name) < FORMAT:
            if not (self._root / CURRENT).exists():
                point(self._root, name)  # or a crash would leave two generations, and nothing that says which counts
            name = self._renewed(name, options)
        super().__init__(options, Generation(self._root / name, options, synced=True))
        self._incoming: _Incoming | None = None
        self._compaction: LmdbCompaction | None = None
        self._deleting: list[Thread] = []
        self._committed: list[list[Row]] = []  # since the last checkpoint
        self._unwritten: list[bytes] = []  # commits that need not be durable
        self._rows = 0  # of all that was committed since the last checkpoint
        self._spoilt: dict[str, Damaged] = {}  # tables that cannot take in what was committed
        sync_names(self._generation.directory)
        sync_directory(self._root.parent)
        if not (self._root / CURRENT).exists():
            point(self._root, name)
        self._recover()

    def _renewed(self, old: str, options: Options) -> str:
        """The name of the generation that takes the place of one of an older format."""
        new = self._next().name
        if format_of(old) < SEALED:
            rewrite(self._root / old, self._root / new, options)
        else:
            adopt(self._root / old, self._root / new)
        point(self._root, new)
        shutil.rmtree(self._root / old)
        return new

    def _recover(self) -> None:
        """Take in what was committed since the last checkpoint of an earlier life. Raises lmdb.CorruptedError."""
        try:
            self._committed = list(self._wal.read())
            self._rows = sum(map(len, self._committed))
        except WalDamaged as damage:
            self.close()
            raise lmdb.CorruptedError(f"{damage}. {LOST}") from damage
        if self._committed:
            self._redo()
            with suppress(lmdb.Error):  # a full disk: what is in the log can be read all the same
                self.checkpoint()
            if self._broken is not None:
                self._broken = None
                self._redo()
            if self._committed:
                self._wal.settle()

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

    @property
    def _wal(self) -> Wal:
        assert self._generation.wal is not None, "only an incoming environment has none"
        return self._generation.wal

    def commit(self, *, synced: bool = True) -> None:
        """The transaction stays open behind it, for a checkpoint to commit it as a whole."""
        self._check()
        if self._view is not None and self._view.changes:
            assert not self._peeks, "a commit while somebody looks"
            assert not self._view.is_spent, "a commit of what was written in part"
            rows, self._view.changes = self._view.changes, []
            self._committed.append(rows)
            self._unwritten.append(encode(rows))
            self._rows += len(rows)
            with self._ending():
                is_full = not self._wal.has_room(self._unwritten)
            if is_full or self._rows > self._options.wal_bytes // WAL_ROW_BYTES:
                self.checkpoint()
        if synced and self._unwritten:
            with self._ending():
                self._wal.append(self._unwritten)
            self._unwritten.clear()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """After whatever is raised inside, memory and disk may differ: nothing goes on from here."""
        try:
            yield
        except BaseException as error:
            self._broken = error
            self.failed(error)
            raise

    def headroom_bytes(self) -> int:
        waiting_bytes = self._wal.size_bytes + sum(map(len, self._unwritten)) + self._rows * PAGE_BYTES
        return max(0, super().headroom_bytes() - waiting_bytes)

    @property
    def is_behind(self) -> bool:
        return bool(self._committed) and not self._spoilt

    def checkpoint(self) -> None:
        self._check()
        if self._view is not None and self._view.is_spent and not self._view.changes:
            self.abort()
        if self._transaction is None or self._view is None or self._view.changes or self._spoilt:
            return
        if not self._committed:  # it was begun to be read
            super().abort()
            return
        transaction = self._end()
        assert transaction is not None
        with self._ending():
            self._generation.checkpoint(transaction)
        committed, self._committed, self._unwritten, self._rows = self._committed, [], [], 0
        if self._compaction is not None:
            self._compaction.note((table, key) for rows in committed for table, key, _ in rows)

    def _show(self) -> None:
        super()._show()
        self.check()

    def check(self) -> None:
        if self._spoilt:
            raise next(iter(self._spoilt.values()))

    def abort(self) -> None:
        if self._view is None:
            return
        super().abort()
        if self._committed:
            self._redo()

    def _redo(self) -> None:
        """What was committed since the last checkpoint goes into a new transaction. A table whose pages are damaged
        cannot take it in: it is not shown any more, and there is no checkpoint, until all is replaced."""
        while True:
            view = self.transaction()
            try:
                for rows in self._committed:
                    view.redo([row for row in rows if row[0] not in self._spoilt])
            except Damaged as damage:
                super().abort()
                self._spoilt[damage.table] = damage
            else:
                view.hide(self._spoilt)
                return

    def incoming(self) -> _Incoming:
        if self._incoming is not None:
            self._incoming.close()
        generation = Generation(self._next(), self._options, synced=False)
        self._incoming = _Incoming(self._options, generation, self._delete)
        return self._incoming

    def replace(self, incoming: Environment) -> None:
        assert isinstance(incoming, _Incoming), "not an incoming environment"
        assert incoming is self._incoming, "not the latest incoming environment of this one"
        assert self._view is None or not self._view.changes, "a transaction is open"
        self._lose_compaction()
        self._incoming = None  # whatever fails from here on, closing must not delete it
        generation = incoming.settle()
        self._forget()
        with self._ending():
            self._take_over(generation)

    def _forget(self) -> None:
        """What was committed since the last checkpoint stays in the log alone."""
        super().abort()
        self._committed, self._unwritten, self._rows = [], [], 0
        self._spoilt = {}

    def compaction(self) -> LmdbCompaction:
        """One begun before is abandoned."""
        self._lose_compaction()
        self.before_snapshot()
        self._show()  # what was deleted before is not to be copied, and deleted there: its bytes would stay
        self._compaction = LmdbCompaction(
            self._generation, self._next(), self._options, self._show, self._take_over, self._delete
        )
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
                self._generation.close()
                generation.close()
            else:
                generation.retire(self._delete)
            raise
        old, self._generation = self._generation, generation
        old.retire(self._delete)

    def close(self) -> None:
        with suppress(lmdb.Error, Damaged):  # then it stays in the log
            if self._view is not None and self._view.changes:
                self.abort()
            if self._broken is None:
                self.checkpoint()
        self._forget()
        self._lose_compaction()
        if self._incoming is not None:
            self._incoming.close()
        self._generation.close()
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
