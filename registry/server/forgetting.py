"""What a purge leaves on this member's disk and in its memory, and how that goes.

The purge itself deletes the rows. The bytes are then still in the log, which the cluster trims; in free pages of the
database, which is compacted here; and in the memory of the inspector's workers, which are started anew. Whether a
compaction is due is known from a file that says how many purges were compacted away: it outlives the process.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import NoReturn

import structlog

from cluster import journal
from cluster.api import Cluster
from cluster.kv.api import Damaged, Environment
from registry.server.contents import Contents
from registry.server.inspector import Inspector
from registry.server.limits import COMPACT_RETRY_S, READINESS_INTERVAL_S
from registry.server.metrics import Metrics
from registry.server.repair import Repairs
from registry.store.tables import PURGED

FILE = "purges.compacted"
log = structlog.get_logger()


class Forgetting:
    """`directory`: of the member's data."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        environment: Environment,
        inspector: Inspector,
        contents: Contents,
        repairs: Repairs,
        metrics: Metrics,
        directory: Path,
        retry_s: float = COMPACT_RETRY_S,
    ) -> None:
        self._cluster = cluster
        self._environment = environment
        self._inspector = inspector
        self._contents = contents
        self._repairs = repairs
        self._metrics = metrics
        self._file = directory / FILE
        self._retry_s = retry_s
        self._purged = asyncio.Event()
        self._came_again = False

    def purged(self) -> None:
        """A purge was committed here, or a state fetched that may know of one."""
        self._purged.set()

    def came_again(self) -> None:
        """Purged bytes were published again, and refused: they are in the log and in pages."""
        self._file.unlink(missing_ok=True)
        self._came_again = True
        self._purged.set()

    async def run(self) -> NoReturn:
        while True:
            self._purged.clear()
            failed = self._is_due() and not await self._forget()
            try:
                async with asyncio.timeout(self._retry_s if failed else None):
                    await self._purged.wait()
            except TimeoutError:
                pass

    def _is_due(self) -> bool:
        return self._came_again or self._purges() != self._compacted()

    async def _forget(self) -> bool:
        """Whether nothing is left of what was purged so far."""
        purges, began_s = self._purges(), time.monotonic()
        self._came_again = False
        self._contents.clear()
        await self._inspector.forget()
        while self._log_holds_it():
            await asyncio.sleep(READINESS_INTERVAL_S)
        try:
            done = await self._cluster.compact()
        except Damaged as error:
            self._repairs.note(str(error))
            return False
        except Exception as error:  # noqa: BLE001  no room, mostly; lmdb's own stay in cluster.kv
            log.warning("what was purged is still in free pages of the database; tried again", error=str(error))
            return False
        self._metrics.upkeep("compaction", time.monotonic() - began_s)
        log.info("purged bytes are gone from this disk", before_bytes=done.before_bytes, after_bytes=done.after_bytes)
        if not self._came_again:
            self._note(purges)
        return True

    def _log_holds_it(self) -> bool:
        with self._environment.peek() as reader:
            return journal.forgets_in(reader)

    def _purges(self) -> int:
        with self._environment.peek() as reader:
            return reader.count(PURGED)

    def _compacted(self) -> int:
        try:
            text = self._file.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            return 0
        return int(text) if text.isdecimal() else -1

    def _note(self, purges: int) -> None:
        """Lost with the power it costs one more compaction."""
        new = self._file.with_name(f"{FILE}.new")
        new.write_text(f"{purges}\n", "ascii")
        os.replace(new, self._file)
