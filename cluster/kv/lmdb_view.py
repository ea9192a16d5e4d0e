"""The environment of another process, to be read."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from cluster.kv.generation import Options, Shown, show
from cluster.kv.lmdb_env import MAP_SIZE_BYTES, MAX_READERS
from cluster.kv.lmdb_rows import LmdbReader


class LmdbView:
    """Shows the last checkpoint of the process that owns the environment in the directory `path`. It says which
    generation counts (`LmdbEnvironment.place`), and says it anew before whatever is true only of a newer one.

    Used by one thread, but for reading a snapshot. Raises lmdb.Error: a generation may be gone by the time it is
    opened, another one counts then. The process that owns the environment must not have a view of it."""

    def __init__(self, path: str | os.PathLike[str], place: str, *, map_size_bytes: int = MAP_SIZE_BYTES) -> None:
        self._root = Path(path)
        self._options = Options((), map_size_bytes, MAX_READERS)
        self._shown = self._show(place)

    def _show(self, place: str) -> Shown:
        return show(self._root / place, self._options)

    def follow(self, place: str) -> None:
        """This generation counts from now on. Snapshots of the one before stay as they are until they end."""
        if place != self._shown.directory.name:
            old, self._shown = self._shown, self._show(place)
            old.retire(lambda _directory: None)

    def snapshot(self) -> AbstractContextManager[LmdbReader]:
        return self._shown.snapshot()

    peek = snapshot

    def close(self) -> None:
        self._shown.lmdb.close()
