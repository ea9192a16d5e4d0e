"""Contents that stay, packed otherwise: before what they lie over goes, and to take less room."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial

from cluster.kv.api import Reader, Snapshots
from registry.core import commands, outcomes
from registry.core.encoding import fingerprint
from registry.core.errors import Reason, Unavailable
from registry.core.model import Content
from registry.server.budget import Budget
from registry.server.proposer import Proposer
from registry.server.reading import beside
from registry.store import content, packing
from registry.store.packing import Repacking
from registry.store.state import Rows


class Repacker:
    """Reads what is committed here, packs beside the loop, proposes. Raises what proposing raises, CORRUPT_CONTENT."""

    def __init__(self, *, proposer: Proposer, environment: Snapshots) -> None:
        self._proposer = proposer
        self._environment = environment

    async def free(self, going: Collection[str], budget: Budget) -> None:
        """Contents that stay and lie over one of `going` (digests) are packed without any of them. What is packed over
        them meanwhile is not looked for again: apply refuses then. Raises Unavailable(BUSY) when time is over."""
        for digest in await beside(self._environment, partial(_staying, going=going)):
            if budget.left_s() <= 0:
                raise Unavailable(
                    Reason.BUSY,
                    "time was over before all that lies over what goes was packed again; nothing was removed",
                    hint="repeat it, it goes on from there; or give it more time (--timeout SECONDS)",
                )
            job = await beside(self._environment, partial(_off, digest=digest, going=going))
            if job is not None:
                await self._propose(digest, job.stored.row, await asyncio.to_thread(job.again), budget.left_s())

    async def shrink(self, digest: str, timeout_s: float) -> int | None:
        """Bytes saved; 0: it stays as it is. None: there was nothing to try. timeout_s: of the proposal; packing takes
        as long as it takes, and its result is not thrown away for that."""
        job = await beside(self._environment, partial(_unsettled, digest=digest))
        if job is None:
            return None
        row, smaller = job.stored.row, await asyncio.to_thread(job.better)
        if smaller is None or not await self._propose(digest, row, smaller, timeout_s):
            return 0
        return content.cost_bytes(row) - content.cost_bytes(smaller)

    async def _propose(self, digest: str, before: Content, after: Content, timeout_s: float) -> bool:
        """Whether it was packed so: somebody else may have been faster."""
        command = commands.Repack(
            request_id=self._proposer.new_request_id(),
            time_ms=self._proposer.clock_ms(),
            digest=digest,
            was=fingerprint(before),
            content=after,
        )
        outcome = await self._proposer.propose(command, timeout_s)
        assert isinstance(outcome, outcomes.Repacked)
        return outcome.done


def _staying(reader: Reader, going: Collection[str]) -> list[str]:
    """What lies over them, and stays."""
    rows = Rows(reader)
    return sorted({each for digest in going for each in rows.deltas(digest) if each not in going})


def _off(reader: Reader, digest: str, going: Collection[str]) -> Repacking | None:
    """None: it lies over none of them any more."""
    rows = Rows(reader)
    row = rows.content(digest)
    return packing.repacking(rows, digest, going) if row is not None and row.base in going else None


def _unsettled(reader: Reader, digest: str) -> Repacking | None:
    """None: it is as small as it gets, large, or gone."""
    rows = Rows(reader)
    row = rows.content(digest)
    return None if row is None or row.settled or row.encoding == "chunks" else packing.repacking(rows, digest)
