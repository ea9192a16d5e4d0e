"""An environment of an older release, which takes the form of this one when it is opened."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import lmdb

from cluster.kv.generation import DATA, MOST_TABLES, Generation, Options, sync_names
from cluster.kv.lmdb_rows import seal
from cluster.limits import LOAD_COMMIT_BYTES


def rewrite(old: Path, new: Path, options: Options) -> None:
    """Every row of format 1 in the directory `old`, with a checksum, into `new`, which is made; durable.

    Raises lmdb.Error and OSError, say because the disk is full; `new` is gone then."""
    with lmdb.open(str(old), map_size=options.map_size_bytes, max_dbs=MOST_TABLES, readahead=False) as source:
        names = [name.decode() for name in source.dbs()]
        tables = tuple(dict.fromkeys((*options.tables, *names)))
        target = Generation(new, replace(options, tables=tables), synced=False)
        try:
            for name in names:
                table = source.open_db(name.encode(), create=False)
                with source.begin() as reader:
                    _copy(reader.cursor(table), target, name)
            target.lmdb.sync(True)
            sync_names(new)
        except BaseException:
            target.lmdb.close()
            shutil.rmtree(new, ignore_errors=True)
            raise
        target.lmdb.close()


def adopt(old: Path, new: Path) -> None:
    """The file of format 2 in the directory `old` in `new` too, which is made: it only lacks a write-ahead log, which a
    release of before would not read. Durable."""
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if (old / DATA).exists():  # or that release was killed before it had written anything
        os.link(old / DATA, new / DATA)
    sync_names(new)


def _copy(rows: lmdb.Cursor[bytes], target: Generation, name: str) -> None:
    found = rows.first()
    while found:
        with target.lmdb.begin(write=True, db=target.tables[name]) as transaction:
            size = 0
            while found and size < LOAD_COMMIT_BYTES:
                key, value = rows.item()
                transaction.put(key, seal(target.seeds[name], key, value), append=True)
                size += len(key) + len(value)
                found = rows.next()
